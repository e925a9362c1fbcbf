"""The parts of the benchmark: which samples, how many of them in a step, and who takes part."""

import itertools
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

WORLD = 2
WARM = 4  # steps at the start that are not counted
MODEL, SAMPLES, SHARD = "model", "mixed-samples", "shard"
SIZES = (112, 224, 336)  # pixels of the mixed images: 16, 64 and 144 visual tokens
THOUGHT_WORDS, VOCABULARY = 480, 400  # of the mixed part: about 43 tokens a report, 594 with its chain of thought


@dataclass(frozen=True)
class Part:
    """Samples of a kind, and the contenders, each once a round.

    global_batch: samples of a step. micro_batch: of a padded pass of a rank. packed_tokens: most tokens of a packed pass.
    steps: all of a run, the first WARM of which are not counted.
    """

    name: str
    contenders: tuple[str, ...]
    settings: dict[str, Any]
    global_batch: int
    micro_batch: int
    packed_tokens: int
    steps: int

    def deepspeed(self, packed: bool) -> dict[str, Any]:
        """Settings of the optimisation."""
        return {
            "steps": self.steps, "micro_batch": self.micro_batch, "global_batch": self.global_batch, "learning_rate": 1e-3,
            "schedule": "constant", "precision": "fp32", "save_every": 10_000,
            **({"micro_batch_tokens": self.packed_tokens} if packed else {}),
        }  # fmt: skip


_SETTINGS = {"trainable": ["language_model", "merger"], "validation": 0, "max_length": 1024}
LIKE = Part(
    "like", ("ours", "packed", "trainer", "trainer_our_collator"), _SETTINGS | {"tasks": {"report": 1.0}},
    global_batch=8, micro_batch=4, packed_tokens=4096, steps=24,
)  # fmt: skip
MIXED = Part(
    "mixed", ("ours", "packed", "packed_windows", "trainer", "trainer_our_collator"), _SETTINGS | {"tasks": {}},
    global_batch=32, micro_batch=4, packed_tokens=4096, steps=14,
)  # fmt: skip
PARTS = {part.name: part for part in (LIKE, MIXED)}


def prepare(root: Path, part: Part) -> None:
    """Phantoms, shards of them, and a tiny model whose tokenizer knows their reports, below `root`."""
    if part is LIKE:
        # Two images a study, a tenth of the patients held out twice: enough for one epoch.
        _shard(root, SHARD, studies=160, size=256)
        _model(root, 112, 1200, shards=[str(root / "shards/test" / SHARD)])
        return
    for size in SIZES:
        _shard(root, f"{SHARD}-{size}", studies=110, size=size)
    _write_mixed(root, part)
    _model(root, max(SIZES), VOCABULARY, samples=[str(root / "shards/test" / SAMPLES)])


def inputs(root: Path, part: Part) -> dict[str, list[str]]:
    """The inputs of a stage of this part."""
    made = root / "shards/test"
    data = {"shards": [str(made / SHARD)]} if part is LIKE else {"samples": [str(made / SAMPLES)]}
    return {"model": [str(made / MODEL)], **data}


def _shard(root: Path, name: str, studies: int, size: int) -> None:
    from diagcot.data.phantom import build as phantoms
    from diagcot.jobs import Unit
    from diagcot.jobs.testing import context, run_unit
    from diagcot.shards import build as shards

    tree = context(root, {"studies": studies, "size": size, "held_out": 0.1}, stage=f"phantoms-{name}", seed=size)
    assert run_unit(phantoms, Unit("tree"), tree)
    source = {"kind": "mimic_cxr", "input": "phantoms"}
    made = context(root, {"sources": [source], "image_size": size}, stage=name, inputs={"phantoms": [str(tree.output)]})
    assert run_unit(shards, Unit("00000"), made)


def _model(root: Path, pixels: int, vocabulary: int, **texts: list[str]) -> None:
    from diagcot.jobs import Unit
    from diagcot.jobs.testing import context, run_unit
    from diagcot.training.kinds import model

    tiny = {"max_pixels": pixels * pixels, "tiny": {"vocabulary": vocabulary}}
    assert run_unit(model, Unit("model"), context(root, tiny, stage=MODEL, inputs=texts))


def _write_mixed(root: Path, part: Part) -> None:
    """Reports, every other one with a chain of thought before it, on images of all sizes, in a drawn order.

    The thoughts are sentences of other reports: their words have no part in what a step costs.
    """
    from diagcot.shards import Shard, shard_paths
    from diagcot.tasks.diagnosis import report_samples
    from diagcot.tasks.prompts import reasoned
    from diagcot.tasks.samples import write_samples

    draw, reports = random.Random(7), []
    for size in SIZES:
        path = shard_paths(root / "shards/test" / f"{SHARD}-{size}")[0]
        found = report_samples(Shard(path), str(path.relative_to(root / "shards")), "train")
        reports += [replace(sample, id=f"{size}/{sample.id}", study=f"{size}/{sample.study}") for sample in found]
    draw.shuffle(reports)
    words = list(itertools.chain.from_iterable(sample.answer.split() for sample in reports))
    mixed = []
    for number, sample in enumerate(reports[: part.global_batch * part.steps]):
        if number % 2:
            start = draw.randrange(len(words) - THOUGHT_WORDS)
            thought = " ".join(words[start : start + THOUGHT_WORDS])
            answer = reasoned(thought, sample.answer)
            sample = replace(sample, messages=(*sample.messages[:-1], ("assistant", answer)))  # noqa: PLW2901
        mixed.append(sample)
    assert len(mixed) == part.global_batch * part.steps, f"{len(mixed)} samples are too few"
    folder = root / "shards/test" / SAMPLES
    folder.mkdir(parents=True)
    write_samples(folder / "00000.jsonl", mixed)
