"""What reaches a terminal: text of data, models, servers and logs moves no cursor, sets no title and reorders no line.

Control characters, also those of 8 bits, direction overrides and halves of characters become a mark. Only the screens' own
styles are sent as escape sequences.
"""

import contextlib
import io
import re
import sys
from collections.abc import Iterator
from typing import Any, TextIO

MARK = "\N{REPLACEMENT CHARACTER}"
_CONTROLS = "\0-\x08\x0b-\x1f\x7f-\x9f"  # all but the tabulator and the line feed
_DIRECTIONS = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_LINES = "\u2028\u2029"
_UNSAFE = re.compile(f"\r\n|[{_CONTROLS}{_DIRECTIONS}{_LINES}\ud800-\udfff]")


def safe(text: str) -> str:
    """`text` with a mark in place of every character that a terminal would obey."""
    return _UNSAFE.sub(lambda found: "\n" if found[0] == "\r\n" else MARK, text)


class Stream:
    """A text stream that is given safe text only; `own` is the stream itself, for the screens' styles."""

    def __init__(self, own: TextIO) -> None:
        self.own = own
        if isinstance(own, io.TextIOWrapper):
            own.reconfigure(errors="replace")

    def write(self, text: str) -> int:
        """As of a text stream."""
        self.own.write(safe(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """As of a text stream."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.own, name)


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Send what is printed in this block through `Stream`."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = Stream(before[0]), Stream(before[1])
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
