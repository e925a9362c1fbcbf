"""The model directory of an input stage, and the `diagcot.json` of a model that a stage writes."""

import json
from pathlib import Path
from typing import Any

from diagcot.jobs import Context, UserError
from diagcot.jobs.state.files import write_text


def model_input(ctx: Context, role: str = "model") -> Path:
    """The model directory of an input stage. Raises UserError that says what to run."""
    roots = ctx.inputs.get(role)
    if not roots:
        raise UserError(f"stage {ctx.stage} has no input of role {role}; add it to the recipe")
    directory = Path(roots[0]) / "model"
    if not directory.is_dir():
        raise UserError(f"no model in {directory}; run that stage first")
    return directory


def write_counts(ctx: Context, directory: Path, counts: dict[str, Any]) -> None:
    """Write `diagcot.json`: the stage, the run, and the counts and final figures of the model in `directory`."""
    row = {"stage": ctx.stage, "run": ctx.run, **counts}
    write_text(directory / "diagcot.json", json.dumps(row, indent=1))
