"""A picture of a stage's training log: one panel a figure, the losses together."""

import json
import os
from pathlib import Path
from typing import Any

LOSSES = ("loss", "validation_loss")
HIDDEN = ("step", "epoch", "seconds")


def series(log: Path) -> dict[str, list[tuple[float, float]]]:
    """Figure -> (step, value) points; a line torn by a kill is left out."""
    found: dict[str, list[tuple[float, float]]] = {}
    for line in log.read_text(encoding="utf-8").splitlines() if log.is_file() else ():
        try:
            row: dict[str, Any] = json.loads(line)
            step = float(row["step"])
        except (ValueError, LookupError, TypeError):
            continue
        for name, value in row.items():
            if name not in HIDDEN and isinstance(value, int | float):
                found.setdefault(name, []).append((step, float(value)))
    return found


def draw(log: Path, picture: Path, title: str) -> None:
    """Write `picture` (PNG) whole or not at all; nothing where the log holds no step."""
    found = series(log)
    if not found:
        return
    from matplotlib.figure import Figure

    panels = [[name for name in LOSSES if name in found], *([name] for name in found if name not in LOSSES)]
    panels = [panel for panel in panels if panel]
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.2 * columns, 2.6 * rows), layout="constrained")
    figure.suptitle(title)
    for at, panel in enumerate(panels):
        axes = figure.add_subplot(rows, columns, at + 1)
        for name in panel:
            steps, values = zip(*found[name], strict=True)
            axes.plot(steps, values, label=name, linewidth=1.2, marker="." if len(steps) < 3 else None)
        axes.set_title(" and ".join(panel), fontsize=9)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
        if len(panel) > 1:
            axes.legend(fontsize=7)
    staged = picture.with_name(f".{picture.name}.{os.getpid()}")
    figure.savefig(staged, format="png", dpi=110)
    staged.replace(picture)
