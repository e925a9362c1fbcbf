"""Screens on terminals that say nothing sensible about their width."""

import pytest

from diagcot.console.text import LEAST_WIDTH, MOST_WIDTH, console


@pytest.mark.parametrize(
    ("columns", "width"),
    [("0", LEAST_WIDTH), ("1", LEAST_WIDTH), ("40", 40), ("200", 200), ("x", 80), ("-5", 80), ("99999999", MOST_WIDTH)],
)
def test_a_screen_has_a_least_and_a_most_width(monkeypatch: pytest.MonkeyPatch, columns: str, width: int) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert console().width == width
    assert console(20).width == 20
