"""Kind judge: a model judges answers to questions against their references, twice, with the two texts in either order.

For open questions, whose lists may name a finding in words that no rule knows (CX-Mind's eval_open.py asks GPT-4o at
temperature 1). The model is a local one, the prompt is fixed, the temperature is 0. An answer counts as correct if both
judgements say so; how often they agree shows how far the judge can be trusted.
"""

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from diagcot.evaluation import predictions
from diagcot.evaluation.scores.columns import agree
from diagcot.evaluation.server import TaskServer
from diagcot.evaluation.settings import JudgeSettings
from diagcot.jobs import Context, Result, Unit, UserError
from diagcot.jobs.state import json_text
from diagcot.jobs.state.files import write_text
from diagcot.metrics.clinical.readers import readable
from diagcot.serving import Client, Reply, Request, Server
from diagcot.tasks.predictions import Prediction

_ASK = (
    "Here are two answers to the same question about a chest X-ray.\nQuestion: {question}\n{first}\n{second}\n"
    "Do both answers state exactly the same findings? Treat synonyms as the same. Answer in JSON: same, true or false."
)
_SCHEMA = {
    "type": "object",
    "properties": {"same": {"type": "boolean"}},
    "required": ["same"],
    "additionalProperties": False,
}


class Judge:
    """The judge's model on the server of the array task."""

    def __init__(self, ctx: Context, stack: ExitStack) -> None:
        self.settings = JudgeSettings.model_validate(ctx.settings)
        self._model = Path(ctx.inputs["model"][0]) / "model"
        self._task_server = TaskServer(ctx, stack)

    def server(self) -> Server:
        """The server, started if it does not run yet."""
        return self._task_server.start(self._model, self.settings.server)


@contextmanager
def prepare(ctx: Context) -> Iterator[Judge]:
    """What the units of an array task share."""
    with ExitStack() as stack:
        yield Judge(ctx, stack)


def run(unit: Unit, shared: Judge, ctx: Context) -> Result | None:
    """Judgements of the predictions of unit `unit.key`, `{id, model, task, same: [bool, bool], error}` a line.

    A judgement that cannot be read, or whose request failed, is null: it counts as "not the same" and agrees with nothing.
    Predictions without text are not sent. Raises UserError if all requests failed.
    """
    rows = predictions.tested(unit, ctx)
    records = ctx.records(unit)
    failed: dict[str, str] = {}
    try:
        answered = [row for row in rows.values() if row.answer]
        unjudged = [row for row in answered if row.id not in records]
        for row in rows.values():
            if not row.answer:
                records.append(_row(row, [False, False]))
        if unjudged and not ctx.stopping():

            async def judge(client: Client, row: Prediction) -> tuple[Prediction, list[Reply]]:
                both = (_question(row, swapped, shared.settings) for swapped in (False, True))
                return row, await asyncio.gather(*map(client.chat, both))

            for row, replies in shared.server().each(unjudged, judge, stopping=ctx.stopping):
                if error := next((reply.error for reply in replies if reply.error), None):
                    failed[row.id] = error
                    continue
                records.append(_row(row, [same(reply) for reply in replies]))
                ctx.progress(len(records), len(rows))
        if len(records) + len(failed) < len(rows):
            return None
        if failed and len(failed) == len(answered):
            raise UserError(f"the judge answered none of {len(answered)} requests: {next(iter(failed.values()))}")
        unanswered = [_row(rows[name], [None, None], error) for name, error in failed.items()]
        judged = sorted([*records.rows(), *unanswered], key=lambda row: row["id"])
    finally:
        records.close()
    final = ctx.output / f"{unit.key}.jsonl"
    staged = ctx.staged(final)
    write_text(staged, "".join(json.dumps(row) + "\n" for row in judged))
    agreed = sum(agree(row["same"]) for row in judged)
    unreadable = sum(None in row["same"] for row in judged) - len(failed)
    return Result(
        {final: staged}, {"judged": len(judged), "agreed": agreed, "unreadable": unreadable, "failed": len(failed)}
    )


def _question(row: Prediction, swapped: bool, settings: JudgeSettings) -> Request:
    answer, reference = readable(row.answer), readable(row.reference)
    texts = [reference, answer] if swapped else [answer, reference]
    first, second = (f"Answer {number}: {text}" for number, text in enumerate(texts, 1))
    prompt = _ASK.format(question=row.question, first=first, second=second)
    return Request(row.id, (("user", prompt),), max_tokens=settings.max_tokens, schema=_SCHEMA)


def same(reply: Reply) -> bool | None:
    """The verdict of a reply; None if it is not in the requested form."""
    try:
        verdict = json_text.parse_json(reply.text)["same"]
    except (ValueError, RecursionError, LookupError, TypeError):
        return None
    return verdict if isinstance(verdict, bool) else None


def _row(row: Prediction, verdicts: list[bool | None], error: str | None = None) -> dict[str, Any]:
    return {"id": row.id, "model": row.model, "task": row.task, "same": verdicts, "error": error}
