"""Kind `align`: trains the projector, so that films speak the language of the language model (method.md 3.1)."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from diagcot.data.reports import labeler
from diagcot.jobs import Context, Result, Unit
from diagcot.tasks.samples import Sample
from diagcot.training.checkpoint import export
from diagcot.training.config.settings import AlignSettings
from diagcot.training.data import dataset
from diagcot.training.data.batch import IGNORED, Collator, Order
from diagcot.training.distributed import engine, process_group
from diagcot.training.losses import contrastive
from diagcot.training.models import freeze, model
from diagcot.training.models.inputs import model_input
from diagcot.training.supervised import loop


@contextmanager
def prepare(ctx: Context) -> Iterator[AlignSettings]:
    """Settings, checked before anything heavy, and the group of ranks."""
    settings = AlignSettings.model_validate(ctx.settings)
    settings.deepspeed.accumulation(ctx.world_size)
    process_group.connect(ctx)
    try:
        yield settings
    finally:
        process_group.disconnect()


def run(unit: Unit, settings: AlignSettings, ctx: Context) -> Result | None:
    """Train on pairs of film and report; writes a model directory, None when stopped before the end."""
    deepspeed, size = settings.deepspeed, settings.deepspeed.micro_batch
    base = model_input(ctx)
    processor = model.processor_of(base)
    collator = Collator(processor, ctx.shards_root, settings.max_length, settings.image_cache_mb)
    data = dataset.gather(ctx, {"report": 1.0}, 1.0, settings.validation)
    lengths, targets, cut = dataset.measure(ctx, data.train, collator)
    vlm = model.load(base, deepspeed.precision, engine.zero3_config(deepspeed, ctx))
    freeze.freeze(vlm, settings)
    counts = freeze.describe(vlm)
    aligner = contrastive.Aligner(vlm, settings.temperature)
    if without := next((sample.id for sample in [*data.train, *data.validation] if not sample.images), None):
        raise ValueError(f"sample {without} has no film: align learns from pairs of film and report")
    if settings.loss == "lm":
        aligner.log_scale.requires_grad_(False)
    order = Order(lengths, deepspeed.global_batch, size, ctx.seed)
    steps = loop.steps_of(deepspeed, order)
    ctx.event("training", samples=len(data.train), held_out=len(data.validation), cut=cut, steps=steps, **counts)
    trained = engine.initialize(aligner, deepspeed, ctx, steps)
    everyone = [*data.train, *data.validation]
    reports = embed(trained, everyone, processor, ctx, size)
    aligner.centre = reports[: len(data.train)].mean(0).to(process_group.device(ctx))
    passes = ctx.world_size * deepspeed.accumulation(ctx.world_size)
    words, keys = likeness(everyone, ctx)
    want: Any = "films" if settings.loss == "contrastive" else "films and language"

    def make(step: int) -> list[loop.Batch]:
        learned = sum(targets[index] for index in order.batch(step))
        made = []
        for indices in order.micro(step, ctx.rank, ctx.world_size):
            batch = collator([data.train[index] for index in indices])
            extra = {"share": torch.tensor(passes / learned), "report": reports[indices]}
            made.append({**batch, **extra, "key": keys[indices]})
        return made

    def slopes(films: list[torch.Tensor], scale: torch.Tensor, batches: list[loop.Batch]) -> contrastive.Slopes:
        texts, like = (torch.cat([batch[name] for batch in batches]).to(scale.device) for name in ("report", "key"))
        return contrastive.slopes(torch.cat(films), aligner.place(texts), like, scale)

    def prepare(trained: Any, batches: list[loop.Batch]) -> list[loop.Batch]:
        """With several passes a step, all its films are embedded once without gradients: the loss is over all of them."""
        if settings.loss == "lm" or len(batches) == 1:
            return batches
        with torch.no_grad():
            seen = [trained(_moved(batch, ctx), "films") for batch in batches]
        whole = slopes([films for films, _, _ in seen], seen[0][1], batches)
        parts = [whole._replace(to_films=rows) for rows in whole.to_films.split(size)]
        return [{**batch, **part._asdict()} for batch, part in zip(batches, parts, strict=True)]

    def objective(trained: Any, batch: loop.Batch) -> torch.Tensor:
        films, scale, loss = trained(batch, want)
        total = loss * batch["share"] if loss is not None else torch.zeros((), device=films.device)
        if settings.loss != "lm":
            known = (
                contrastive.Slopes(*(batch[name] for name in contrastive.Slopes._fields)) if "near" in batch else None
            )
            near = (known or slopes([films], scale, [batch])).surrogate(films, scale, passes)
            total = total + near * (settings.contrastive_weight if settings.loss == "combined" else 1.0)
        return total

    def validate(trained: Any) -> dict[str, float]:
        return held_out(
            trained, data.validation, reports[len(data.train) :], words[len(data.train) :], collator, ctx, size
        )

    runs = ("vision", "merger") if settings.loss == "contrastive" else loop.WHOLE
    task = loop.Task(order, make, objective, validate, runs, prepare)
    final = loop.train(ctx, trained, deepspeed, task, settings.validate_every)
    if final is None:
        return None
    return export.write(ctx, trained, processor, {**counts, **final, "samples": len(data.train), "cut": cut})


def embed(trained: Any, samples: Sequence[Sample], processor: Any, ctx: Context, size: int) -> torch.Tensor:
    """Mean last hidden state of each sample's report, (samples, hidden) float32. A collective.

    Each distinct report is computed once.
    """
    distinct = {sample.answer: None for sample in samples}
    place = {text: index for index, text in enumerate(distinct)}
    texts = list(distinct)
    where = process_group.device(ctx)
    tokenizer = processor.tokenizer
    table = torch.zeros(len(texts), trained.module.vlm.config.text_config.hidden_size)
    with torch.no_grad():
        for start in range(0, -(-len(texts) // (size * ctx.world_size)) * size * ctx.world_size, size * ctx.world_size):
            at = range(start + ctx.rank * size, min(start + (ctx.rank + 1) * size, len(texts)))
            rows = [texts[index] for index in at] or texts[:1]
            encoded = tokenizer(
                rows, return_tensors="pt", padding=True, padding_side="right", add_special_tokens=False
            ).to(where)
            mean = trained(dict(encoded), "reports")[0].cpu()
            if len(at):
                table[at.start : at.stop] = mean
    table = torch.from_numpy(process_group.sum_array(table.numpy())).float()
    return table[[place[sample.answer] for sample in samples]]


def held_out(
    trained: Any,
    samples: Sequence[Sample],
    reports: torch.Tensor,
    keys: Sequence[int],
    collator: Collator,
    ctx: Context,
    size: int,
) -> dict[str, float]:
    """Language-model loss and retrieval on held-out pairs, each rank computing its share. A collective."""
    if not samples:
        return {}
    films = torch.zeros(len(samples), reports.shape[1])
    total = targets = 0.0
    for start in range(0, len(samples), size * ctx.world_size):
        mine = range(start + ctx.rank * size, min(start + (ctx.rank + 1) * size, len(samples)))
        batch = _moved(collator([samples[i] for i in mine] or samples[:1]), ctx)
        embedded, _, loss = trained(batch, "films and language")
        if len(mine):
            films[mine.start : mine.stop] = embedded.cpu()
            total += float(loss)
            targets += float((batch["labels"][:, 1:] != IGNORED).sum())
    total, targets = process_group.sum_values([total, targets])
    everyone = torch.from_numpy(process_group.sum_array(films.numpy())).float()
    return {
        "loss": total / targets,
        **contrastive.recall(everyone, trained.module.place(reports.to(process_group.device(ctx))).cpu(), keys),
    }


def likeness(samples: Sequence[Sample], ctx: Context) -> tuple[list[int], torch.Tensor]:
    """Which reports say the same: (a number for the words of each sample's report, keys (samples, 2)).

    Pairs that agree in a column of the keys are no negatives of each other: in the first those of the same words, in the
    second all normals, by the rule labeler; there each other report has a number of its own. A collective.
    """
    words = [_words(sample.answer) for sample in samples]
    distinct = list(dict.fromkeys(words))
    texts = dict(zip(words, (sample.answer for sample in samples), strict=True))
    table = np.zeros(len(distinct))
    for index in range(ctx.rank, len(distinct), ctx.world_size):
        table[index] = normal(texts[distinct[index]])
    normals = dict(zip(distinct, process_group.sum_array(table), strict=True))
    return words, torch.tensor([[number, NORMAL if normals[number] else number] for number in words])


NORMAL = -1


def normal(report: str) -> bool:
    """Whether nothing is present or in doubt, support devices included."""
    found = labeler.label(report)
    return found.pop("No Finding", 0) == 1 and not any(found.values())


def _moved(batch: loop.Batch, ctx: Context) -> loop.Batch:
    return {name: value.to(process_group.device(ctx)) for name, value in batch.items()}


def _words(report: str) -> int:
    """Equal for reports of the same words."""
    words = " ".join(report.lower().split())
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:7], "big")
