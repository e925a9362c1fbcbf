"""How findings are shown: their marks, a text with its remedy, and the last line, which says whether the chain would run."""

from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from diagcot.console import text
from diagcot.preflight.finding import Finding

MARKS = {"good": ("✓", "green"), "note": ("!", "yellow"), "bad": ("✗", "red")}


def mark(screen: Console, level: str) -> Text:
    """The sign of a finding's level."""
    sign, style = MARKS[level]
    return Text(text.fits(screen, sign), style)


def body(screen: Console, finding: Finding, hosts: str = "") -> Text:
    """The finding's text, the hosts that it was made on, and its remedy on a line of its own."""
    shown = Text(text.fits(screen, f"{finding.text}{hosts}"))
    if finding.remedy:
        shown.append(text.fits(screen, f"\n→ {finding.remedy}"), MARKS[finding.level][1])
    return shown


def verdict(findings: Iterable[Finding]) -> Text:
    """`ready`, or how many problems have to be fixed."""
    count = sum(finding.level == "bad" for finding in findings)
    problems = f"{count} problem{'s' * (count != 1)} to fix before submitting"
    return Text(problems, "red") if count else Text("ready", "green")
