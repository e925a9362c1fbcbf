"""What a run has taken from other runs, as its file `reused.json` says."""

import json
from pathlib import Path

from diagcot.jobs.errors import UserError

FILE = "reused.json"
"""In the folder of a run: `{stage: {"run": …, "stage": …, "folder": …, "product": …}}`, the run that made the product, the
stage's name there, that run's folder, and a digest of the product."""

KEYS = ("run", "stage", "folder", "product")


def read(run_dir: Path) -> dict[str, dict[str, str]]:
    """What a run reads of others, by the name that it has here; nothing if it reads nothing.

    Raises UserError if the file is damaged.
    """
    path = run_dir / FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): it names what the run has taken from other runs") from error
    rows = found.values() if isinstance(found, dict) else [None]
    if not all(isinstance(row, dict) and all(isinstance(row.get(key), str) for key in KEYS) for row in rows):
        raise UserError(f"{path} is damaged: it names what the run has taken from other runs")
    return dict(found)


def stage_dir(run_dir: Path, name: str) -> Path:
    """The folder with the plan of a stage that a run reads, which may be in another run's folder."""
    taken = read(run_dir).get(name)
    return Path(taken["folder"]) / taken["stage"] if taken else run_dir / name
