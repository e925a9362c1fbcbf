"""Checks of a downloaded model's directory without loading it. Used while planning: nothing heavy is imported."""

import json
from pathlib import Path

from diagcot.jobs import UserError
from diagcot.jobs.state import reading


def family_of(directory: Path) -> str:
    """`model_type` of a model directory. Raises UserError if there is none."""
    if "$" in str(directory):
        raise UserError(f"pretrained: the variable in {str(directory)!r} is not set; point it at the downloaded model")
    try:
        return str(json.loads(reading.read_text(directory / "config.json"))["model_type"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{directory} holds no model (config.json: {error}); `pretrained` is a downloaded directory"
        ) from error


def weights_of(directory: Path) -> set[str]:
    """Names of the weight files. Raises UserError that names what is missing."""
    family_of(directory)
    index = directory / "model.safetensors.index.json"
    names = {"model.safetensors"}
    if index.is_file():
        names = set(json.loads(reading.read_text(index))["weight_map"].values())
    if missing := sorted(name for name in names if not (directory / name).is_file()):
        raise UserError(f"{directory} lacks {', '.join(missing)}; download the model again")
    return names
