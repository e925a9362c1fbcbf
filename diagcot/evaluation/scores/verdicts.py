"""Sentences about each step of the table: better, worse, or no clear difference."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from diagcot.metrics.intervals import LEAST_STUDIES

LEVEL = 0.05
NOISE = 1e-6  # BLEU's smoothing and rounding leave differences below it between texts that are equally wrong
COMPARED = ("start", "base", "control")
"""What a model is compared with: the one that it starts from, the first of the table, and the control that a recipe names."""
MARKS = f"by p < .05 after Holm over the whole table, from {LEAST_STUDIES} studies on"
RULE = (
    "Better or worse is said where the 95 % interval of the paired difference, over the same studies, lies wholly on "
    "one side of zero and its p, corrected by Holm for all differences of the table, is below .05. Nothing is said with fewer "
    f"than {LEAST_STUDIES} studies, nor in favour of the model on which more requests failed."
)


def verdict(pair: Mapping[str, Any], studies: int, low: bool, failed: int, others_failed: int) -> str:
    """What is said of a difference by RULE: better, worse or unclear.

    low: the lower the better. failed: how many requests got no answer, of the two models.
    """
    if studies < LEAST_STUDIES or pair["low"] is None or pair["p_holm"] >= LEVEL:
        return "unclear"
    if pair["low"] <= NOISE and pair["high"] >= -NOISE:
        return "unclear"
    better = (pair["low"] > NOISE) is not low
    return (
        "unclear" if (failed > others_failed if better else others_failed > failed) else "better" if better else "worse"
    )


def verdicts(rows: Sequence[Mapping[str, Any]], columns: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One entry for each model and each of COMPARED, main columns only.

    Each has dataset, model, against, how, `pairs` (column -> difference, interval and verdict), the titles that are
    `better`, `worse` and `unclear`, and the sentence `text`.
    """
    main = {column["name"]: column["title"] for column in columns if column["main"]}
    found: list[dict[str, Any]] = []
    for row in rows:
        for how in COMPARED:
            cells = {name: row["scores"].get(name, {}).get(how) for name in main}
            pairs = {name: pair for name, pair in cells.items() if pair}
            if not pairs:
                continue
            against = next(iter(pairs.values()))["model"]
            if any((row["dataset"], row["model"], against) == (v["dataset"], v["model"], v["against"]) for v in found):
                continue  # it starts from the base, say
            about = {"dataset": row["dataset"], "model": row["model"], "against": against, "how": how, "pairs": pairs}
            for verdict in ("better", "worse", "unclear"):
                about[verdict] = [main[name] for name, pair in pairs.items() if pair["verdict"] == verdict]
            found.append({**about, "text": _sentence(about, main)})
    return found


def _sentence(about: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    parts = []
    for verdict, words in (("better", "beats"), ("worse", "is worse than")):
        named = [
            f"{titles[name]} ({pair['value']:+.3f})"
            for name, pair in about["pairs"].items()
            if pair["verdict"] == verdict
        ]
        if named:
            parts.append(f"{words} {about['against']} on {', '.join(named)}")
    if about["unclear"]:
        parts.append(f"does not differ clearly from {about['against']} on {', '.join(about['unclear'])}")
    return f"{about['model']} {'; '.join(parts)}."
