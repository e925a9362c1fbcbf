"""Kind `collect`: chains of thought for the training images of one shard, many samples in flight on one server."""

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from diagcot.cot.records import DOUBLE, TraceRecord
from diagcot.cot.search.calls import Answer, Question, Trace
from diagcot.cot.search.interleaved import interleave
from diagcot.cot.search.replies import CONTRADICTION
from diagcot.cot.search.sample import CoTSample, select_samples
from diagcot.cot.search.search import search
from diagcot.cot.settings import CollectSettings
from diagcot.jobs import Context, Records, Result, Unit
from diagcot.jobs.state.identity import Ids
from diagcot.serving import Client, EncodedImage, Request, Server, ServingStats, serve
from diagcot.shards import Shard
from diagcot.tasks.prompt_set import PromptSet
from diagcot.tasks.samples import read_samples

_COUNTED = (
    "samples",
    "verified",
    "forced",
    "failed",
    "contradictory_verdicts",
    "calls",
    "prompt_tokens",
    "completion_tokens",
)


@dataclass(frozen=True)
class Servers:
    """The teacher, and the model that verifies its conclusions: the teacher itself unless there is a verifier."""

    teacher: Server
    verifier: Server


@contextlib.contextmanager
def prepare(ctx: Context) -> Iterator[Servers]:
    """Start the servers of teacher and verifier; two different models share the GPUs of the task."""
    settings = CollectSettings.model_validate(ctx.settings)
    teacher = Path(ctx.inputs["model"][0]) / "model"
    if not ctx.inputs.get("verifier"):
        with serve(teacher, settings.server, ctx) as server:
            yield Servers(server, server)
        return
    verifier, verifier_settings = Path(ctx.inputs["verifier"][0]) / "model", settings.verifier or settings.server
    with (
        serve(teacher, settings.server, ctx, share=(0, 2)) as server,
        serve(verifier, verifier_settings, ctx, share=(1, 2)) as verifier_server,
    ):
        yield Servers(server, verifier_server)


def run(unit: Unit, shared: Servers, ctx: Context) -> Result | None:
    """Write the traces of shard `unit.key`, one JSON object a line (docs/cot.md); a failed sample is a trace with `error`.

    Raises ServerError if a server cannot be kept alive (finished traces are kept), UserError for questions that are
    not about the training studies of this shard.
    """
    settings = CollectSettings.model_validate(ctx.settings)
    shard = Shard(Path(ctx.inputs["shards"][0]) / f"{unit.key}.h5")
    questions = read_samples(Path(ctx.inputs["samples"][0]) / f"{unit.key}.jsonl") if settings.questions else ()
    samples = select_samples(shard, ctx.shards_root, settings, questions, settings.prompts)
    ids = Ids("the sample", DOUBLE)  # a double would never be done: there is one record for each id
    for sample in samples:
        ids.add(sample.id, shard.path)
    records = ctx.records(unit)
    try:
        served: dict[str, float] = {}
        # Samples of one study follow each other: their prompts begin with the same images and report.
        open_samples = sorted((row for row in samples if row.id not in records), key=lambda row: (row.study, row.id))
        if open_samples and not ctx.stopping():
            _Collection(shared, shard, settings, records, ctx, len(samples)).run(open_samples)
            counted = shared.teacher.stats.counts()
            served = {name: counted[name] for name in ("cached_tokens", "told_tokens")}  # of this execution only
        if len(records) < len(samples):
            return None
        final = ctx.output / f"{unit.key}.jsonl"
        staged = ctx.staged(final)
        counts = Counter(dict.fromkeys(_COUNTED, 0))
        with staged.open("w", encoding="utf-8") as out:
            for row in records.rows():
                out.write(json.dumps(row, ensure_ascii=False) + "\n")
                counts.update(_counts(row))
        needed = {"needed": {"traces": counts["samples"]}}
        return Result({final: staged}, dict(counts) | served | needed)
    finally:
        records.close()


class _Collection:
    """The searches of the samples of one unit."""

    def __init__(
        self, servers: Servers, shard: Shard, settings: CollectSettings, records: Records, ctx: Context, total: int
    ) -> None:
        self.servers, self.shard, self.settings = servers, shard, settings
        self.records, self.ctx, self.total = records, ctx, total
        self.texts = settings.prompts
        self.counts: Counter[str] = Counter()  # of all records, including those of earlier executions
        for row in records.rows():
            self.counts.update(_counts(row))
        self._verifier: Client | None = None  # open while a sample is in flight, unless the teacher verifies
        self._running = 0

    def run(self, samples: list[CoTSample]) -> None:
        """Search until all samples are done, or until the task is asked to stop and its grace period is over."""
        flow = self.servers.teacher.each(
            samples, self._collect, stopping=self.ctx.stopping, grace_s=self.settings.grace_s, progress=self._progress
        )
        for row in flow:
            self.records.append(row)
            self.counts.update(_counts(row))

    async def _collect(self, teacher: Client, sample: CoTSample) -> TraceRecord:
        self._running += 1
        try:
            return await self._search(teacher, self._verifier_client() or teacher, sample)
        finally:
            self._running -= 1
            if not self._running and self._verifier is not None:  # a client lives in one event loop
                await self._verifier.__aexit__(None, None, None)
                self._verifier = None

    def _verifier_client(self) -> Client | None:
        """The verifier's client, if it is another model than the teacher."""
        if self._verifier is None and self.servers.verifier is not self.servers.teacher:
            self._verifier = self.servers.verifier.client()
        return self._verifier

    async def _search(self, teacher: Client, verifier: Client, sample: CoTSample) -> TraceRecord:
        images = tuple(EncodedImage(self.shard.jpeg(image.row)) for image in sample.images)
        find = search if sample.trace_format == "think" else interleave
        steps = find(sample, self.settings.search, self.ctx.seed, self.texts)
        used = {"prompt_tokens": 0, "completion_tokens": 0}
        try:
            question = next(steps)
            while True:
                client = verifier if question.name == "verify" else teacher
                asked = self._request(sample, question, images)
                if client is verifier and not client.takes_images:  # it compares two texts
                    asked = asked.without_images
                reply = await client.chat(asked)
                used["prompt_tokens"] += reply.prompt_tokens
                used["completion_tokens"] += reply.completion_tokens
                finish = reply.finish_reasons[0] if reply.finish_reasons else "stop"
                question = steps.send(Answer(reply.text, finish, reply.error))
        except StopIteration as end:
            return cast(TraceRecord, _row(sample, end.value, self.texts) | used)

    def _request(self, sample: CoTSample, question: Question, images: tuple[bytes, ...]) -> Request:
        return Request(
            id=sample.id,
            messages=question.messages,
            images=images,
            max_tokens=question.max_tokens,
            temperature=question.temperature,
            top_p=self.settings.search.top_p if question.temperature else 1.0,
            schema=question.schema,
            seed=question.seed,
        )

    def _progress(self, stats: ServingStats) -> None:
        counts = {name: self.counts[name] for name in ("verified", "forced", "failed")}
        self.ctx.progress(len(self.records), self.total, **stats.figures(), **counts)


def _row(sample: CoTSample, trace: Trace, texts: PromptSet) -> dict[str, Any]:
    """The trace as a record: images by reference, without pixels."""
    return {
        "id": sample.id,
        "task": sample.task,
        "form": sample.trace_format,
        "study": sample.study,
        "images": [asdict(image) for image in sample.images],
        "question": sample.question,
        "reference": sample.reference,
        "guide": sample.reference_report,
        "prompts": f"{texts.about.name}@{texts.digest}",
        "meta": sample.meta,
        **vars(trace),
        "by": trace.by,
    }


def _counts(row: TraceRecord) -> Counter[str]:
    """What one trace adds to the counts of its unit; `by_<step>` names the step that succeeded."""
    failed = row["error"] is not None
    counts = {
        "samples": 1,
        "verified": int(row["verified"] and not failed),
        "forced": int(row["forced"] and not failed),
        "failed": int(failed),
        "contradictory_verdicts": sum(CONTRADICTION in entry["reason"] for entry in row["verdicts"]),
        **{name: row[name] for name in ("calls", "prompt_tokens", "completion_tokens")},
    }
    return Counter(counts if failed else counts | {f"by_{row['by']}": 1})
