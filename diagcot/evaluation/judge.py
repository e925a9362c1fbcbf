"""Kind: a model judges answers to questions against their references, twice each, with the two texts in either order.

For open questions, whose lists may name a finding in words that no rule knows (method.md 9; the released script asks
GPT-4o at temperature 1). The model is a local one, the prompt fixed, the temperature 0. An answer counts as right where
both judgements say so; how often they agree says how far the judge can be trusted.
"""

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from diagcot.evaluation import predictions
from diagcot.evaluation.predictions import Prediction
from diagcot.evaluation.settings import JudgeSettings
from diagcot.jobs.context import Context, Result, Unit
from diagcot.serving import Client, Reply, Request, Server, serve

_ASK = (
    "Two answers to one question about a chest X-ray.\nQuestion: {question}\n{first}\n{second}\n"
    "Do both give the same answer, nothing more and nothing less? Other words for the same thing are the same. "
    "Answer in JSON: same true or false."
)
_SCHEMA = {
    "type": "object",
    "properties": {"same": {"type": "boolean"}},
    "required": ["same"],
    "additionalProperties": False,
}


class Judge:
    """The server of a task, started when the first unit needs it."""

    def __init__(self, ctx: Context, stack: ExitStack) -> None:
        self.settings = JudgeSettings.model_validate(ctx.settings)
        self._ctx, self._stack = ctx, stack
        self._server: Server | None = None

    def server(self) -> Server:
        if self._server is None:
            model = Path(self._ctx.inputs["model"][0]) / "model"
            self._server = self._stack.enter_context(serve(model, self.settings.server, self._ctx))
        return self._server


@contextmanager
def open(ctx: Context) -> Iterator[Judge]:
    with ExitStack() as stack:
        yield Judge(ctx, stack)


def run(unit: Unit, shared: Judge, ctx: Context) -> Result | None:
    """Judgements of the predictions of unit `unit.key`, `{id, model, task, same: [bool, bool], error}` a line.

    A judgement that cannot be read is no agreement: false. Predictions without text are not sent.
    """
    path = next(p for p in ctx.files("predictions", f"{unit.key}.jsonl"))
    rows = {row.id: row for row in predictions.read([path]) if row.split == "test"}
    records = ctx.records(unit)
    try:
        todo = []
        for row in rows.values():
            if row.id not in records and not row.answer:
                records.append(_row(row, [False, False], None))
            elif row.id not in records:
                todo.append(row)
        if todo and not ctx.stopping():

            async def judge(client: Client, row: Prediction) -> tuple[Prediction, list[Reply]]:
                asked = (_question(row, swapped, shared.settings) for swapped in (False, True))
                return row, await asyncio.gather(*map(client.chat, asked))

            for row, replies in shared.server().each(todo, judge, stopping=ctx.stopping):
                error = next((reply.error for reply in replies if reply.error), None)
                records.append(_row(row, [same(reply) for reply in replies], error))
                ctx.progress(len(records), len(rows))
        if len(records) < len(rows):
            return None
        judged = sorted(records.rows(), key=lambda row: row["id"])
    finally:
        records.close()
    final = ctx.output / f"{unit.key}.jsonl"
    staged = ctx.staged(final)
    staged.write_text("".join(json.dumps(row) + "\n" for row in judged), encoding="utf-8")
    agreed = sum(row["same"][0] == row["same"][1] for row in judged)
    failed = sum(row["error"] is not None for row in judged)
    return Result({final: staged}, {"judged": len(judged), "agreed": agreed, "failed": failed})


def _question(row: Prediction, swapped: bool, settings: JudgeSettings) -> Request:
    texts = [row.reference, row.answer] if swapped else [row.answer, row.reference]
    first, second = (f"Answer {number}: {text}" for number, text in enumerate(texts, 1))
    asked = _ASK.format(question=row.question, first=first, second=second)
    return Request(row.id, (("user", asked),), max_tokens=settings.max_tokens, schema=_SCHEMA)


def same(reply: Reply) -> bool:
    """The verdict of a reply; False where it is not as asked."""
    try:
        return json.loads(reply.text)["same"] is True
    except (ValueError, LookupError, TypeError):
        return False


def _row(row: Prediction, verdicts: list[bool], error: str | None) -> dict[str, Any]:
    return {"id": row.id, "model": row.model, "task": row.task, "same": verdicts, "error": error}
