"""Texts as people write them, for pages that people read."""

import re

_SPACE = re.compile(r"(?<![ \t])[ \t]+([.,;:])(?=\s|$)")
_START = re.compile(r"(?:^|(?<=[.!?]\s)|(?<=\n)|(?<=\bFindings: )|(?<=\bImpression: ))[a-z]")
_HEADING = re.compile(r"\b(findings|impression)(?=:)")


def readable(text: str) -> str:
    """Sentences and headings begin with a capital, and no space stands before a mark."""
    headed = _HEADING.sub(lambda match: match.group().capitalize(), _SPACE.sub(r"\1", text))
    return _START.sub(lambda match: match.group().upper(), headed)
