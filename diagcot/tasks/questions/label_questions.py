"""Questions about the labels of a study: binary, single choice, multiple choice, open (method.md 7.2).

Only labels that are known are asked about or offered: stated present or absent; and in a study of No Finding every
pathology that nothing else is said of is absent. A label in doubt, or not mentioned, is neither asked about nor offered.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import combinations

from diagcot.data.reports.labeler import mentions
from diagcot.data.study import CHEXPERT_LABELS, Study
from diagcot.tasks.diagnosis import Shown
from diagcot.tasks.questions.wording import Words
from diagcot.tasks.questions.worked_answers import LETTERS, Draft, Option, chance, opened
from diagcot.tasks.samples import Sample

NONE = "No Finding"
PATHOLOGIES = tuple(name for name in CHEXPERT_LABELS if name not in (NONE, "Support Devices"))
HYPOTHESES = 3  # absent findings that an open question weighs beside the present ones
_SETS_OF = 6  # findings that a question of multiple choice is about, at most


def known(labels: Mapping[str, int]) -> dict[str, bool]:
    """Label -> whether it is present, for the labels that are known; No Finding among them."""
    found = dict.fromkeys(PATHOLOGIES, False) if labels.get(NONE) == 1 else {}
    found |= {name: value == 1 for name, value in labels.items() if value in (0, 1) and name != NONE}
    for name in (name for name, value in labels.items() if value == -1):
        found.pop(name, None)
    if any(found.get(name) for name in PATHOLOGIES):
        found[NONE] = False
    elif labels.get(NONE) == 1 and all(name in found for name in PATHOLOGIES):
        found[NONE] = True
    return found


def evidence(study: Study) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, status, sentence in mentions(f"{study.findings}\n{study.impression}"):
        if status == study.labels.get(name):
            found.setdefault(name, " ".join(sentence.replace("_", " ").split()).strip(" ."))
    return found


class Weighing:
    """What is known of the studies of a shard, which labels go together in them, and thoughts about one label."""

    def __init__(self, shown: Sequence[Shown], words: Words, seed: int) -> None:
        self.shown, self.words, self.seed = shown, words, seed
        self._evidence: dict[str, dict[str, str]] = {}

    @cached_property
    def together(self) -> Counter[tuple[str, str]]:
        """How many studies have both of two labels."""
        studies = {shown.study.key: shown.study for shown in self.shown}
        met: Counter[tuple[str, str]] = Counter()
        for study in studies.values():
            present = [name for name, value in study.labels.items() if value == 1]
            met.update((one, two) for one in present for two in present if one != two)
        return met

    def evidence(self, study: Study) -> dict[str, str]:
        """Label -> the first sentence of the report that says what the label says."""
        if study.key not in self._evidence:
            self._evidence[study.key] = evidence(study)
        return self._evidence[study.key]

    def hard(self, study: Study, candidates: Sequence[str], present: Sequence[str]) -> list[str]:
        """Candidates with those first that go with the present labels most often."""

        def rank(name: str) -> tuple[int, int]:
            return -sum(self.together[one, name] for one in present), chance(self.seed, study.key, name)

        return sorted(candidates, key=rank)

    def thought(self, name: str, true: bool, said: Mapping[str, str], pick: int) -> str:
        """Why a finding is held to be there, or not: by the report's own sentence where there is one."""
        if name == NONE:
            return self.words.say("right_choice" if true else "wrong_choice", pick, choice=name)
        key = "present" if true else "absent"
        if name in said:
            return self.words.say(f"{key}_seen", pick, finding=spoken(name), evidence=said[name])
        return self.words.say(key, pick, finding=spoken(name))


def spoken(name: str) -> str:
    return name.lower()


def binary(weighing: Weighing) -> Iterator[Draft]:
    """Yes or no about one finding; of each finding as many of either answer, chosen by hash."""
    cases: dict[tuple[str, bool], list[tuple[int, Shown]]] = {}
    for shown in weighing.shown:
        for name, true in known(shown.study.labels).items():
            if name != NONE:
                pick = chance(weighing.seed, shown.study.key, shown.films[0][0].id, "binary", name)
                cases.setdefault((name, true), []).append((pick, shown))
    for name in CHEXPERT_LABELS:
        sides = [sorted(cases.get((name, true), []), key=lambda case: case[0]) for true in (True, False)]
        count = min(map(len, sides))
        for side, true in zip(sides, (True, False), strict=True):
            for pick, shown in side[:count]:
                thought = weighing.thought(name, true, weighing.evidence(shown.study), pick)
                yes_no = ("Yes", "No") if true else ("No", "Yes")
                wrong = weighing.words.say("wrong_choice", pick, choice=yes_no[1])
                options = (Option(yes_no[0], thought), Option(yes_no[1], wrong))
                yield Draft("binary", shown, name, options, {"finding": spoken(name)}, {"label": name})


def single(weighing: Weighing) -> Iterator[Draft]:
    """One present finding, or none, among up to six absent ones that often go with what is present.

    No Finding is always offered where it is known, is right no more often than the most frequent finding, and comes
    with as many other options as findings do, so that neither its presence nor their number gives the answer away.
    """
    ill: list[Draft] = []
    well: list[Draft] = []
    for shown in weighing.shown:
        study, labels = shown.study, known(shown.study.labels)
        present = [name for name, true in labels.items() if true]
        absent = weighing.hard(study, [name for name, true in labels.items() if not true and name != NONE], present)
        if not present or len(absent) < 2:
            continue
        pick = chance(weighing.seed, study.key, shown.films[0][0].id, "single")
        # Whatever else is true is not offered: a device beside No Finding, one finding beside another.
        right = NONE if NONE in present else min(present, key=lambda name: chance(weighing.seed, str(pick), name))
        offered = [right, *([NONE] if NONE in labels and right != NONE else []), *absent][: len(LETTERS)]
        said = weighing.evidence(study)
        options = tuple(Option(name, weighing.thought(name, name == right, said, pick)) for name in offered)
        (well if right == NONE else ill).append(Draft("single", shown, "", options, meta={"label": right}))
    most = max(Counter(draft.meta["label"] for draft in ill).values(), default=0)
    well.sort(key=lambda draft: chance(weighing.seed, draft.key))
    sizes = sorted(len(draft.options) for draft in ill)
    yield from ill
    for draft in well[:most]:
        size = sizes[chance(weighing.seed, draft.key, "size") % len(sizes)]
        yield replace(draft, options=draft.options[:size])


def multi(weighing: Weighing) -> Iterator[Draft]:
    """The set of present findings among other sets from the same list; for studies with two or more present."""
    for shown in weighing.shown:
        study = shown.study
        labels = {name: true for name, true in known(study.labels).items() if name != NONE}
        present = [name for name in CHEXPERT_LABELS if labels.get(name)][: _SETS_OF - 1]
        truly = sum(labels.values())
        absent = weighing.hard(study, [name for name, true in labels.items() if not true], present)
        if len(present) < 2 or truly > len(present) or not absent:
            continue
        pick = chance(weighing.seed, study.key, shown.films[0][0].id, "multi")
        listed = sorted([*present, *absent[: _SETS_OF - len(present)]], key=CHEXPERT_LABELS.index)
        # Three sizes, of which that of the right set is not always the middle one.
        least = max(1, len(present) - pick % 3)
        sets = [
            chosen
            for size in range(least, least + 3)
            for chosen in combinations(listed, size)
            if set(chosen) != set(present)
        ]
        sets.sort(key=lambda chosen: chance(weighing.seed, str(pick), *chosen))
        options = [Option(_joined(present), weighing.words.say("right_set", pick, findings=_joined(present)))]
        for chosen in sets[: len(LETTERS) - 1]:
            missing = [name for name in present if name not in chosen]
            surplus = [name for name in chosen if name not in present]
            think = weighing.words.say(
                "wrong_set", pick, findings=_joined(chosen), missing=_joined(missing), surplus=_joined(surplus)
            )
            options.append(Option(_joined(chosen), think))
        places = {"findings": ", ".join(map(spoken, listed))}
        yield Draft("multi", shown, "", tuple(options), places, {"labels_present": present, "labels_asked": listed})


def open_question(weighing: Weighing, ref_name: str) -> Iterator[Sample]:
    """All present findings, or No Finding; for studies with nothing in doubt.

    The worked answer weighs the present findings and up to `HYPOTHESES` absent ones that often go with them.
    """
    for shown in weighing.shown:
        study, labels = shown.study, known(shown.study.labels)
        present = [name for name, true in labels.items() if true and name != "Support Devices"]
        if not present or -1 in study.labels.values():
            continue
        pick = chance(weighing.seed, study.key, shown.films[0][0].id, "open")
        absent = weighing.hard(study, [name for name, true in labels.items() if not true], present)
        weighed = [*present, *(name for name in absent if name != "Support Devices")][: len(present) + HYPOTHESES]
        weighed.sort(key=lambda name: chance(weighing.seed, str(pick), name))
        said, truth = weighing.evidence(study), set(present)
        hypotheses = [(name, weighing.thought(name, name in truth, said, pick), name in truth) for name in weighed]
        observed = weighing.words.say("observed", pick, findings=_joined(weighed))
        answer = ", ".join(name for name in weighed if name in truth)
        summary = weighing.words.say("summary", pick, answer=answer)
        prompt = weighing.words.say("open", pick, steps=weighing.words.say("open_steps", pick))
        trace = opened(observed, hypotheses, summary)
        yield shown.sample("open", ref_name, prompt, trace, "open", labels_present=present, labels_weighed=weighed)


def _joined(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "nothing"
