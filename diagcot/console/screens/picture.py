"""`python -m diagcot.console.screens.picture SVG COMMAND...`: what a command shows on a terminal, as a picture for the README.

The picture is of a real run: `… picture docs/img/status.svg diagcot status --run demo` while the demo is at work.
"""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

WIDTH = 120


def save(command: list[str], path: Path, width: int = WIDTH) -> int:
    """Run `command` as on a colour terminal of `width` columns and write what it shows. Returns its exit code."""
    terminal = {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": str(width), "PYTHONIOENCODING": "utf-8"}
    env = os.environ | terminal
    done = subprocess.run(command, stdout=subprocess.PIPE, env=env, check=False)
    shown = "\n".join(line.rstrip() for line in done.stdout.decode().rstrip().splitlines())
    screen = Console(record=True, width=width, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    screen.print(Text.from_ansi(shown))
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = screen.export_svg(title=" ".join(command))
    # A picture in a README has no business to fetch fonts from elsewhere.
    path.write_text(re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL), encoding="utf-8")
    return done.returncode


def main(arguments: list[str]) -> int:
    if len(arguments) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    return save(arguments[1:], Path(arguments[0]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
