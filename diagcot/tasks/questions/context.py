"""What the questions of one shard have in common: known labels, evidence in reports, and labels that occur together."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from typing import TypeVar

from diagcot.data import seeded
from diagcot.data.reports.labeler import mentions
from diagcot.data.study import CHEXPERT_LABELS, Study
from diagcot.tasks.questions.wording import Wording
from diagcot.tasks.views import StudyView

Case = TypeVar("Case")
NONE = "No Finding"
_LUNGS = ("Lung Opacity", "Lung Lesion", "Edema", "Consolidation", "Pneumonia", "Atelectasis")
_CLEAR = re.compile(r"[^.\n]*\blungs are (?:\w+ )?clear\b[^.\n]*")  # evidence that labels of `_LUNGS` are absent
_LONGEST = 20  # words of a sentence that a thought quotes
PATHOLOGIES = tuple(name for name in CHEXPERT_LABELS if name not in (NONE, "Support Devices"))


def known_labels(labels: Mapping[str, int]) -> dict[str, bool]:
    """Label -> whether it is present, for the labels that are known, No Finding among them.

    A label is known if it is stated present or absent. In a study of No Finding every pathology that is not mentioned is
    known to be absent.
    """
    known = dict.fromkeys(PATHOLOGIES, False) if labels.get(NONE) == 1 else {}
    known |= {name: value == 1 for name, value in labels.items() if value in (0, 1) and name != NONE}
    for name in (name for name, value in labels.items() if value == -1):
        known.pop(name, None)
    if any(known.get(name) for name in PATHOLOGIES):
        known[NONE] = False
    elif labels.get(NONE) == 1 and all(name in known for name in PATHOLOGIES):
        known[NONE] = True
    return known


def present_labels(study: Study) -> frozenset[str]:
    """The labels that the study states as present."""
    return frozenset(name for name, value in study.labels.items() if value == 1)


def in_words(*names: str) -> str:
    """Labels as they stand in a sentence: "edema, fracture and pneumonia"."""
    *most, last = [name.lower() for name in names]
    return f"{', '.join(most)} and {last}" if most else last


def sentence_case(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def balanced(groups: Mapping[str, list[Case]], rank: Callable[[Case], int]) -> dict[str, list[Case]]:
    """As many of each group as the smallest has, chosen by rank; nothing where there is only one group."""
    if len(groups) < 2:
        return {}
    least = min(map(len, groups.values()))
    return {name: sorted(cases, key=rank)[:least] for name, cases in sorted(groups.items())}


class QuestionContext:
    """The studies of a shard that a task asks about, the wording of the questions, and the seed of all choices."""

    def __init__(self, views: Sequence[StudyView], wording: Wording, seed: int) -> None:
        self.views, self.wording, self.seed = views, wording, seed
        self._evidence: dict[str, dict[str, str]] = {}

    def pick(self, view: StudyView, *keys: str) -> int:
        """A number that is fixed by the seed, the study, the first image of the view, and `keys`."""
        return seeded.rank(self.seed, view.study.key, view.images[0][0].id, *keys)

    @cached_property
    def together(self) -> Counter[tuple[str, str]]:
        """(label, other label) -> the number of studies that have both."""
        studies = {view.study.key: view.study for view in self.views}
        counts: Counter[tuple[str, str]] = Counter()
        for study in studies.values():
            present = present_labels(study)
            counts.update((name, other) for name in present for other in present if name != other)
        return counts

    def evidence(self, study: Study) -> dict[str, str]:
        """Label -> the first short sentence of the report that agrees with what is known of the label."""
        if study.key not in self._evidence:
            known, text = known_labels(study.labels), f"{study.findings}\n{study.impression}"
            clear = [(name, 0, found.group()) for found in _CLEAR.finditer(text.lower()) for name in _LUNGS]
            sentences: dict[str, str] = {}
            for name, status, sentence in (*mentions(text), *clear):
                words = sentence.replace("_", " ").split()
                if status == known.get(name) and len(words) <= _LONGEST:
                    sentences.setdefault(name, " ".join(words).strip(" ."))
            self._evidence[study.key] = sentences
        return self._evidence[study.key]

    def look(self, study: Study, names: Collection[str], pick: int, conclusion: str = "") -> str:
        """What the image shows of some labels: a sentence of the report for each, then what no sentence mentions.

        conclusion: a sentence on what follows from this.
        """
        known, evidence = known_labels(study.labels), self.evidence(study)
        asked = [name for name in CHEXPERT_LABELS if name in names and name != NONE]  # from the heart to the pleura
        quoted = dict.fromkeys(evidence[name] for name in asked if name in evidence)
        seen = [f"{sentence_case(sentence)}." for sentence in quoted]
        for name in (name for name in asked if name not in evidence):
            seen.append(self.wording.text("signs" if known.get(name) else "no_signs", pick, finding=in_words(name)))
        return self.wording.text("look", pick, seen=" ".join([*seen, conclusion]).strip())

    def hardest_first(self, study: Study, candidates: Sequence[str], present: Sequence[str]) -> list[str]:
        """Candidates, with those first that occur most often together with the present labels."""

        def order(name: str) -> tuple[int, int]:
            return -sum(self.together[label, name] for label in present), seeded.rank(self.seed, study.key, name)

        return sorted(candidates, key=order)

    def thought(self, name: str, true: bool, evidence: Mapping[str, str], pick: int) -> str:
        """Why a finding is judged present or absent; quotes the report where it has a sentence about the finding."""
        key = "present" if true else "absent"
        if name in evidence:
            seen = sentence_case(evidence[name])
            return self.wording.text(f"{key}_seen", pick, finding=in_words(name), evidence=seen)
        return self.wording.text(key, pick, finding=in_words(name))

    def nothing(self, found: Sequence[str], pick: int) -> str:
        """Why No Finding is right, or wrong because of what was found. It is judged after the findings."""
        if found:
            return self.wording.text("nothing_wrong", pick, findings=in_words(*found))
        return self.wording.text("nothing_right", pick)
