"""The searches of a task: the samples of its units, unit after unit, in one stream through its servers."""

from collections import Counter
from collections.abc import Generator, Iterator
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
from diagcot.jobs import Context, Unit
from diagcot.serving import Client, EncodedImage, Request, Server, ServingStats
from diagcot.shards import Shard
from diagcot.tasks.identity import Ids
from diagcot.tasks.prompt_set import PromptSet
from diagcot.tasks.samples import read_samples

SERVED = ("cached_tokens", "told_tokens")
"""Counts of this execution alone: records do not have them."""


@dataclass(frozen=True)
class Servers:
    """The teacher, and the model that verifies its conclusions: the teacher itself unless there is a verifier."""

    teacher: Server
    verifier: Server


class UnitTraces:
    """The samples of one unit, and the traces of those that are finished. Raises UserError as `collect.run` does."""

    def __init__(self, unit: Unit, settings: CollectSettings, ctx: Context) -> None:
        self.shard = Shard(Path(ctx.inputs["shards"][0]) / f"{unit.key}.h5")
        questions = read_samples(Path(ctx.inputs["samples"][0]) / f"{unit.key}.jsonl") if settings.questions else ()
        self.samples = select_samples(self.shard, ctx.shards_root, settings, questions, settings.prompts)
        ids = Ids("the sample", DOUBLE)  # a double would never be done: there is one record for each id
        for sample in self.samples:
            ids.add(sample.id, self.shard.path)
        self.records = ctx.records(unit)
        self.counts: Counter[str] = Counter()  # of all records, including those of earlier executions
        for row in self.records.rows():
            self.counts.update(counts_of(row))

    @property
    def complete(self) -> bool:
        """True if every sample has its trace."""
        return len(self.records) >= len(self.samples)

    def missing(self) -> list[CoTSample]:
        """Samples without a trace. Those of one study follow each other: their prompts begin with the same images and report."""
        return sorted((row for row in self.samples if row.id not in self.records), key=lambda row: (row.study, row.id))

    def add(self, row: TraceRecord) -> None:
        """Keep a finished trace."""
        self.records.append(row)
        self.counts.update(counts_of(row))


class Collection:
    """The searches of the units of a task.

    A sample asks up to 16 questions one after the other, so a unit ends with few samples in flight. The places that become
    free then are taken by samples of the task's next units; their traces are kept with those units' records.
    """

    def __init__(self, servers: Servers, ctx: Context) -> None:
        self.servers, self.ctx = servers, ctx
        self.settings = CollectSettings.model_validate(ctx.settings)
        self._opened: dict[str, UnitTraces] = {}
        self._streamed: list[str] = []  # keys of the units whose samples the stream has or will have
        self._stream: Generator[tuple[UnitTraces, TraceRecord]] | None = None
        self._served = dict.fromkeys(SERVED, 0.0)  # counted for units so far
        self._current: UnitTraces | None = None
        self._verifier: Client | None = None  # open while a sample is in flight, unless the teacher verifies
        self._in_flight = 0

    def open(self, unit: Unit) -> UnitTraces:
        """The traces of a unit; `release` closes them."""
        if unit.key not in self._opened:
            self._opened[unit.key] = UnitTraces(unit, self.settings, self.ctx)
        return self._opened[unit.key]

    def release(self, unit: Unit) -> None:
        """Close the records of a unit."""
        self._opened.pop(unit.key).records.close()
        if unit.key in self._streamed:
            self._streamed.remove(unit.key)

    def search(self, unit: Unit) -> dict[str, float]:
        """Search until the unit is complete, or until the task is asked to stop and its grace period is over.

        Returns what the teacher has served meanwhile, samples of later units included.
        """
        self._current = self.open(unit)
        if self._stream is None or unit.key not in self._streamed:
            self._start_stream(unit)
        assert self._stream is not None
        for traces, row in self._stream:
            traces.add(row)
            # Once all units are complete, the stream ends by itself and reports its last figures.
            if self._current.complete and not self._all_complete():
                break
        counted = self.servers.teacher.stats.counts()
        served = {name: counted[name] - self._served[name] for name in SERVED}
        self._served = {name: counted[name] for name in SERVED}
        return served

    def finish(self) -> None:
        """After a task was asked to stop: let what is in flight for later units end, as long as the grace period allows."""
        if self._stream is not None and self.ctx.stopping():
            for traces, row in self._stream:
                traces.add(row)

    def close(self) -> None:
        """Cancel what is in flight, and close all records."""
        self._end_stream()
        for traces in self._opened.values():
            traces.records.close()
        self._opened.clear()

    def _start_stream(self, unit: Unit) -> None:
        self._end_stream()
        keys = [known.key for known in self.ctx.units]
        units = self.ctx.units[keys.index(unit.key) :] if unit.key in keys else (unit,)
        self._streamed = [row.key for row in units]
        self._served = dict.fromkeys(SERVED, 0.0)
        self._stream = self.servers.teacher.each(
            self._samples(units),
            self._collect,
            stopping=self.ctx.stopping,
            grace_s=self.settings.grace_s,
            progress=self._progress,
        )

    def _end_stream(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _all_complete(self) -> bool:
        return all(key in self._opened and self._opened[key].complete for key in self._streamed)

    def _samples(self, units: tuple[Unit, ...]) -> Iterator[tuple[UnitTraces, CoTSample]]:
        for number, unit in enumerate(units):
            try:
                traces = self.open(unit)
            except Exception:
                if not number:
                    raise
                # When it is its turn, it is opened again, and an error that is still there is raised.
                del self._streamed[self._streamed.index(unit.key) :]
                return
            yield from ((traces, sample) for sample in traces.missing())

    async def _collect(self, teacher: Client, item: tuple[UnitTraces, CoTSample]) -> tuple[UnitTraces, TraceRecord]:
        traces, sample = item
        self._in_flight += 1
        try:
            return traces, await self._search(teacher, self._verifier_client() or teacher, traces.shard, sample)
        finally:
            self._in_flight -= 1
            if not self._in_flight and self._verifier is not None:  # a client lives in one event loop
                await self._verifier.__aexit__(None, None, None)
                self._verifier = None

    def _verifier_client(self) -> Client | None:
        """The verifier's client, if it is another model than the teacher."""
        if self._verifier is None and self.servers.verifier is not self.servers.teacher:
            self._verifier = self.servers.verifier.client()
        return self._verifier

    async def _search(self, teacher: Client, verifier: Client, shard: Shard, sample: CoTSample) -> TraceRecord:
        images = tuple(EncodedImage(shard.jpeg(image.row)) for image in sample.images)
        texts = self.settings.prompts
        find = search if sample.trace_format == "think" else interleave
        steps = find(sample, self.settings.search, self.ctx.seed, texts)
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
            return cast(TraceRecord, _row(sample, end.value, texts) | used)

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
        traces = self._current
        assert traces is not None
        counts = {name: traces.counts[name] for name in ("verified", "forced", "failed")}
        self.ctx.progress(len(traces.records), len(traces.samples), **stats.figures(), **counts)


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


def counts_of(row: TraceRecord) -> Counter[str]:
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
