"""Which of several regular expressions can match a text at all, by the parts of words that their matches need.

Every match of `nodul(?:es?|ar)` has `nodul` in one of its words. Such parts are read from the expression itself, so that a
text without them is never searched: most sentences of a report can match few expressions of many.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from re import _constants as code  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any, TypeVar

Name = TypeVar("Name")


def needed(pattern: str) -> frozenset[str]:
    """Strings without blanks, of which every match of `pattern` has at least one; empty if that cannot be said."""
    return _of_sequence(_parser.parse(pattern))


def candidates(patterns: Mapping[Name, str]) -> Callable[[str], frozenset[Name]]:
    """A function from a text, its words set apart by single blanks, to the names of the patterns that can match it."""
    parts: dict[str, set[Name]] = {}
    always: set[Name] = set()
    for name, pattern in patterns.items():
        some = needed(pattern)
        for part in some:
            parts.setdefault(part, set()).add(name)
        if not some:
            always.add(name)

    @lru_cache(maxsize=65536)
    def of_word(word: str) -> frozenset[Name]:
        return frozenset(always.union(*(names for part, names in parts.items() if part in word)))

    def of_text(text: str) -> frozenset[Name]:
        return frozenset().union(*map(of_word, text.split(" ")))

    return of_text


def _of_sequence(items: Any) -> frozenset[str]:
    """The best set of one part of a sequence: the one whose shortest string is longest."""
    found: list[frozenset[str]] = []
    run = ""
    for operation, argument in [*items, (code.ANY, None)]:
        if operation is code.LITERAL:
            run += chr(argument)
            continue
        found += [frozenset({part}) for part in run.split()]
        run = ""
        found.append(_of_item(operation, argument))
    return max(found, key=lambda some: (min(map(len, some), default=0), -len(some)))


def _of_item(operation: Any, argument: Any) -> frozenset[str]:
    if operation is code.SUBPATTERN:
        return _of_sequence(argument[-1])
    if operation in (code.MAX_REPEAT, code.MIN_REPEAT) and argument[0] > 0:
        return _of_sequence(argument[-1])
    if operation is code.BRANCH:
        branches = [_of_sequence(branch) for branch in argument[1]]
        return frozenset().union(*branches) if all(branches) else frozenset()
    return frozenset()
