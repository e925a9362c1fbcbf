"""Kind: chains of thought for the training films of one shard, many samples in flight on the task's server."""

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diagcot.cot.search.calls import Answer, Question, Trace
from diagcot.cot.search.case import Case, chosen
from diagcot.cot.search.interleaved import interleave
from diagcot.cot.search.search import search
from diagcot.cot.settings import CollectSettings
from diagcot.jobs import Context, Records, Result, Unit
from diagcot.serving import Client, Film, Flow, Request, Server, serve
from diagcot.shards import Shard
from diagcot.tasks.samples import read_samples

_COUNTED = ("samples", "verified", "forced", "failed", "calls", "prompt_tokens", "completion_tokens")


@dataclass(frozen=True)
class Servers:
    """The teacher, and the model that verifies its conclusions: the teacher itself where there is no other."""

    teacher: Server
    verifier: Server


@contextlib.contextmanager
def prepare(ctx: Context) -> Iterator[Servers]:
    settings = CollectSettings.model_validate(ctx.settings)
    teacher = Path(ctx.inputs["model"][0]) / "model"
    if not ctx.inputs.get("verifier"):
        with serve(teacher, settings.server, ctx) as server:
            yield Servers(server, server)
        return
    verifier, other = Path(ctx.inputs["verifier"][0]) / "model", settings.verifier or settings.server
    with (
        serve(teacher, settings.server, ctx, share=(0, 2)) as server,
        serve(verifier, other, ctx, share=(1, 2)) as second,
    ):
        yield Servers(server, second)


def run(unit: Unit, shared: Servers, ctx: Context) -> Result | None:
    """Traces of shard `unit.key`, one JSON object a line (docs/cot.md). A sample that failed is a trace with its cause.

    Raises ServerError if a server cannot be kept alive; what was finished before is kept. Raises UserError for
    questions that are not about this shard's training studies.
    """
    settings = CollectSettings.model_validate(ctx.settings)
    shard = Shard(Path(ctx.inputs["shards"][0]) / f"{unit.key}.h5")
    questions = read_samples(Path(ctx.inputs["samples"][0]) / f"{unit.key}.jsonl") if settings.questions else ()
    cases = chosen(shard, ctx.shards_root, settings, questions)
    records = ctx.records(unit)
    try:
        served: dict[str, float] = {}
        # Cases of one study one after the other: their prompts begin with the same films and report.
        todo = sorted((case for case in cases if case.id not in records), key=lambda case: (case.study, case.id))
        if todo and not ctx.stopping():
            _Collection(shared, shard, settings, records, ctx, len(cases)).run(todo)
            told = shared.teacher.flow.counts()
            served = {name: told[name] for name in ("cached_tokens", "told_tokens")}  # of this execution alone
        if len(records) < len(cases):
            return None
        final = ctx.output / f"{unit.key}.jsonl"
        staged = ctx.staged(final)
        counts = Counter(dict.fromkeys(_COUNTED, 0))
        with staged.open("w", encoding="utf-8") as out:
            for row in records.rows():
                out.write(json.dumps(row, ensure_ascii=False) + "\n")
                counts.update(_counts(row))
        return Result({final: staged}, dict(counts) | served)
    finally:
        records.close()


class _Collection:
    """The cases of one unit on their way through their searches."""

    def __init__(
        self, servers: Servers, shard: Shard, settings: CollectSettings, records: Records, ctx: Context, total: int
    ) -> None:
        self.servers, self.shard, self.settings = servers, shard, settings
        self.records, self.ctx, self.total = records, ctx, total
        self.found: Counter[str] = Counter()  # of all records, those of earlier executions too
        for row in records.rows():
            self.found.update(_counts(row))
        self._verifier: Client | None = None  # while a case is in work, unless the teacher verifies
        self._running = 0

    def run(self, cases: list[Case]) -> None:
        """Until all are done, or the task is asked to stop and its grace is over."""
        flow = self.servers.teacher.each(
            cases, self._case, stopping=self.ctx.stopping, grace_s=self.settings.grace_s, progress=self._progress
        )
        for row in flow:
            self.records.append(row)
            self.found.update(_counts(row))

    async def _case(self, teacher: Client, case: Case) -> dict[str, Any]:
        self._running += 1
        try:
            return await self._searched(teacher, self._second() or teacher, case)
        finally:
            self._running -= 1
            if not self._running and self._verifier is not None:  # a client lives in one event loop
                await self._verifier.__aexit__(None, None, None)
                self._verifier = None

    def _second(self) -> Client | None:
        """The verifier's client, where it is another model than the teacher."""
        if self._verifier is None and self.servers.verifier is not self.servers.teacher:
            self._verifier = self.servers.verifier.client()
        return self._verifier

    async def _searched(self, teacher: Client, verifier: Client, case: Case) -> dict[str, Any]:
        films = tuple(Film(self.shard.jpeg(image.row)) for image in case.images)
        steps = (search if case.form == "think" else interleave)(case, self.settings.search, self.ctx.seed)
        used = {"prompt_tokens": 0, "completion_tokens": 0}
        try:
            question = next(steps)
            while True:
                client = verifier if question.name == "verify" else teacher
                reply = await client.chat(self._request(case, question, films))
                used["prompt_tokens"] += reply.prompt_tokens
                used["completion_tokens"] += reply.completion_tokens
                finish = reply.finish[0] if reply.finish else "stop"
                question = steps.send(Answer(reply.text, finish, reply.error))
        except StopIteration as end:
            return _row(case, end.value) | used

    def _request(self, case: Case, question: Question, films: tuple[bytes, ...]) -> Request:
        return Request(
            id=case.id,
            messages=question.messages,
            images=films,
            max_tokens=question.max_tokens,
            temperature=question.temperature,
            top_p=self.settings.search.top_p if question.temperature else 1.0,
            schema=question.schema,
            seed=question.seed,
        )

    def _progress(self, flow: Flow) -> None:
        found = {name: self.found[name] for name in ("verified", "forced", "failed")}
        self.ctx.progress(len(self.records), self.total, **flow.figures(), **found)


def _row(case: Case, trace: Trace) -> dict[str, Any]:
    """The trace as a record: films by reference, the models' words, and no pixels."""
    return {
        "id": case.id,
        "task": case.task,
        "form": case.form,
        "study": case.study,
        "images": [asdict(image) for image in case.images],
        "question": case.question,
        "reference": case.reference,
        "guide": case.guide,
        "meta": case.meta,
        **vars(trace),
        "by": trace.by,
    }


def _counts(row: dict[str, Any]) -> Counter[str]:
    """What one trace adds to the unit's counts; `by_...` names what succeeded."""
    failed = row["error"] is not None
    counts = {
        "samples": 1,
        "verified": int(row["verified"] and not failed),
        "forced": int(row["forced"] and not failed),
        "failed": int(failed),
        **{name: row[name] for name in ("calls", "prompt_tokens", "completion_tokens")},
    }
    return Counter(counts if failed else counts | {f"by_{row['by']}": 1})
