"""Kind: one model's greedy answers to one task on the test studies of one shard."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from diagcot.data import tasks
from diagcot.data.samples import Sample
from diagcot.evaluation.predictions import Prediction, order
from diagcot.evaluation.settings import EvaluateSettings
from diagcot.jobs.context import Context, Result, Unit
from diagcot.jobs.errors import UserError
from diagcot.serving import Request, Server, serve
from diagcot.shards import Shard

SPLIT = "test"  # nothing else of the suite reads it


class Predictor:
    """The one server of a task, started with the first unit's model and switched to each later one."""

    def __init__(self, ctx: Context, stack: ExitStack) -> None:
        self.settings = EvaluateSettings.model_validate(ctx.settings)
        self._ctx, self._stack = ctx, stack
        self._server: Server | None = None

    def server(self, model: Path) -> Server:
        """The server with the weights of `model` in it."""
        if self._server is None:
            self._server = self._stack.enter_context(serve(model, self.settings.server, self._ctx))
        else:
            self._server.load(model)
        return self._server


@contextmanager
def open(ctx: Context) -> Iterator[Predictor]:
    with ExitStack() as stack:
        yield Predictor(ctx, stack)


def run(unit: Unit, shared: Predictor, ctx: Context) -> Result | None:
    """Answers of `unit.params`: model (its stage), task, source (the shards' stage) and shard.

    A request that failed is a prediction with no text: it counts as a miss. Raises UserError if all of them failed.
    """
    settings, task = shared.settings, unit.params["task"]
    shard = Shard(_root(ctx, "shards", unit.params["source"]) / f"{unit.params['shard']}.h5")
    samples = {sample.id: sample for sample in test_samples(shard, ctx.shards_root, task, settings)}
    records = ctx.records(unit)
    failed: dict[str, str] = {}
    todo = [sample for sample in samples.values() if sample.id not in records.ids]
    if todo and not ctx.stopping():
        server = shared.server(_root(ctx, "models", unit.params["model"]) / "model")
        max_tokens = getattr(settings.max_tokens, task)
        requests = (
            Request(sample.id, sample.messages[:-1], _films(shard, sample), max_tokens=max_tokens) for sample in todo
        )
        for sample_id, reply in server.complete(requests, stopping=ctx.stopping):
            if reply.error:
                failed[sample_id] = reply.error
                continue
            finish = reply.finish[0] if reply.finish else "stop"
            records.append(_prediction(samples[sample_id], unit, reply.text, finish).row())
            ctx.progress(len(records), len(samples), model=unit.params["model"], task=task)
    if len(records) + len(failed) < len(samples):
        records.close()
        return None
    if failed and len(failed) == len(samples):
        records.close()
        raise UserError(f"the server answered none of {len(samples)} requests: {next(iter(failed.values()))}")
    rows = [*records.rows(), *(_prediction(samples[name], unit, "", "error").row() for name in failed)]
    records.close()
    final = ctx.output / f"{unit.key}.jsonl"
    staged = ctx.staged(final)
    with staged.open("w", encoding="utf-8") as out:
        for row in sorted(rows, key=lambda row: row["id"]):
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
    unfinished = sum(row["finish"] == "length" for row in rows)
    return Result({final: staged}, {"samples": len(rows), "failed": len(failed), "cut_at_max_tokens": unfinished})


def test_samples(shard: Shard, shards_root: Path, task: str, settings: EvaluateSettings) -> list[Sample]:
    """The test samples of a shard in the order of their ids; of too many, the same ones for every model."""
    name = str(shard.path.relative_to(shards_root))
    samples = sorted(tasks.SAMPLES[task](shard, name, SPLIT, settings.views), key=lambda sample: order(sample.id))
    return sorted(samples[: settings.samples_per_shard], key=lambda sample: sample.id)


def _root(ctx: Context, role: str, stage: str) -> Path:
    """The output root of the input stage of that name."""
    return next(Path(root) for root in ctx.inputs[role] if Path(root).name == stage)


def _films(shard: Shard, sample: Sample) -> tuple[bytes, ...]:
    return tuple(shard.jpeg(image.row) for image in sample.images)


def _prediction(sample: Sample, unit: Unit, text: str, finish: str) -> Prediction:
    return Prediction.of(sample, unit.params["model"], text, finish, bool(sample.meta.get("phantom")))
