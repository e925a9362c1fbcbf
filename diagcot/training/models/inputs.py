"""Where a stage finds the model of an input stage."""

from pathlib import Path

from diagcot.jobs import Context, UserError


def model_input(ctx: Context, role: str = "model") -> Path:
    """The model directory of an input stage. Raises UserError that says what to run."""
    roots = ctx.inputs.get(role)
    if not roots:
        raise UserError(f"stage {ctx.stage} has no input of role {role}; add it to the recipe")
    directory = Path(roots[0]) / "model"
    if not directory.is_dir():
        raise UserError(f"no model in {directory}; run that stage first")
    return directory
