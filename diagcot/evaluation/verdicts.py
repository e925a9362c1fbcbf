"""What the table says of each step, in plain sentences: better, worse, or not told apart."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

RULE = (
    "Better or worse is said where the 95 % interval of the paired difference, over the same studies, lies wholly on "
    "one side of zero. The intervals are not corrected for the number of comparisons."
)


def verdicts(rows: Sequence[Mapping[str, Any]], columns: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One entry for each model and each of `previous` and `base`, main columns only.

    Each has dataset, model, against, how, lists `better`, `worse` and `unclear` of (title, difference, low, high), and
    the sentence `text`.
    """
    main = [column for column in columns if column["main"]]
    found: list[dict[str, Any]] = []
    for row in rows:
        for how in ("previous", "base"):
            lists: dict[str, list[tuple[str, float, float, float]]] = {"better": [], "worse": [], "unclear": []}
            against = ""
            for column in main:
                pair = row["scores"].get(column["name"], {}).get(how)
                if pair:
                    against = pair["model"]
                    lists[pair["verdict"]].append((column["title"], pair["value"], pair["low"], pair["high"]))
            repeats = how == "base" and found and found[-1]["model"] == row["model"] and found[-1]["against"] == against
            if against and not repeats:
                about = {"dataset": row["dataset"], "model": row["model"], "against": against, "how": how}
                found.append({**about, **lists, "text": _sentence(row["model"], against, lists)})
    return found


def _sentence(model: str, against: str, lists: Mapping[str, Sequence[tuple[str, float, float, float]]]) -> str:
    parts = []
    for verdict, words in (("better", "beats"), ("worse", "is worse than")):
        if lists[verdict]:
            named = ", ".join(f"{title} ({difference:+.3f})" for title, difference, _, _ in lists[verdict])
            parts.append(f"{words} {against} on {named}")
    if lists["unclear"]:
        named = ", ".join(title for title, *_ in lists["unclear"])
        parts.append(f"cannot be told from {against} on {named}")
    return f"{model} " + "; ".join(parts) + "."
