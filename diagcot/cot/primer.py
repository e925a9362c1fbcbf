"""Kind: worked examples of every conversation of the suite, written by rule from the training reports of phantoms.

A tiny model from random weights cannot follow an instruction that it never saw. Pre-trained on these examples it plays
teacher, verifier and judge with the very prompts and JSON layouts that the search and the filter use, so that the whole
chain runs for real at a size of minutes. A model that follows instructions needs no primer.
"""

import contextlib
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagcot.cot import judge, prompts
from diagcot.cot.settings import FilterSettings, PrimerSettings
from diagcot.data import tasks
from diagcot.data.prompts import report_answer
from diagcot.data.samples import ImageRef, Sample, write_samples
from diagcot.jobs.context import Context, Result, Unit
from diagcot.shards import Shard

SPLIT = "train"

_REGIONS = {  # the region of a sentence: the first whose words occur in it; every other sentence is about the lungs
    "pleura": re.compile(r"effusion|pneumothora|pleura|costophrenic"),
    "devices": re.compile(r"pacemaker|catheter|\bline\b|\btube\b|device|\blead"),
    "heart": re.compile(r"heart|cardi|mediastin|aort"),
    "bones": re.compile(r"\bbon|osseous|\brib|spine|fracture|degenerative"),
}
_ORDER = ("heart", "lungs", "pleura", "bones", "devices")


@dataclass(frozen=True)
class Reading:
    """A report as a reader would come to it: what is seen in each region, and what it means."""

    regions: dict[str, str]  # region -> its sentences, in `_ORDER`
    impression: str

    @staticmethod
    def of(findings: str, impression: str) -> "Reading":
        said: dict[str, list[str]] = {}
        for sentence in _sentences(findings):
            region = next((name for name, words in _REGIONS.items() if words.search(sentence)), "lungs")
            said.setdefault(region, []).append(sentence)
        return Reading(
            {name: ". ".join(said[name]) for name in _ORDER if name in said}, ". ".join(_sentences(impression))
        )

    @property
    def findings(self) -> str:
        return ". ".join(self.regions.values())

    @property
    def report(self) -> str:
        return report_answer(self.findings, self.impression)

    @property
    def steps(self) -> list[tuple[str, str]]:
        return list(self.regions.items())

    @property
    def reasoning(self) -> str:
        lines = [f"i look at the {name}: {text}." for name, text in self.regions.items()]
        return "\n".join([*lines, f"so this means {self.impression}."])

    def unlike(self, other: "Reading") -> str:
        """The first region, or the impression, in which two readings differ; empty where they agree."""
        names = [name for name in _ORDER if self.regions.get(name) != other.regions.get(name)]
        return names[0] if names else ("impression" if self.impression != other.impression else "")

    def spoiled(self, other: "Reading") -> "Reading":
        """This reading with the other's view of the first region in which they differ, and the other's impression."""
        region = self.unlike(other)
        regions = {name: text for name, text in self.regions.items() if name != region}
        if region in other.regions:
            regions[region] = other.regions[region]
        return Reading({name: regions[name] for name in _ORDER if name in regions}, other.impression)


@dataclass(frozen=True)
class Case:
    """What the examples of one study are written from."""

    reference: str
    right: Reading
    wrong: Reading

    @property
    def fault(self) -> str:
        return self.right.unlike(self.wrong)


@contextlib.contextmanager
def open(ctx: Context) -> Iterator[PrimerSettings]:
    yield PrimerSettings.model_validate(ctx.settings)


def run(unit: Unit, shared: PrimerSettings, ctx: Context) -> Result | None:
    """Examples of shard `unit.key`. Raises ValueError if a task of the settings is not known."""
    unknown = sorted(set(shared.tasks) - {*EXAMPLES, "report", "grounding"})
    if unknown:
        raise ValueError(f"unknown tasks of the primer: {', '.join(unknown)}; known: {', '.join(EXAMPLES)}")
    shard = Shard(Path(ctx.inputs["shards"][0]) / f"{unit.key}.h5")
    name = str(shard.path.relative_to(ctx.shards_root))
    samples = sorted(
        [*_direct(shard, name, shared), *_conversations(shard, name, shared)], key=lambda s: (s.id, s.task)
    )
    final = ctx.output / f"{unit.key}.jsonl"
    staged = ctx.staged(final)
    write_samples(staged, samples)
    return Result({final: staged}, dict(sorted(Counter(sample.task for sample in samples).items())))


def _direct(shard: Shard, name: str, settings: PrimerSettings) -> Iterator[Sample]:
    for task, make in (("report", tasks.report_samples), ("grounding", tasks.grounding_samples)):
        for sample in make(shard, name, SPLIT):
            if sample.meta.get("phantom"):
                yield from _repeated(sample, settings.tasks.get(task, 0.0))


def _conversations(shard: Shard, name: str, settings: PrimerSettings) -> Iterator[Sample]:
    found: list[tuple[Sample, Reading]] = []
    for sample in tasks.report_samples(shard, name, SPLIT):
        short = len(sample.answer.split()) <= settings.max_words
        if short and sample.meta.get("phantom") and sample.meta.get("view") not in ("LATERAL", "LL"):
            study = shard.study(shard.study_of(sample.images[0].row))
            reading = Reading.of(study.findings, study.impression)
            if reading.regions and reading.impression:
                found.append((sample, reading))
    for index, (sample, right) in enumerate(found):
        other = _other(found, index)
        if other is None:
            continue
        # Half of the wrong conclusions miss one region, half are another patient's altogether.
        wrong = other if _chance(sample.id, "wrong") < 0.5 else right.spoiled(other)
        case = Case(sample.answer, right, wrong if right.unlike(wrong) else other)
        for task, write in EXAMPLES.items():
            prompt, answer = write(case, sample.id)
            example = Sample(
                id=f"{sample.id}:{task}",
                task=task,
                study=sample.study,
                images=(ImageRef(name, sample.images[0].row),),
                messages=(("user", prompt), ("assistant", answer)),
                meta={"phantom": True},
            )
            yield from _repeated(example, settings.tasks.get(task, 0.0))


def _other(found: Sequence[tuple[Sample, Reading]], index: int) -> Reading | None:
    """Another patient's reading that differs, chosen by the sample's hash."""
    sample, right = found[index]
    start = int(_chance(sample.id, "other") * len(found))
    rows = (found[(start + step) % len(found)][1] for step in range(len(found)))
    return next((reading for reading in rows if right.unlike(reading)), None)


def _repeated(sample: Sample, weight: float) -> Iterator[Sample]:
    """The sample `weight` times on average over many: the whole part always, the rest by its hash."""
    count = int(weight) + (_chance(sample.id, sample.task) < weight - int(weight))
    for number in range(count):
        yield sample if not number else Sample(**{**vars(sample), "id": f"{sample.id}#{number}"})


def _chance(*parts: str) -> float:
    """A fixed number in [0, 1) for these words."""
    return int.from_bytes(hashlib.blake2b("\0".join(parts).encode(), digest_size=6).digest(), "big") / 2**48


def _sentences(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"(?<!\d)\.(?!\d)|\n", " ".join(text.lower().split())) if part.strip()]


def _thinking(reading: Reading, check: str, again: bool = False) -> str:
    rest = {
        "thinking": [{"title": title, "content": content} for title, content in reading.steps],
        "conclusion": reading.report,
    }
    return _json({"check": check} | rest if again else rest | {"check": check})


def _rethink(case: Case, sample_id: str) -> tuple[str, str]:
    strategy = prompts.STRATEGIES[int(_chance(sample_id, "strategy") * len(prompts.STRATEGIES))]
    steps = [*case.wrong.steps, ("conclusion", case.wrong.report)]
    prompt = prompts.rethink(case.reference, prompts.thinking_text(steps), strategy)
    return prompt, _thinking(case.right, f"the {case.fault} was wrong.", again=True)


def _verify(case: Case, right: bool) -> tuple[str, str]:
    shown = case.right if right else case.wrong
    reason = "all agree." if right else f"the {case.fault} differs."
    return prompts.verify(case.reference, shown.report), _json({"verdict": right, "reason": reason})


def _final(case: Case) -> tuple[str, str]:
    answer = {"findings": case.right.findings, "impression": case.right.impression}
    return prompts.final(case.reference, case.right.reasoning), _json(answer)


def _judge(case: Case, right: bool) -> tuple[str, str]:
    shown = case.right if right else case.wrong
    trace = {
        "task": "report",
        "form": "think",
        "images": [None],
        "guide": case.reference,
        "reasoning": shown.reasoning,
        "answer": shown.report,
    }
    one = {"reason": "it agrees." if right else f"the {case.fault} differs.", "score": judge.SCORES[-1 if right else 0]}
    return judge.prompt(trace, FilterSettings()), _json(dict.fromkeys(judge.CRITERIA, one))


def _json(value: dict[str, Any]) -> str:
    """The one layout that the server's constraint allows: no white space between the parts."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


EXAMPLES: dict[str, Callable[[Case, str], tuple[str, str]]] = {
    "init": lambda case, _: (prompts.init(case.reference), _thinking(case.right, "all agree.")),
    "verify_true": lambda case, _: _verify(case, True),
    "verify_false": lambda case, _: _verify(case, False),
    "rethink": _rethink,
    "label": lambda case, _: (prompts.label(case.reference), _thinking(case.right, "all agree.")),
    "rewrite": lambda case, _: (
        prompts.rewrite(case.reference, prompts.thinking_text(case.right.steps)),
        case.right.reasoning,
    ),
    "final": lambda case, _: _final(case),
    "judge_yes": lambda case, _: _judge(case, True),
    "judge_no": lambda case, _: _judge(case, False),
}
