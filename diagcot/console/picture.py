"""`python -m diagcot.console.picture RUN_DIR SVG`: the status screen of a run as a picture, for the README."""

import io
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console, RenderableType

from diagcot.console.status import snapshot
from diagcot.console.status_screen import render

WIDTH = 120


def save(draw: Callable[[Console], RenderableType], path: Path, title: str, width: int = WIDTH) -> None:
    """Write a picture. `draw` is called with the console that draws it."""
    screen = Console(record=True, width=width, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    screen.print(draw(screen))
    path.parent.mkdir(parents=True, exist_ok=True)
    screen.save_svg(str(path), title=title)


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    run_dir, path = Path(arguments[0]), Path(arguments[1])
    save(lambda screen: render(snapshot(run_dir), screen), path, "make watch")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
