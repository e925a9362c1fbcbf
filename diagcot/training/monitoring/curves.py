"""A picture of a stage's training log: one panel for each figure, the losses together."""

import os
from pathlib import Path

from diagcot.metrics import curves

LOSSES = ("loss", "validation_loss")


def draw(log: Path, picture: Path, title: str) -> None:
    """Write `picture` (PNG) completely or not at all; nothing where the log holds no step."""
    points = curves.read(log)
    if not points:
        return
    from matplotlib.figure import Figure

    panels = [[name for name in LOSSES if name in points], *([name] for name in points if name not in LOSSES)]
    panels = [panel for panel in panels if panel]
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.2 * columns, 2.6 * rows), layout="constrained")
    figure.suptitle(title)
    for position, panel in enumerate(panels, 1):
        axes = figure.add_subplot(rows, columns, position)
        for name in panel:
            steps, values = zip(*points[name], strict=True)
            axes.plot(steps, values, label=name, linewidth=1.2, marker="." if len(steps) < 3 else None)
        axes.set_title(" and ".join(panel), fontsize=9)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
        if len(panel) > 1:
            axes.legend(fontsize=7)
    staged = picture.with_name(f".{picture.name}.{os.getpid()}")
    figure.savefig(staged, format="png", dpi=110)
    staged.replace(picture)
