"""How well free replies to closed questions are read: 406 made replies, in `closed_replies.json`.

A row holds the options, the letter that a careful reader takes the reply for (null: none), its style and the reply. The first
320 were written before the reader was changed, and 282 of them were read right then; those held out were written after it.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from diagcot.evaluation.scores.answers import closed_metrics
from diagcot.evaluation.scores.columns import unreadable
from diagcot.metrics.intervals import Bootstrap, Metric
from diagcot.tasks.predictions import Prediction
from diagcot.text.layout import last_answer
from diagcot.text.options import chosen

CASES: dict[str, Any] = json.loads(Path(__file__).with_name("closed_replies.json").read_text(encoding="utf-8"))
LEAST = 0.99


def test_of_hundred_replies_at_most_one_is_misread() -> None:
    all_of, right, wrong = Counter[str](), Counter[str](), list[tuple[str, str | None, str]]()
    for name, letter, style, reply in CASES["replies"]:
        found = chosen(last_answer(reply), CASES["options"][name]) or None
        all_of[style] += 1
        right[style] += found == letter
        if found not in (None, letter):
            wrong.append((reply, letter, found))
    assert all_of.total() >= 300 and right.total() >= LEAST * all_of.total(), right - all_of
    assert all(right[style] >= 0.9 * count for style, count in all_of.items()), all_of - right
    assert not wrong  # no reply counts for an option that it does not choose


def test_what_cannot_be_read_is_a_miss_and_is_counted() -> None:
    rows = [
        Prediction(str(n), str(n), "single", "made", "m", reply, last_answer(reply), "A", "stop", True, [],
                   about={"options": CASES["options"][name], "option": letter or "A"})
        for n, (name, letter, _, reply) in enumerate(CASES["replies"])
    ]  # fmt: skip
    none = sum(letter is None for _, letter, _, _ in CASES["replies"])
    assert none <= sum(map(unreadable, rows)) <= none + (1 - LEAST) * len(rows)
    accuracy = closed_metrics(rows)["single_accuracy"]
    assert isinstance(accuracy, Metric) and len(accuracy) == len(rows)
    value = Bootstrap([row.study for row in rows], 1).value(accuracy)
    assert LEAST * (1 - none / len(rows)) <= value <= 1 - none / len(rows)
