"""What reaches a terminal: text of data, models, servers and logs moves no cursor, sets no title and reorders no line.

Control characters, also those of 8 bits, direction overrides and halves of characters become a mark. Only the screens' own
styles are sent as escape sequences.
"""

import contextlib
import io
import os
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
    before = sys.stdin, sys.stdout, sys.stderr
    _open_standard_streams()
    sys.stdout, sys.stderr = Stream(sys.stdout), Stream(sys.stderr)
    try:
        yield
    finally:
        sys.stdin, sys.stdout, sys.stderr = before


def _open_standard_streams() -> None:
    """Give a process that was started without a standard stream (`>&-`, some daemons) the null device in its place.

    Else the first file that it opens would take the number of that stream, and its children would write into it.
    """
    for number, (name, mode) in enumerate({"stdin": "r", "stdout": "w", "stderr": "w"}.items()):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest number that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


def fault_of_the_output() -> str:
    """Why standard output cannot be written, after which it goes to the null device; empty if it can."""
    try:
        sys.stdout.flush()
        os.write(sys.stdout.fileno(), b"\n")  # a flush after one that failed says nothing
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return error.strerror or str(error)
    return ""
