"""Kind: GREEN, a language model that compares a report with its reference, served by the suite's own vLLM.

Its prompt is the authors' and is read from the model's folder (docs/evaluation.md). What cannot be had or started costs
the metric, not the run.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from diagcot.evaluation import predictions
from diagcot.evaluation.clinical.score import written
from diagcot.evaluation.clinical.weights import lacking
from diagcot.evaluation.predictions import Prediction
from diagcot.evaluation.settings import GreenSettings
from diagcot.jobs import Context, Result, Unit, UserError
from diagcot.metrics.green import green
from diagcot.serving import Request, Server, ServerError, serve

TEMPLATE = "{{ bos_token + '<|user|>\\n' + messages[0]['content'] + eos_token + '\\n<|assistant|>\\n' + eos_token }}"
"""How Stanford-AIMI/GREEN writes a prompt, the mark of the end included that its tokeniser (add_eos_token) sets last."""


class Green:
    """The server of a task, started when the first unit needs it; `missing` says why there is none."""

    def __init__(self, ctx: Context, stack: ExitStack) -> None:
        self.settings = GreenSettings.model_validate(ctx.settings)
        self.missing = lacking("green", self.settings.weights)
        self._ctx, self._stack = ctx, stack
        self._server: Server | None = None

    @property
    def folder(self) -> Path:
        assert self.settings.weights
        return self.settings.weights / "green"

    def server(self) -> Server:
        """Raises ServerError, UserError."""
        if self._server is None:
            asked = self.settings.server
            settings = asked.model_copy(update={"images": 0, "extra": ("--chat-template", TEMPLATE, *asked.extra)})
            self._server = self._stack.enter_context(serve(self.folder, settings, self._ctx))
        return self._server

    def request(self, row: Prediction) -> Request:
        """The question about one answer; each report is cut to as many words as the authors take."""
        prompt = (self.folder / "prompt.txt").read_text(encoding="utf-8")
        for place, report in (("{reference}", row.reference), ("{candidate}", row.answer)):
            before, _, after = prompt.partition(place)
            prompt = before + " ".join(report.split()[: self.settings.words]) + after
        return Request(row.id, (("user", prompt),), max_tokens=self.settings.max_tokens)


@contextmanager
def prepare(ctx: Context) -> Iterator[Green]:
    with ExitStack() as stack:
        yield Green(ctx, stack)


def run(unit: Unit, shared: Green, ctx: Context) -> Result | None:
    """The scores of the predictions of unit `unit.key`, in the form of kind `clinical`.

    A prediction without text is not sent, and scores 0, as does one whose analysis cannot be had or read.
    """
    path = next(p for p in ctx.files("predictions", f"{unit.key}.jsonl"))
    rows = {row.id: row for row in predictions.read([path]) if row.split == "test"}
    records = ctx.records(unit)
    failed: dict[str, str] = {}
    try:
        asked = [row for row in rows.values() if row.answer]
        left = [row for row in asked if row.id not in records]
        for row in rows.values():
            if not row.answer:
                records.append(_row(row, 0.0))
        missing = shared.missing
        if left and missing is None and not ctx.stopping():
            try:
                for name, reply in shared.server().complete(map(shared.request, left), ctx.stopping):
                    if reply.error:
                        failed[name] = reply.error
                        continue
                    records.append(_row(rows[name], green(reply.text)))
                    ctx.progress(len(records), len(rows))
            except (ServerError, UserError) as error:
                missing = shared.missing = str(error)
        if missing is None and failed and len(failed) == len(asked):
            missing = f"the model answered none of {len(asked)} requests: {next(iter(failed.values()))}"
        if missing is None and len(records) + len(failed) < len(rows):
            return None
        scored = {line["id"]: line for line in records.rows()}
    finally:
        records.close()
    without = None if missing else 0.0
    lines = [scored.get(name) or _row(row, without) for name, row in sorted(rows.items())]
    made = written(unit, ctx, lines, ["green"], {"green": missing} if missing else {})
    return Result(made.outputs, made.counts | {"failed": len(failed)})


def _row(row: Prediction, score: float | None) -> dict[str, Any]:
    return {"id": row.id, "task": row.task, "model": row.model, "scores": {} if score is None else {"green": score}}
