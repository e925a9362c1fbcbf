"""Kind green: GREEN (arXiv:2405.03595), a language model that compares a report with its reference, on our vLLM server.

The prompt is the authors' and is read from the model's folder (docs/evaluation.md). If the model is missing or does not
start, its metric has no value and the run goes on.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from diagcot.evaluation import predictions
from diagcot.evaluation.clinical.scores import score_row, write_scores
from diagcot.evaluation.server import TaskServer
from diagcot.evaluation.settings import GreenSettings
from diagcot.jobs import Context, Result, Unit, UserError
from diagcot.jobs.state import reading
from diagcot.metrics.clinical.readers import FORMS
from diagcot.metrics.clinical.weights import missing_files
from diagcot.metrics.green import CHAT_TEMPLATE, counts_matches, green, prompt
from diagcot.serving import Request, Server, ServerError
from diagcot.tasks.predictions import Prediction


class Green:
    """GREEN's model on the server of the array task; `missing` says why there is none."""

    def __init__(self, ctx: Context, stack: ExitStack) -> None:
        self.settings = GreenSettings.model_validate(ctx.settings)
        self.missing = missing_files("green", self.settings.weights)
        self._task_server = TaskServer(ctx, stack)

    @property
    def folder(self) -> Path:
        """The model's folder."""
        assert self.settings.weights
        return self.settings.weights / "green"

    def server(self) -> Server:
        """The server, started if it does not run yet. Raises ServerError or UserError."""
        chosen = self.settings.server
        settings = chosen.model_copy(update={"images": 0, "extra": ("--chat-template", CHAT_TEMPLATE, *chosen.extra)})
        return self._task_server.start(self.folder, settings)

    def request(self, row: Prediction) -> Request:
        """The question about one answer; each report is cut to as many words as the authors take."""
        form = FORMS[self.settings.texts]
        template = reading.read_text(self.folder / "prompt.txt")
        text = prompt(template, form(row.reference), form(row.answer), self.settings.words)
        return Request(row.id, (("user", text),), max_tokens=self.settings.max_tokens)


@contextmanager
def prepare(ctx: Context) -> Iterator[Green]:
    """What the units of an array task share."""
    with ExitStack() as stack:
        yield Green(ctx, stack)


def run(unit: Unit, shared: Green, ctx: Context) -> Result | None:
    """The scores of the predictions of unit `unit.key`, in the form of kind `clinical`.

    A prediction without text is not sent and scores 0, as does one whose analysis failed or cannot be read; the counts
    say how many were refused (`failed`) and how many analyses have no section of matched findings (`unread`).
    """
    rows = predictions.tested(unit, ctx)
    records = ctx.records(unit)
    failed: dict[str, str] = {}
    try:
        answered = [row for row in rows.values() if row.answer]
        unscored = [row for row in answered if row.id not in records]
        for row in rows.values():
            if not row.answer:
                records.append(score_row(row, {"green": 0.0}))
        missing = shared.missing
        if unscored and missing is None and not ctx.stopping():
            try:
                for name, reply in shared.server().complete(map(shared.request, unscored), ctx.stopping):
                    if reply.error:
                        failed[name] = reply.error
                        continue
                    unread = () if counts_matches(reply.text) else ("green",)
                    records.append(score_row(rows[name], {"green": green(reply.text)}, unread))
                    ctx.progress(len(records), len(rows))
            except (ServerError, UserError) as error:
                missing = shared.missing = str(error)
        if missing is None and failed and len(failed) == len(answered):
            missing = f"the model answered none of {len(answered)} requests: {next(iter(failed.values()))}"
        if missing is None and len(records) + len(failed) < len(rows):
            return None
        scored = {line["id"]: line for line in records.rows()}
    finally:
        records.close()
    without = {} if missing else {"green": 0.0}
    lines = [scored.get(name) or score_row(row, without) for name, row in sorted(rows.items())]
    result = write_scores(unit, ctx, lines, ["green"], {"green": missing} if missing else {})
    return Result(result.outputs, result.counts | {"failed": len(failed)})
