"""What the questions of one shard have in common: known labels, evidence in reports, and labels that occur together."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property

from diagcot.data import seeded
from diagcot.data.reports.labeler import mentions
from diagcot.data.study import CHEXPERT_LABELS, Study
from diagcot.tasks.questions.wording import Wording
from diagcot.tasks.views import StudyView

NONE = "No Finding"
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


def in_words(name: str) -> str:
    """A label as it stands in a sentence."""
    return name.lower()


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
        """Label -> the first sentence of the report that agrees with the label."""
        if study.key not in self._evidence:
            sentences: dict[str, str] = {}
            for name, status, sentence in mentions(f"{study.findings}\n{study.impression}"):
                if status == study.labels.get(name):
                    sentences.setdefault(name, " ".join(sentence.replace("_", " ").split()).strip(" ."))
            self._evidence[study.key] = sentences
        return self._evidence[study.key]

    def hardest_first(self, study: Study, candidates: Sequence[str], present: Sequence[str]) -> list[str]:
        """Candidates, with those first that occur most often together with the present labels."""

        def order(name: str) -> tuple[int, int]:
            return -sum(self.together[label, name] for label in present), seeded.rank(self.seed, study.key, name)

        return sorted(candidates, key=order)

    def thought(self, name: str, true: bool, evidence: Mapping[str, str], pick: int) -> str:
        """Why a finding is judged present or absent; quotes the report where it has a sentence about the finding."""
        if name == NONE:
            return self.wording.text("right_choice" if true else "wrong_choice", pick, choice=name)
        key = "present" if true else "absent"
        if name in evidence:
            return self.wording.text(f"{key}_seen", pick, finding=in_words(name), evidence=evidence[name])
        return self.wording.text(key, pick, finding=in_words(name))
