"""What a run has taken from other runs, as its file `reused.json` says."""

from pathlib import Path

from diagcot.jobs.state import documents

FILE = "reused.json"
"""In the folder of a run: `{stage: {"run": …, "stage": …, "folder": …, "product": …}}`, the run that made the product, the
stage's name there, that run's folder, and a digest of the product."""


def read(run_dir: Path) -> dict[str, dict[str, str]]:
    """What a run reads of others, by the name that it has here; nothing if it reads nothing.

    Raises UserError if the file is damaged.
    """
    path = run_dir / FILE
    try:
        return documents.read(path, documents.REUSED)
    except FileNotFoundError:
        return {}


def stage_dir(run_dir: Path, name: str) -> Path:
    """The folder with the plan of a stage that a run reads, which may be in another run's folder."""
    taken = read(run_dir).get(name)
    return Path(taken["folder"]) / taken["stage"] if taken else run_dir / name
