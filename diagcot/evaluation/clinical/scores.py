"""Scores by models that read reports: their files, and the columns of the table that are computed from them."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from diagcot.data.study import CHEXPERT_LABELS
from diagcot.evaluation.predictions import joined
from diagcot.jobs import Context, Result, Unit
from diagcot.jobs.state import reading
from diagcot.metrics import labels
from diagcot.metrics.intervals import Additive, Metric, mean
from diagcot.tasks.predictions import Prediction


@dataclass(frozen=True)
class ClinicalColumn:
    """A column: its title, the readers it needs (folders of `weights.READERS`, or GREEN), and whether it is shown."""

    title: str
    needs: tuple[str, ...]
    main: bool = True
    low: bool = False


_F1 = ("chexbert",)
CLINICAL = {
    "chexbert_f1": ClinicalColumn("CheXbert F1", _F1),
    "radgraph_partial": ClinicalColumn("RadGraph F1", ("radgraph",)),
    "bertscore": ClinicalColumn("BERTScore", ("distilroberta-base",)),
    "radcliq": ClinicalColumn("RadCliQ-v1", ("chexbert", "distilroberta-base", "radgraph"), low=True),
    "ratescore": ClinicalColumn("RaTEScore", ("ratescore",)),
    "green": ClinicalColumn("GREEN", ("green",)),
    "chexbert_f1_macro": ClinicalColumn("CheXbert F1, macro", _F1, False),
    "chexbert_f1_five": ClinicalColumn("CheXbert F1, five labels", _F1, False),
    "chexbert_f1_five_macro": ClinicalColumn("CheXbert F1, five labels, macro", _F1, False),
    "semb": ClinicalColumn("CheXbert embedding similarity (SembScore)", _F1, False),
    "radgraph_simple": ClinicalColumn("RadGraph F1, entities", ("radgraph",), False),
    "radgraph_complete": ClinicalColumn("RadGraph F1, entities and relations", ("radgraph",), False),
    "radgraph_xl_partial": ClinicalColumn("RadGraph-XL F1", ("radgraph-xl",), False),
    "radgraph_xl_simple": ClinicalColumn("RadGraph-XL F1, entities", ("radgraph-xl",), False),
    "radgraph_xl_complete": ClinicalColumn("RadGraph-XL F1, entities and relations", ("radgraph-xl",), False),
}

_OWN = {
    "chexbert": "chexbert",
    "distilroberta-base": "bertscore",
    "radgraph": "radgraph_partial",
    "radgraph-xl": "radgraph_xl_partial",
    "ratescore": "ratescore",
    "green": "green",
}
"""Reader -> a score that it alone makes."""


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
            status = json.loads(reading.read_text(path))
            readers.update(status["readers"])
            all_scores.missing.update(status["missing"])
        for row in joined(ctx.files("clinical", "*.jsonl")):
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


def write_scores(
    unit: Unit, ctx: Context, lines: Sequence[dict[str, Any]], readers: Sequence[str], missing: dict[str, str]
) -> Result:
    """Write the two files of a unit: its scores and what is missing.

    The path of the models is left out of both, since the table may be shared.
    """
    folder = str(ctx.settings.get("weights") or "")
    reasons = {name: why.replace(folder, "weights") if folder else why for name, why in missing.items()}
    about = {"readers": list(readers), "missing": reasons}
    outputs = {
        ctx.output / f"{unit.key}.jsonl": "".join(json.dumps(line) + "\n" for line in lines),
        ctx.output / f"{unit.key}.missing.json": json.dumps(about, ensure_ascii=False, indent=1) + "\n",
    }
    staged = {path: ctx.staged(path) for path in outputs}
    for path, content in outputs.items():
        staged[path].write_text(content, encoding="utf-8")
    for name, why in missing.items():
        ctx.event("metric_missing", metric=name, why=why)
    return Result(staged, {"scored": len(lines), "missing": len(missing)})


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
    metrics: dict[str, Metric | str] = {}
    for name, column in CLINICAL.items():
        if not clinical.readers.issuperset(column.needs):
            continue
        key = "chexbert" if name.startswith("chexbert") else name
        without = sum(row.get(key) is None for row in scores)
        absent = [reader for reader in column.needs if any(row.get(_OWN[reader]) is None for row in scores)]
        reason = next((clinical.missing[reader] for reader in absent if reader in clinical.missing), None)
        if without:
            metrics[name] = (
                reason or f"{without} of {len(scores)} samples have no score; run the stage that makes it again"
            )
        else:
            metrics[name] = _chexbert(name, scores) if key == "chexbert" else mean([row[name] for row in scores])
    return {column_name(task, name): metric for name, metric in metrics.items()}


def _chexbert(name: str, scores: Sequence[Mapping[str, Any]]) -> Metric:
    """F1 over the 14 or 5 labels, as F1CheXbert has it: uncertain is stated, and a label that nobody states has F1 0."""
    names = labels.FIVE if "five" in name else CHEXPERT_LABELS
    counts = labels.agreement([row["chexbert"][0] for row in scores], [row["chexbert"][1] for row in scores], names)
    return Additive(counts, labels.macro_f1_of_all if name.endswith("macro") else labels.micro_f1)
