"""Scores of the 14 CheXpert labels: of the labels that an answer names, and of the probability of each label."""

from collections.abc import Sequence

import numpy as np

from diagcot.data.study import CHEXPERT_LABELS
from diagcot.metrics import labels, ranking
from diagcot.metrics.intervals import Additive, Array, Metric
from diagcot.tasks.predictions import Prediction
from diagcot.text.labels import chexpert

_NO_SCORES = "no probabilities were asked for (`probabilities` of the evaluate stage)"
_ONE_CLASS = "no label is both present and absent in the test split"
_NONE_KNOWN = "every label of the test split is in doubt"
_NO_VALIDATION = "the validate split has no samples to choose thresholds on"


def classification_metrics(rows: Sequence[Prediction], validation: Sequence[Prediction]) -> dict[str, Metric | str]:
    """Of the test rows; thresholds are chosen on `validation`, the same model's rows of the validate split.

    An answer that the server refused is wrong in every label, so that failures improve no score: its probabilities are as
    wrong as they can be, and the labels that it names are those that the study has not.
    """
    theirs = [dict.fromkeys(chexpert(row.reference), 1) for row in rows]
    named = [
        dict.fromkeys(set(CHEXPERT_LABELS) - set(true) if row.finish == "error" else chexpert(row.answer), 1)
        for row, true in zip(rows, theirs, strict=True)
    ]
    agreement = labels.agreement(named, theirs, labels.FINDINGS)
    truth = truth_of(rows)
    claimed = np.array([[name in row for name in CHEXPERT_LABELS] for row in named]).reshape(-1, len(CHEXPERT_LABELS))
    refused = np.array([row.finish == "error" for row in rows])[:, None]
    hard = ranking.confusion(np.where(refused, truth != 1, claimed), truth)
    found: dict[str, Metric | str] = {
        "classification_f1": Additive(agreement, labels.micro_f1),
        "classification_f1_macro": Additive(agreement, labels.macro_f1),
        "balanced_accuracy": Additive(hard, ranking.balanced_accuracy) if ranking.both_classes(truth) else _ONE_CLASS,
    }
    return found | _scored(rows, validation, truth)


def _scored(rows: Sequence[Prediction], validation: Sequence[Prediction], truth: Array) -> dict[str, Metric | str]:
    known = ("calibration_error", "brier", "f1_at_thresholds", "f1_at_thresholds_macro")
    groups = ranking.by_frequency(truth, CHEXPERT_LABELS)
    ranked = ("auc", "auprc", *(f"auc_{name}" for name in groups))
    if not any(row.scores for row in rows):
        return dict.fromkeys((*ranked, *known), _NO_SCORES)
    if not np.isfinite(truth).any():
        return {**dict.fromkeys(ranked, _ONE_CLASS), **dict.fromkeys(known, _NONE_KNOWN)}
    given = scores_of(rows)
    scores = _at_worst(given, truth)
    found: dict[str, Metric | str] = dict.fromkeys(ranked, _ONE_CLASS)
    if columns := ranking.both_classes(truth):
        found["auc"] = ranking.Ranking(scores, truth, "auc", columns)
        found["auprc"] = ranking.Ranking(scores, truth, "ap", columns)
        for name, mine in groups.items():
            found[f"auc_{name}"] = (
                ranking.Ranking(scores, truth, "auc", mine) if mine else "too few labels for three groups"
            )
    found["calibration_error"] = ranking.calibration_error(given, truth)
    found["brier"] = ranking.brier(given, truth)
    if not validation:
        return found | dict.fromkeys(("f1_at_thresholds", "f1_at_thresholds_macro"), _NO_VALIDATION)
    at = ranking.thresholds(scores_of(validation), truth_of(validation))
    counts = ranking.decisions(scores, truth, at)[:, [CHEXPERT_LABELS.index(name) for name in labels.FINDINGS]]
    found["f1_at_thresholds"] = Additive(counts, labels.micro_f1)
    found["f1_at_thresholds_macro"] = Additive(counts, labels.macro_f1)
    return found


def by_label(rows: Sequence[Prediction]) -> dict[str, tuple[int, Metric]]:
    """Label -> how many test samples have it, and its AUC; of the labels that are both present and absent."""
    truth = truth_of(rows)
    scores = _at_worst(scores_of(rows), truth)
    return {
        CHEXPERT_LABELS[column]: (
            int((truth[:, column] == 1).sum()),
            ranking.Ranking(scores, truth, "auc", (column,)),
        )
        for column in ranking.both_classes(truth)
        if any(row.scores for row in rows)
    }


def truth_of(rows: Sequence[Prediction]) -> Array:
    """(N, 14): 1 present, 0 absent or not mentioned, NaN in doubt."""
    values = {1: 1.0, -1: np.nan}
    table = [[values.get(row.about["labels"].get(name, 0), 0.0) for name in CHEXPERT_LABELS] for row in rows]
    return np.array(table, dtype=np.float64).reshape(-1, len(CHEXPERT_LABELS))


def scores_of(rows: Sequence[Prediction]) -> Array:
    """(N, 14) probabilities, NaN where there is none."""
    table = [[row.scores.get(name, np.nan) for name in CHEXPERT_LABELS] for row in rows]
    return np.array(table, dtype=np.float64).reshape(-1, len(CHEXPERT_LABELS))


def _at_worst(scores: Array, truth: Array) -> Array:
    """The scores, with a missing one below all others where the label is present and above them where it is absent."""
    return np.where(np.isnan(scores), np.where(truth == 1, -1.0, 2.0), scores)
