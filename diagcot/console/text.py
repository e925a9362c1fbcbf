"""Formats of figures, times and bars, the same on every screen."""

import io
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderHook, RenderResult
from rich.segment import Segment
from rich.text import Text

from diagcot.console.terminal import Stream, safe

STYLES = {"done": "green", "running": "cyan", "pending": "dim", "failed": "red", "unknown": "yellow"}
MARKS = {"done": "✓", "running": "▶", "pending": "·", "failed": "✗", "unknown": "?"}
PLAIN = {
    "✓": "ok",
    "▶": ">",
    "·": ".",
    "✗": "x",
    "█": "#",
    "▒": "+",
    "░": "-",
    "→": "->",
    "⇒": "=>",
    "…": "..",
    "×": "x",
}

LEAST_WIDTH, MOST_WIDTH = 40, 1000  # columns


class Screen(Console):
    """A console that leaves it to the command what follows when nobody reads its output any more."""

    def on_broken_pipe(self) -> None:
        """Called while the error is handled."""
        raise  # noqa: PLE0704


def console(width: int | None = None) -> Console:
    """Standard output; without colour in a pipe, with replacements for characters that it cannot show.

    width: in columns; by default the terminal's, from `LEAST_WIDTH` to `MOST_WIDTH`, since COLUMNS may be nonsense.
    """
    own = sys.stdout.own if isinstance(sys.stdout, Stream) else sys.stdout
    if isinstance(own, io.TextIOWrapper):
        own.reconfigure(errors="replace")
    screen = Screen(file=own, width=width, highlight=False, soft_wrap=False)
    screen.push_render_hook(_Safe())
    if width is None:
        screen.width = min(max(screen.width, LEAST_WIDTH), MOST_WIDTH)
    return screen


class _Safe(RenderHook):
    """Leaves the screen's own styles in what is shown, and no other escape sequence."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """As of `RenderHook`."""
        return [_SafeText(renderable) for renderable in renderables]


@dataclass(frozen=True)
class _SafeText:
    shown: RenderableType

    def __rich_console__(self, screen: Console, options: ConsoleOptions) -> RenderResult:
        for part in screen.render(self.shown, options):
            yield part if part.control else Segment(safe(part.text), part.style)


def fits(screen: Console, text: str) -> str:
    """`text` with ASCII replacements if the terminal's encoding needs them."""
    if "utf" in (screen.encoding or "").lower():
        return text
    return "".join(PLAIN.get(char, char) for char in text)


def duration(seconds: float | None) -> str:
    """`0:42`, `12:03`, `3:04:05`, `2d 03h`; empty if unknown."""
    if seconds is None or not math.isfinite(seconds):
        return ""
    whole = int(seconds)
    if whole >= 86400:
        return f"{whole // 86400}d {whole % 86400 // 3600:02d}h"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def number(value: Any) -> str:
    """Three or four significant digits, with k or M for large numbers."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= 10000:
        return f"{value / 1000:.3g}k" if abs(value) < 1e6 else f"{value / 1e6:.3g}M"
    if value == int(value):
        return str(int(value))
    if abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:.3g}" if abs(value) >= 1e-3 else f"{value:.0e}"


def count(value: int) -> str:
    """A count; from a hundred thousand on with k or M."""
    if value < 100_000:
        return str(value)
    return f"{value // 1000}k" if value < 1_000_000 else f"{value / 1e6:.4g}M"


def figures(row: Mapping[str, Any]) -> str:
    """`loss 1.32, 14.1 req/s, 83% cache hits`."""
    return ", ".join(_figure(name, number(value)) for name, value in row.items())


def _figure(name: str, value: str) -> str:
    if name.endswith("/s"):
        return f"{value} {name}"
    return f"{value}% {name.removesuffix('%').strip()}" if name.endswith("%") else f"{name} {value}"


def bar(screen: Console, width: int, done: float, running: float, state: str) -> Text:
    """A progress bar, readable without colour. done, running: shares of the whole, 0 to 1."""
    full = min(width, int(done * width + 1e-9))
    part = min(width - full, math.ceil(running * width - 1e-9)) if running > 0 else 0
    text = Text()
    text.append(fits(screen, "█" * full), STYLES["done"] if state == "done" else STYLES["running"])
    text.append(fits(screen, "▒" * part), STYLES["running"])
    text.append(fits(screen, "░" * (width - full - part)), "dim")
    return text


def size(count: float) -> str:
    """Bytes as `33 kB`, `6.4 MB`, `41 GB`, `1.2 TB` (powers of 1000)."""
    for unit, length in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= length:
            value = count / length
            return f"{value:.0f} {unit}" if value >= 10 else f"{value:.1f} {unit}"
    return f"{count:.0f} B"


def home(path: Path) -> str:
    """A path relative to the working directory, if it is inside."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
