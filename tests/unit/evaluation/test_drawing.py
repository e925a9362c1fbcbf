"""Charts and tables of the report that nobody can misread."""

import re

from diagcot.evaluation.report import drawing, report
from diagcot.evaluation.scores.table import table
from diagcot.evaluation.scores.text_tools import TextTools
from diagcot.evaluation.scores.verdicts import verdicts
from tests.unit.evaluation.test_own_metrics import answered


def texts(svg: str) -> list[str]:
    return re.findall(r">([^<>]+)</text>", svg)


def test_an_axis_has_zero_and_holds_all_values() -> None:
    below = str(drawing.intervals([("a", -0.5, -0.8, -0.2), ("b", 0.3, 0.1, 0.4)], {"a": 0, "b": 1}))
    assert {"-0.8", "0", "0.4"} <= set(texts(below))
    places = [float(x) for x in re.findall(r'cx="([-\d.]+)"', below)]
    assert all(78 <= x <= 288 for x in places) and places[0] < places[1]
    nothing = str(drawing.intervals([("a", 0.0, 0.0, 0.0)], {"a": 0}))
    assert "1" in texts(nothing) and "1e-09" not in nothing


def test_the_best_of_a_column_is_underlined_and_equal_values_are_not() -> None:
    for right, underlined in (((5, 15), 5), ((7, 7), 0)):  # of six columns, one of zeros
        rows = [*answered("one", right[0]), *answered("two", right[1])]
        made = table(rows, ["one", "two"], TextTools(), draws=100)
        metrics = {"run": "r", "time": 0.0, "warnings": [], **made}
        page = report.html(metrics | {"verdicts": verdicts(made["rows"], made["columns"])}, [], [], {})
        assert page.count('class="best"') == underlined, right
