"""The columns that come from models that read reports, and what makes each from the scores of single reports."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from diagcot.data.study import CHEXPERT_LABELS
from diagcot.evaluation.predictions import Prediction
from diagcot.jobs import Context
from diagcot.metrics import labels
from diagcot.metrics.intervals import Additive, Metric, mean


@dataclass(frozen=True)
class Clinical:
    """A column: its title, the readers it needs (folders of `weights.READERS`, or GREEN), and whether it is shown."""

    title: str
    needs: tuple[str, ...]
    main: bool = True
    low: bool = False


_F1 = ("chexbert",)
CLINICAL = {
    "chexbert_f1": Clinical("CheXbert F1", _F1),
    "radgraph_partial": Clinical("RadGraph F1", ("radgraph",)),
    "bertscore": Clinical("BERTScore", ("distilroberta-base",)),
    "radcliq": Clinical("RadCliQ-v1", ("chexbert", "distilroberta-base", "radgraph"), low=True),
    "ratescore": Clinical("RaTEScore", ("ratescore",)),
    "green": Clinical("GREEN", ("green",)),
    "chexbert_f1_macro": Clinical("CheXbert F1, macro", _F1, False),
    "chexbert_f1_five": Clinical("CheXbert F1, five labels", _F1, False),
    "chexbert_f1_five_macro": Clinical("CheXbert F1, five labels, macro", _F1, False),
    "semb": Clinical("CheXbert embedding similarity (SembScore)", _F1, False),
    "radgraph_simple": Clinical("RadGraph F1, entities", ("radgraph",), False),
    "radgraph_complete": Clinical("RadGraph F1, entities and relations", ("radgraph",), False),
    "radgraph_xl_partial": Clinical("RadGraph-XL F1", ("radgraph-xl",), False),
    "radgraph_xl_simple": Clinical("RadGraph-XL F1, entities", ("radgraph-xl",), False),
    "radgraph_xl_complete": Clinical("RadGraph-XL F1, entities and relations", ("radgraph-xl",), False),
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
        found = ClinicalScores()
        readers: set[str] = set()
        for path in ctx.files("clinical", "*.missing.json"):
            told = json.loads(path.read_text(encoding="utf-8"))
            readers.update(told["readers"])
            found.missing.update(told["missing"])
        for path in ctx.files("clinical", "*.jsonl"):
            for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
                found.scores.setdefault((row["task"], row["model"]), {}).setdefault(row["id"], {}).update(row["scores"])
        return ClinicalScores(found.scores, found.missing, frozenset(readers))

    def reasons(self, told: Collection[str]) -> dict[str, str]:
        """Titles of the main columns that need what is missing -> why, of the reasons that some column tells.

        A reader that one stage lacked, and another that joined the run later had, is not missing.
        """
        found: dict[str, list[str]] = {}
        for reader in (reader for reader, why in self.missing.items() if why in told):
            found[reader] = [column.title for column in CLINICAL.values() if column.main and reader in column.needs]
        return {", ".join(titles) or reader: self.missing[reader] for reader, titles in found.items()}


def column_name(task: str, name: str) -> str:
    return name if task == "report" else f"{task}_{name}"


def clinical_metrics(rows: Sequence[Prediction], found: ClinicalScores) -> dict[str, Metric | str]:
    """The clinical columns of one model's rows of one task that was scored, else nothing.

    A column has a value only where every row has its score; else it says why not.
    """
    task, model = rows[0].task, rows[0].model
    if (task, model) not in found.scores:
        return {}
    mine = [found.scores[task, model].get(row.id, {}) for row in rows]
    made: dict[str, Metric | str] = {}
    for name, column in CLINICAL.items():
        if not found.readers.issuperset(column.needs):
            continue
        key = "chexbert" if name.startswith("chexbert") else name
        without = sum(scores.get(key) is None for scores in mine)
        lacking = [reader for reader in column.needs if any(scores.get(_OWN[reader]) is None for scores in mine)]
        gone = next((found.missing[reader] for reader in lacking if reader in found.missing), None)
        if without:
            made[name] = gone or f"{without} of {len(mine)} samples have no score; run the stage that makes it again"
        else:
            made[name] = _chexbert(name, mine) if key == "chexbert" else mean([scores[name] for scores in mine])
    return {column_name(task, name): metric for name, metric in made.items()}


def _chexbert(name: str, scores: Sequence[Mapping[str, Any]]) -> Metric:
    """F1 over the 14 or 5 labels, as F1CheXbert has it: uncertain is stated, and a label that nobody states has F1 0."""
    names = labels.FIVE if "five" in name else CHEXPERT_LABELS
    counts = labels.agreement([row["chexbert"][0] for row in scores], [row["chexbert"][1] for row in scores], names)
    return Additive(counts, labels.macro_f1_of_all if name.endswith("macro") else labels.micro_f1)
