"""`python -m diagcot.console.screens.picture SVG COMMAND...`: the output of a command as a picture, for the README.

The pictures show a real run: `… picture docs/img/status.svg diagcot status --run demo` while the demo is running.
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
    """Run `command` as on a colour terminal of `width` columns and write its output as SVG. Returns its exit code."""
    terminal = {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": str(width), "PYTHONIOENCODING": "utf-8"}
    env = os.environ | terminal
    finished = subprocess.run(command, stdout=subprocess.PIPE, env=env, check=False)
    output = "\n".join(line.rstrip() for line in finished.stdout.decode().rstrip().splitlines())
    screen = Console(record=True, width=width, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    screen.print(Text.from_ansi(output))
    path.parent.mkdir(parents=True, exist_ok=True)
    svg = screen.export_svg(title=" ".join(command))
    # A picture in a README must not download fonts.
    path.write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL), encoding="utf-8")
    return finished.returncode


def main(arguments: list[str]) -> int:
    """Write one picture. Returns the exit code of the command, 2 for wrong arguments."""
    if len(arguments) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    return save(arguments[1:], Path(arguments[0]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
