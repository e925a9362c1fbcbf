"""Kind: chains of thought for the training films of one shard, many samples in flight on the task's server."""

import asyncio
import contextlib
import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from diagcot.cot.search import Answer, Question, Trace, search
from diagcot.cot.settings import CollectSettings
from diagcot.data import tasks
from diagcot.data.samples import Sample
from diagcot.jobs.context import Context, Result, Unit
from diagcot.jobs.ledger import Records
from diagcot.serving import Client, Request, Server, serve
from diagcot.shards import Shard

SPLIT = "train"


@contextlib.contextmanager
def open(ctx: Context) -> Iterator[Server]:
    settings = CollectSettings.model_validate(ctx.settings)
    with serve(Path(ctx.inputs["model"][0]) / "model", settings.server, ctx) as server:
        yield server


def run(unit: Unit, shared: Server, ctx: Context) -> Result | None:
    """Traces of shard `unit.key`, one JSON object a line (docs/cot.md). A sample that failed is a trace with its cause.

    Raises ServerError if the server cannot be kept alive; what was finished before is kept.
    """
    settings = CollectSettings.model_validate(ctx.settings)
    shard = Shard(Path(ctx.inputs["shards"][0]) / f"{unit.key}.h5")
    samples = chosen(shard, ctx.shards_root, settings)
    records = ctx.records(unit)
    try:
        todo = [sample for sample in samples if sample.id not in records]
        if todo and not ctx.stopping():
            asyncio.run(_Collection(shared, shard, settings, records, ctx, len(samples)).run(todo))
        if len(records) < len(samples):
            return None
        final = ctx.output / f"{unit.key}.jsonl"
        staged = ctx.staged(final)
        counts = {"samples": 0, "verified": 0, "forced": 0, "failed": 0, "calls": 0, "tokens": 0}
        with staged.open("w", encoding="utf-8") as out:
            for row in records.rows():
                out.write(json.dumps(row, ensure_ascii=False) + "\n")
                failed = row["error"] is not None
                counts["samples"] += 1
                counts["failed"] += failed
                counts["verified"] += row["verified"] and not failed
                counts["forced"] += row["forced"] and not failed
                counts["calls"] += row["calls"]
                counts["tokens"] += row["completion_tokens"]
        return Result({final: staged}, counts)
    finally:
        records.close()


def chosen(shard: Shard, shards_root: Path, settings: CollectSettings) -> list[Sample]:
    """The films of a shard that get a chain, the same for the same settings, whatever else the shard holds."""
    name = str(shard.path.relative_to(shards_root))
    found, studies = [], set()
    for sample in tasks.report_samples(shard, name, SPLIT, "study" if settings.views == "study" else "image"):
        frontal = sample.meta.get("view", "") not in ("LATERAL", "LL")
        if (settings.views == "frontal" and not frontal) or (settings.views == "first" and sample.study in studies):
            continue
        if len(sample.answer) <= settings.max_reference_chars:
            studies.add(sample.study)
            found.append(sample)
    found.sort(key=lambda sample: hashlib.blake2b(sample.id.encode(), digest_size=8).digest())
    return found[: settings.samples_per_shard]


class _Collection:
    """The samples of one unit on their way through the search."""

    def __init__(
        self, server: Server, shard: Shard, settings: CollectSettings, records: Records, ctx: Context, total: int
    ) -> None:
        self.server, self.shard, self.settings = server, shard, settings
        self.records, self.ctx, self.total = records, ctx, total
        self.calls = 0
        self.started = time.monotonic()

    async def run(self, samples: list[Sample]) -> None:
        """Until all are done, or the task is asked to stop and its grace is over."""
        waiting = iter(samples)
        running: set[asyncio.Task[None]] = set()
        stop_at: float | None = None
        async with self.server.client() as client:
            try:
                while True:
                    if self.ctx.stopping() and stop_at is None:
                        stop_at = time.monotonic() + self.settings.grace_s
                    while stop_at is None and len(running) < self.server.settings.window:
                        sample = next(waiting, None)
                        if sample is None:
                            break
                        running.add(asyncio.create_task(self._sample(client, sample)))
                    if not running or (stop_at is not None and time.monotonic() > stop_at):
                        return
                    done, running = await asyncio.wait(running, timeout=1, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        task.result()
                    self._progress(len(running))
            finally:
                for task in running:
                    task.cancel()
                await asyncio.gather(*running, return_exceptions=True)

    async def _sample(self, client: Client, sample: Sample) -> None:
        films = tuple(self.shard.jpeg(image.row) for image in sample.images)
        steps = search(sample.id, sample.answer, self.settings.search, self.ctx.seed)
        used = {"prompt_tokens": 0, "completion_tokens": 0}
        try:
            question = next(steps)
            while True:
                reply = await client.chat(self._request(sample, question, films))
                self.calls += 1
                used["prompt_tokens"] += reply.prompt_tokens
                used["completion_tokens"] += reply.completion_tokens
                finish = reply.finish[0] if reply.finish else "stop"
                question = steps.send(Answer(reply.text, finish, reply.error))
        except StopIteration as end:
            trace: Trace = end.value
        self.records.append(_row(sample, trace) | used)

    def _request(self, sample: Sample, question: Question, films: tuple[bytes, ...]) -> Request:
        return Request(
            id=sample.id,
            messages=(("user", question.prompt),),
            images=films,
            max_tokens=question.max_tokens,
            temperature=question.temperature,
            top_p=self.settings.search.top_p if question.temperature else 1.0,
            schema=question.schema,
            seed=question.seed,
        )

    def _progress(self, running: int) -> None:
        rate = self.calls / max(time.monotonic() - self.started, 1e-3)
        self.ctx.progress(len(self.records), self.total, in_flight=running, calls_per_s=round(rate, 1))


def _row(sample: Sample, trace: Trace) -> dict[str, Any]:
    """The trace as a record: films by reference, the model's words, and no pixels."""
    return {
        "id": sample.id,
        "study": sample.study,
        "images": [asdict(image) for image in sample.images],
        "reference": sample.answer,
        "meta": sample.meta,
        **asdict(trace),
    }
