"""A kind for tests: `count`, whose log says whether it runs in a container."""

import shutil
from pathlib import Path

from diagcot.jobs import Context, Result, Unit
from tests.kinds import count
from tests.kinds.count import prepare

__all__ = ["prepare", "run"]


def run(unit: Unit, shared: int, ctx: Context) -> Result | None:
    """As `count`."""
    inside = Path("/.singularity.d").is_dir()  # Apptainer adds it to an image
    print(f"image: {inside}, squeue: {shutil.which('squeue')}", flush=True)
    return count.run(unit, shared, ctx)
