"""Scores by models that read reports: their files, and the columns of the table that are computed from them."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diagcot.data.study import CHEXPERT_LABELS
from diagcot.evaluation.failures import failed
from diagcot.evaluation.predictions import joined
from diagcot.jobs import Context, Result, Unit
from diagcot.jobs.state import documents
from diagcot.jobs.state.files import write_text
from diagcot.metrics import labels
from diagcot.metrics.intervals import LEAST_STUDIES, MACRO_STUDIES, Additive, Metric, mean, mean_of
from diagcot.metrics.radcliq import MODEL, radcliq_v1
from diagcot.metrics.reasoning import FIGURES
from diagcot.tasks.predictions import Prediction


@dataclass(frozen=True)
class ClinicalColumn:
    """A column: its title, the readers it needs (folders of `weights.READERS`, or GREEN), and whether it is shown."""

    title: str
    needs: tuple[str, ...]
    main: bool = True
    low: bool = False
    interval: int | None = LEAST_STUDIES  # as in `diagcot.evaluation.scores.columns.Column`
    bounds: tuple[float, float] | None = (0.0, 1.0)
    worst: float = 0.0  # what a request that failed has at best


@dataclass(frozen=True)
class Agreement:
    """How the labels that CheXbert reads of both texts are counted: which labels, a measure and an average of `labels`."""

    names: tuple[str, ...]
    measure: labels.Measure
    average: labels.Average

    @property
    def interval(self) -> int | None:
        """As in `ClinicalColumn`: a rare label moves a mean over labels much in a small sample."""
        if self.average == "macro":
            return MACRO_STUDIES if self.measure == "f1" else None
        return MACRO_STUDIES if (self.measure, self.average) == ("precision", "weighted") else LEAST_STUDIES

    @property
    def title(self) -> str:
        """The column's title, such as CheXbert F1 (macro, five labels)."""
        measure = "F1" if self.measure == "f1" else self.measure
        return f"CheXbert {measure} ({self.average}{', five labels' if self.names == labels.FIVE else ''})"


_END = {"micro": "", "macro": "_macro", "weighted": "_weighted", "example-based": "_example"}
AGREEMENT = {
    f"chexbert_{measure}{some}{_END[average]}": Agreement(names, measure, average)
    for some, names in (("", CHEXPERT_LABELS), ("_five", labels.FIVE))
    for measure in labels.MEASURES
    for average in labels.AVERAGES
}
"""Column -> what it counts, such as chexbert_f1, chexbert_recall_five_macro; without the name of an average it is micro."""

REASONING = {
    f"{name}_{figure}": ClinicalColumn(f"{title} {figure} of the reasoning", (reader,), False)
    for name, title, reader in (
        ("radgraph", "RadGraph", "radgraph"),
        ("radgraph_xl", "RadGraph-XL", "radgraph-xl"),
    )
    for figure in FIGURES
}
"""Columns of the reasoning before an answer, where there is one."""

_F1 = ("chexbert",)
_COLUMNS = {
    "chexbert_f1": ClinicalColumn(AGREEMENT["chexbert_f1"].title, _F1),
    "radgraph_partial": ClinicalColumn("RadGraph F1 (partial)", ("radgraph",)),
    "bertscore": ClinicalColumn("BERTScore", ("distilroberta-base",), bounds=None),
    "radcliq": ClinicalColumn(
        "RadCliQ-v1",
        ("chexbert", "distilroberta-base", "radgraph"),
        low=True,
        bounds=None,
        worst=radcliq_v1(dict.fromkeys(MODEL, 0.0) | {"semb": -1.0}),
    ),
    "ratescore": ClinicalColumn("RaTEScore", ("ratescore",)),
    "green": ClinicalColumn("GREEN", ("green",)),
    **{
        name: ClinicalColumn(how.title, _F1, False, interval=how.interval)
        for name, how in AGREEMENT.items()
        if name != "chexbert_f1"
    },
    "semb": ClinicalColumn("CheXbert embedding similarity (SembScore)", _F1, False, bounds=(-1.0, 1.0), worst=-1.0),
    "radgraph_simple": ClinicalColumn("RadGraph F1 (simple)", ("radgraph",), False),
    "radgraph_complete": ClinicalColumn("RadGraph F1 (complete)", ("radgraph",), False),
    "radgraph_radcliq": ClinicalColumn("RadGraph, entities and relations (RadCliQ, ReXrank)", ("radgraph",), False),
    "radgraph_xl_partial": ClinicalColumn("RadGraph-XL F1 (partial)", ("radgraph-xl",), False),
    "radgraph_xl_simple": ClinicalColumn("RadGraph-XL F1 (simple)", ("radgraph-xl",), False),
    "radgraph_xl_complete": ClinicalColumn("RadGraph-XL F1 (complete)", ("radgraph-xl",), False),
    **REASONING,
}
AS_WRITTEN = "_as_written"
"""Ends the names of readers and scores of a stage with `texts: as_written`."""
CLINICAL = _COLUMNS | {
    f"{name}{AS_WRITTEN}": replace(
        column,
        title=f"{column.title}, texts as written",
        needs=tuple(f"{reader}{AS_WRITTEN}" for reader in column.needs),
        main=False,
    )
    for name, column in _COLUMNS.items()
}
"""Name -> column: of normalised texts, then of texts as they are written."""

_MADE = {
    "chexbert": "chexbert",
    "distilroberta-base": "bertscore",
    "radgraph": "radgraph_partial",
    "radgraph-xl": "radgraph_xl_partial",
    "ratescore": "ratescore",
    "green": "green",
}
"""Reader -> a score that it alone makes."""
_OWN = _MADE | {f"{reader}{AS_WRITTEN}": f"{score}{AS_WRITTEN}" for reader, score in _MADE.items()}


_STATUS = documents.Format({"readers": [str], "missing": {...: str}}, "Run its stage again")


@dataclass(frozen=True)
class ClinicalScores:
    """What the stages `clinical` and `green` wrote: (task, model) -> sample id -> scores, and reader -> why there is none."""

    scores: dict[tuple[str, str], dict[str, dict[str, Any]]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    readers: frozenset[str] = frozenset()  # that some stage was to use

    @staticmethod
    def read(ctx: Context) -> "ClinicalScores":
        """All that the input role `clinical` has; nothing where the recipe has none."""
        all_scores = ClinicalScores()
        readers: set[str] = set()
        for path in ctx.files("clinical", "*.missing.json"):
            status = documents.read(path, _STATUS)
            readers.update(status["readers"])
            all_scores.missing.update(status["missing"])
        for row in joined(ctx.files("clinical", "*.jsonl"), "scores", _are_scores):
            of_sample = all_scores.scores.setdefault((row["task"], row["model"]), {}).setdefault(row["id"], {})
            of_sample.update(row["scores"])
        return ClinicalScores(all_scores.scores, all_scores.missing, frozenset(readers))

    def reasons(self, shown: Collection[str]) -> dict[str, str]:
        """Titles of the main columns that need a missing reader -> the reason, if some column shows it.

        A reader that one stage did not have, but a stage that joined the run later had, is not missing.
        """
        columns: dict[str, list[str]] = {}
        for reader in (reader for reader, why in self.missing.items() if why in shown):
            columns[reader] = [column.title for column in CLINICAL.values() if column.main and reader in column.needs]
        return {", ".join(titles) or reader: self.missing[reader] for reader, titles in columns.items()}


def _are_scores(value: Any) -> bool:
    """Whether a value holds numbers, and of CheXbert the labels of both texts."""
    return isinstance(value, dict) and all(
        score is None
        or (
            not documents.fault(score, [{...: int}]) and len(score) == 2
            if name.removesuffix(AS_WRITTEN) == _MADE["chexbert"]
            else isinstance(score, int | float)
        )
        for name, score in value.items()
    )


def write_scores(
    unit: Unit, ctx: Context, lines: Sequence[dict[str, Any]], readers: Sequence[str], missing: dict[str, str]
) -> Result:
    """Write the two files of a unit: its scores and what is missing, under names that end in AS_WRITTEN where texts are.

    The path of the models is left out of both, since the table may be shared.
    """
    folder = str(ctx.settings.get("weights") or "")
    end = AS_WRITTEN if ctx.settings.get("texts") == "as_written" else ""
    reasons = {f"{name}{end}": why.replace(folder, "weights") if folder else why for name, why in missing.items()}
    about = {"readers": [f"{name}{end}" for name in readers], "missing": reasons}
    named = [{**line, "scores": {f"{name}{end}": score for name, score in line["scores"].items()}} for line in lines]
    outputs = {
        ctx.output / f"{unit.key}.jsonl": "".join(json.dumps(line) + "\n" for line in named),
        ctx.output / f"{unit.key}.missing.json": json.dumps(about, ensure_ascii=False, indent=1) + "\n",
    }
    staged = {path: ctx.staged(path) for path in outputs}
    for path, content in outputs.items():
        write_text(staged[path], content)
    for name, why in missing.items():
        ctx.event("metric_missing", metric=name, why=why)
    unread = sum(bool(line["unread"]) for line in lines)
    return Result(staged, {"scored": len(lines), "missing": len(missing), "unread": unread})


def score_row(row: Prediction, scores: Mapping[str, Any], unread: Iterable[str] = ()) -> dict[str, Any]:
    """A line of scores. unread: the readers that could not take a text of the pair, or whose analysis could not be read."""
    return {"id": row.id, "task": row.task, "model": row.model, "scores": dict(scores), "unread": list(unread)}


def column_name(task: str, name: str) -> str:
    """The name of a clinical column of a task in metrics.json."""
    return name if task == "report" else f"{task}_{name}"


def clinical_metrics(rows: Sequence[Prediction], clinical: ClinicalScores) -> dict[str, Metric | str]:
    """The clinical columns of one model's rows of one task that was scored, else nothing.

    A column has a value only where every row has its score; else it says why not.
    """
    task, model = rows[0].task, rows[0].model
    if (task, model) not in clinical.scores:
        return {}
    scores = [clinical.scores[task, model].get(row.id, {}) for row in rows]
    lost = failed(rows)
    metrics: dict[str, Metric | str] = {}
    for name, column in CLINICAL.items():
        if not clinical.readers.issuperset(column.needs):
            continue
        if name.removesuffix(AS_WRITTEN) in REASONING:
            if metric := _reasoning(name, column.needs[0], scores):
                metrics[name] = metric
            continue
        agreement = AGREEMENT.get(name.removesuffix(AS_WRITTEN))
        key = _OWN[column.needs[0]] if agreement else name
        without = sum(row.get(key) is None for row in scores)
        absent = [reader for reader in column.needs if any(row.get(_OWN[reader]) is None for row in scores)]
        reason = next((clinical.missing[reader] for reader in absent if reader in clinical.missing), None)
        if without:
            metrics[name] = (
                reason or f"{without} of {len(scores)} samples have no score; run the stage that makes it again"
            )
        else:
            found = [row[key] for row in scores]
            metrics[name] = _chexbert(agreement, found, lost) if agreement else mean(_at_worst(column, found, lost))
    return {column_name(task, name): metric for name, metric in metrics.items()}


def _reasoning(name: str, reader: str, scores: Sequence[Mapping[str, Any]]) -> Metric | None:
    """The mean over the answers that the reader scored; one without a reasoning has 0, where others have one.

    Answers whose reference has no entity are left out.
    """
    if not any(name in row for row in scores) or any(row.get(_OWN[reader]) is None for row in scores):
        return None
    values = [row.get(name, 0.0) for row in scores]
    counts = [(0.0, 0.0) if value is None else (value, 1.0) for value in values]
    return Additive(np.array(counts, dtype=np.float64), mean_of)


def _at_worst(column: ClinicalColumn, scores: Sequence[float], lost: NDArray[np.bool_]) -> labels.Array:
    """Scores (N,), those of requests that failed no better than the column's worst: some give an empty text half a point."""
    worse = np.maximum if column.low else np.minimum
    values = np.array(scores, dtype=np.float64)
    return np.where(lost, worse(values, column.worst), values)


def _chexbert(how: Agreement, read: Sequence[Sequence[Mapping[str, int]]], lost: NDArray[np.bool_]) -> Metric:
    """Agreement of the labels of both sides, as F1CheXbert has it: uncertain is stated."""
    found = labels.agreement([ours for ours, _ in read], [theirs for _, theirs in read], how.names)
    return labels.averaged(labels.all_wrong(found, lost), how.measure, how.average)
