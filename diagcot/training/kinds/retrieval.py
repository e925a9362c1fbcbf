"""Kind `retrieval`: whether a model's embeddings find the report of an image, and the image of a report.

The target of DiagCoT's first stage (arXiv:2509.06409), measured on the test split for any model of a chain. The embeddings
are those of `contrastive.Aligner`, so a model is measured exactly as the stage `align` trains and validates it.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from diagcot.jobs import Context, Result, Unit, UserError
from diagcot.jobs.state import reading
from diagcot.shards import Shard
from diagcot.shards.audit.seen import seen_in_run
from diagcot.tasks.diagnosis import report_samples
from diagcot.tasks.predictions import Prediction
from diagcot.tasks.samples import Sample, order
from diagcot.training.config.settings import RetrievalSettings
from diagcot.training.data import images as sources
from diagcot.training.distributed import process_group
from diagcot.training.losses import contrastive
from diagcot.training.losses.contrastive import Aligner
from diagcot.training.models import model
from diagcot.training.supervised import reports


@contextmanager
def prepare(ctx: Context) -> Iterator[RetrievalSettings]:
    """The stage's settings."""
    if process_group.device(ctx).type == "cpu":
        torch.set_num_threads(max(1, ctx.cpus))
    yield RetrievalSettings.model_validate(ctx.settings)


def run(unit: Unit, settings: RetrievalSettings, ctx: Context) -> Result | None:
    """Ranks of the pairs of `unit.params`: model (its stage), source (the shards' stage) and shards (their keys).

    Candidates are the pairs of the same collection. Returns None if it is asked to stop.
    """
    samples = test_pairs(unit, settings, ctx)
    embedded = embed(ctx.root("models", unit.params["model"]) / "model", samples, settings, ctx)
    if embedded is None:
        return None
    keys = [reports.word_key(sample.answer) for sample in samples]
    groups: dict[str, list[int]] = defaultdict(list)
    for index, sample in enumerate(samples):
        groups[sample.dataset].append(index)
    rows = []
    for members in groups.values():
        images, texts = (table[members] for table in embedded)
        found = contrastive.retrieve(images, texts, [keys[index] for index in members])
        for place, index in enumerate(members):
            ranks = {"report_rank": int(found.report_ranks[place]), "image_rank": int(found.image_ranks[place])}
            sample = replace(samples[index], task="retrieval", messages=_turns(samples[index])).with_meta(**ranks)
            nearest = samples[members[int(found.nearest[place])]].answer
            rows.append(Prediction.of(sample, unit.params["model"], nearest, "stop", "test").row())
    final = ctx.output / f"{unit.key}.jsonl"
    staged = ctx.staged(final)
    with reading.written(staged) as out:
        for row in sorted(rows, key=lambda row: row["id"]):
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
    return Result({final: staged}, {"samples": len(rows)})


def test_pairs(unit: Unit, settings: RetrievalSettings, ctx: Context) -> list[Sample]:
    """The report samples of the test split, as `evaluate` chooses them. Raises UserError if there are none.

    Samples with an image that the models were trained on are left out.
    """
    samples: list[Sample] = []
    seen = seen_in_run(ctx)
    for key in unit.params["shards"]:
        path = ctx.root("shards", unit.params["source"]) / f"{key}.h5"
        name = str(path.relative_to(ctx.shards_root))
        shard = Shard(path)
        unseen = (
            sample
            for sample in report_samples(shard, name, "test", settings.views)
            if not any(seen.why(shard, image.row) for image in sample.images)
        )
        samples += sorted(unseen, key=lambda sample: order(sample.id))[: settings.samples_per_shard]
    if not samples:
        raise UserError(f"the shards of {unit.params['source']} have no report in the test split; see its `held_out`")
    return samples


def embed(
    directory: Path, samples: Sequence[Sample], settings: RetrievalSettings, ctx: Context
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Images and reports of the samples, each (samples, hidden) of length 1 on the CPU; None if it is asked to stop.

    Both are centred on the mean of these reports, embedded by the model itself. The centre of the stage `align`, the mean
    over the reports that it trained on, is no part of a model and is not used.
    """
    processor, device, size = model.load_processor(directory), process_group.device(ctx), settings.micro_batch
    aligner = Aligner(model.load(directory, settings.precision), 1.0).eval().to(device)
    prepared = sources.prepared(processor, sources.ShardImages(ctx.shards_root))
    texts = reports.embed(aligner, aligner.width, samples, processor, ctx, size)
    aligner.centre = texts.mean(0).to(device)
    images: list[torch.Tensor] = []
    with torch.no_grad():
        for start in range(0, len(samples), size):
            if ctx.stopping():
                return None
            part = samples[start : start + size]
            batch = prepared.batch([ref for sample in part for ref in sample.images])
            batch["image_counts"] = torch.tensor([len(sample.images) for sample in part])
            moved = {name: value.to(device) for name, value in batch.items()}
            images.append(aligner(moved, "images").embeddings.cpu())
            ctx.progress(start + len(part), len(samples))
    return torch.cat(images), aligner.normalize(texts.to(device)).cpu()


def _turns(sample: Sample) -> tuple[tuple[str, str], ...]:
    """The images and the report: nothing is asked."""
    return ("user", "<image>" * len(sample.images)), ("assistant", sample.answer)
