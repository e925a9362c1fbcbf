"""Texts of one size that go round in circles, built from what a module's readers know: its patterns, tags, marks and words."""

import random
import re
import sys
from collections.abc import Iterator
from functools import cache
from re import _constants as codes  # type: ignore[attr-defined]  # the parser of `re`, whose tree says what a pattern knows
from re import _parser as parser  # type: ignore[attr-defined]
from types import ModuleType
from typing import Any

SIZE = 20_000
TAGS = ("<think>", "</think>", "<answer>", "</answer>", "<box>", "</box>", "<|box_start|>", "[Explanation]:", "<image>")
MARKS = (
    "✅",
    "❌",
    "A) ",
    "b)",
    "(1,2)",
    "[1, 2, 3, 4]",
    "12",
    ".1",
    "{",
    "}",
    '"',
    "\\",
    "`",
    "**",
    "- ",
    "\ud800",
    "ß",
    "İ",
)
WORDS = (
    "no",
    "no ",
    "heart is ",
    "lungs ",
    "left ",
    "right and ",
    "effusion, ",
    "not only ",
    "look ",
    "again ",
    "\n",
    " ",
    "\t",
    ".",
)
_TAIL = ("", "\n", "x", "<think>I look", ".", "!", "</answer", " but")


def examples(pattern: re.Pattern[str], source: random.Random) -> Iterator[str]:
    """Texts that a pattern matches, roughly: assertions are ignored, repetitions are short."""
    for _ in range(4):
        yield _example(_tree(pattern), source)


@cache
def _tree(pattern: re.Pattern[str]) -> Any:
    return parser.parse(pattern.pattern, pattern.flags)


def patterns_of(modules: list[ModuleType]) -> list[re.Pattern[str]]:
    """The compiled patterns among the globals of modules, also those in tables."""
    found: dict[re.Pattern[str], None] = {}
    for module in modules:
        for value in _globals(module):
            entries = (
                value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else (value,)
            )
            found |= dict.fromkeys(one for one in entries if isinstance(one, re.Pattern))
    return list(found)


def words_of(modules: list[ModuleType]) -> list[str]:
    """The short texts among the globals of modules."""
    found: dict[str, None] = {}
    for module in modules:
        for value in _globals(module):
            entries = value if isinstance(value, dict | tuple | list | set | frozenset) else (value,)
            found |= dict.fromkeys(one for one in entries if isinstance(one, str) and 0 < len(one) < 60)
    return sorted(found)


def _globals(module: ModuleType) -> list[Any]:
    """What a module defines; `__builtins__` and the like say nothing of its readers."""
    return [value for name, value in vars(module).items() if not name.startswith("__")]


def modules_of(package: str) -> list[ModuleType]:
    """The imported modules of a package, or the module."""
    return [m for name, m in sorted(sys.modules.items()) if m and (name == package or name.startswith(package + "."))]


def looping(modules: list[ModuleType], count: int, seed: int) -> Iterator[tuple[str, str]]:
    """(what is repeated, the text): one part, or two or three in turn, then an end that may spoil a match."""
    source = random.Random(seed)
    known = [text for pattern in patterns_of(modules) for text in examples(pattern, source)]
    parts = [part for part in dict.fromkeys((*TAGS, *MARKS, *WORDS, *known, *words_of(modules))) if part]
    parts += [part[:-1] for part in known if len(part) > 1]
    pair = "<think>I look for finding {} and see no sign of it.</think>\n<answer>A) ❌</answer>\n"
    yield pair.format("i"), "".join(map(pair.format, range(SIZE // len(pair)))) + "<think>I look"
    for _ in range(count):
        chosen = source.sample(parts, source.choice((1, 1, 2, 2, 3)))
        joint = source.choice(("", " ", "\n", ", "))
        unit = joint.join(chosen) + joint
        head, tail = source.choice(("", "<think>", "<answer>", "no ", *parts)), source.choice(_TAIL)
        yield unit, head + unit * ((SIZE - len(head) - len(tail)) // len(unit)) + tail


def _example(tree: Any, source: random.Random) -> str:
    return "".join(_token(code, value, source) for code, value in tree)


def _token(code: Any, value: Any, source: random.Random) -> str:
    if code is codes.LITERAL:
        return chr(value)
    if code in (codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT):
        low, high, part = value
        return "".join(_example(part, source) for _ in range(source.randint(low, max(low, min(high, low + 2, 3)))))
    if code is codes.SUBPATTERN:
        return _example(value[-1], source)
    if code is codes.ATOMIC_GROUP:
        return _example(value, source)
    if code is codes.BRANCH:
        return _example(source.choice(value[1]), source)
    if code is codes.IN:
        return _member(value, source)
    return source.choice("a1") if code in (codes.ANY, codes.NOT_LITERAL) else ""


def _member(members: Any, source: random.Random) -> str:
    if members[0][0] is codes.NEGATE:
        return "a"
    code, value = source.choice(members)
    if code is codes.LITERAL:
        return chr(value)
    if code is codes.RANGE:
        return chr(value[0])
    return {codes.CATEGORY_DIGIT: "7", codes.CATEGORY_SPACE: " "}.get(value, "a")
