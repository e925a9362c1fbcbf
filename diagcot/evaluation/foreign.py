"""Kind `predictions`: answers of models that ran elsewhere become predictions on the samples of an evaluation."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from diagcot.data.errors import DataError
from diagcot.evaluation import predictions
from diagcot.evaluation.settings import ForeignModel, PredictionsSettings
from diagcot.exchange.answers import ForeignAnswer, read
from diagcot.jobs import Context, Result, Unit
from diagcot.jobs.state import reading
from diagcot.tasks.predictions import ASKED, BROUGHT, Prediction
from diagcot.text.layout import first_answer, last_answer

_IU_IMAGES = re.compile(r"(CXR\d+)_IM-.*")  # R2Gen's and ReXrank's name of a study of IU-Xray
_EXAMPLES = 5


@contextmanager
def prepare(ctx: Context) -> Iterator[PredictionsSettings]:
    """The stage's settings."""
    yield PredictionsSettings.model_validate(ctx.settings)


def run(unit: Unit, settings: PredictionsSettings, ctx: Context) -> Result | None:
    """Predictions of `unit.params["model"]` for every test sample of the evaluation's units `unit.params["asked"]`.

    A sample without an answer is a prediction without text, which counts as a miss. Rows that name no sample are counted.
    Raises DataError if no row names one, if more samples are without an answer than `max_missing` allows, or if two rows
    give one sample two answers.
    """
    foreign = next(
        model for model in settings.models if (model.model, model.task) == (unit.params["model"], unit.params["task"])
    )
    files = [path for key in unit.params["asked"] for path in ctx.files("predictions", f"{key}.jsonl")]
    asked = [row for row in predictions.distinct(files, compared=False) if row.split == "test"]
    answers = _Answers(asked, foreign)
    for found in read(foreign.file(), {str(name): column for name, column in foreign.columns.items()}):
        answers.add(found)
    rows = [_prediction(row, foreign, answers.texts.get(row.id)) for row in asked]
    missing = len(asked) - len(answers.texts)
    counts = {"samples": len(rows), "missing": missing, "unknown": len(answers.unknown), "repeated": answers.repeated}
    counts |= {"unusable": len(answers.unusable)}
    if answers.unknown or answers.unusable or missing:
        ctx.event(
            "foreign_rows",
            model=foreign.model,
            missing=[row.id for row in asked if row.id not in answers.texts][:_EXAMPLES],
            unknown=answers.unknown[:_EXAMPLES],
            unusable=answers.unusable[:_EXAMPLES],
        )
    if missing > settings.max_missing * len(asked):
        raise DataError(_too_few(foreign, settings, asked, answers))
    final = ctx.output / f"{unit.key}.jsonl"
    staged = ctx.staged(final)
    with reading.written(staged) as out:
        out.writelines(json.dumps(row.row(), ensure_ascii=False) + "\n" for row in rows)
    ctx.progress(1, 1, model=foreign.model, missing=missing)
    return Result({final: staged}, counts)


def _prediction(asked: Prediction, foreign: ForeignModel, text: str | None) -> Prediction:
    """The prediction of a text; None is a sample without an answer."""
    read_answer = last_answer if asked.task in ASKED else first_answer
    return replace(
        asked,
        model=foreign.model,
        output=text or "",
        answer=read_answer(text or ""),
        finish="error" if text is None else "stop",
        scores={},
        about=asked.about | {BROUGHT: foreign.origin},
    )


def _too_few(
    foreign: ForeignModel, settings: PredictionsSettings, asked: Sequence[Prediction], answers: "_Answers"
) -> str:
    missing = [row.id for row in asked if row.id not in answers.texts]
    unknown = f"; {len(answers.unknown)} rows name no sample, e.g. {answers.unknown[0]}" if answers.unknown else ""
    unusable = f"; {len(answers.unusable)} rows cannot be used, e.g. {answers.unusable[0]}" if answers.unusable else ""
    return (
        f"{foreign.path}: {len(missing)} of {len(asked)} samples have no answer, e.g. {missing[0]}{unknown}{unusable}."
        f" `max_missing: {settings.max_missing:g}` allows fewer. Name samples or studies as the evaluation does"
        " (`columns` of the model), or raise `max_missing`"
    )


class _Answers:
    """The texts of the file by sample, and the rows that give none."""

    def __init__(self, asked: Iterable[Prediction], foreign: ForeignModel) -> None:
        self.texts: dict[str, str] = {}
        self.unknown: list[str] = []
        self.unusable: list[str] = []
        self.repeated = 0
        self._places: dict[str, str] = {}
        self._foreign = foreign
        self._named: dict[str, list[Prediction]] = defaultdict(list)
        for row in asked:
            for name in _names(row):
                self._named[name].append(row)

    def add(self, found: ForeignAnswer | str) -> None:
        """Give the samples that a row names its text. Raises DataError if it names several, or one that has another text."""
        if isinstance(found, str):
            self.unusable.append(found)
            return
        rows = next((self._named[name] for one in found.names for name in _spellings(one) if name in self._named), [])
        if not rows:
            self.unknown.append(found.place)
            return
        where = f"{self._foreign.path}: {found.place}"
        if len({row.study for row in rows}) > 1 or len({row.question for row in rows}) > 1:
            raise DataError(
                f"{where} names {len(rows)} samples of different studies or questions, such as {rows[0].id} and"
                f" {rows[-1].id}; give the rows a column `id` with the ids of samples"
            )
        for row in rows:
            if self.texts.setdefault(row.id, found.text) != found.text:
                raise DataError(f"{where} and {self._places[row.id]} give {row.id} two answers; keep one of them")
            self.repeated += row.id in self._places
            self._places[row.id] = found.place


def _names(row: Prediction) -> set[str]:
    """The names by which a file may call a sample: its id, its image, its study."""
    image = row.id.removeprefix(f"{row.study}/").partition(":")[0] if row.id.startswith(f"{row.study}/") else ""
    return {row.id, row.study, row.study.removeprefix(f"{row.dataset}/"), *([image] if image else [])}


def _spellings(name: str) -> Iterator[str]:
    """A name as the file has it, as the end of a path, and as collections write studies (`s50000001`, `CXR1_IM-0001`)."""
    yield name
    last = Path(name).stem if name.endswith((".jpg", ".png", ".dcm")) else name.rpartition("/")[2]
    yield last
    if last[:1] == "s" and last[1:].isdecimal():
        yield last[1:]
    if found := _IU_IMAGES.fullmatch(last):
        yield found[1]
