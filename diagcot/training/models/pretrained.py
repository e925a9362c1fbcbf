"""Checks of a downloaded model's directory without loading it. Used while planning: nothing heavy is imported."""

import json
from pathlib import Path

from diagcot.jobs import UserError
from diagcot.jobs.state import reading
from diagcot.training.models.weight_files import StoredTensor, refuse_pointer, tensors_of

SMALL_FILES = {".json", ".jinja", ".txt", ".model", ".md"}
"""Endings of the files that a model directory holds beside its weights."""


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


def weights_of(directory: Path) -> dict[str, dict[str, StoredTensor]]:
    """Weight files, each with its tensors.

    Raises UserError that names the file that is missing, is a Git-LFS pointer, is cut short or lacks a tensor.
    """
    family_of(directory)
    index = directory / "model.safetensors.index.json"
    places: dict[str, str] = {}
    names = {"model.safetensors"}
    if index.is_file():
        refuse_pointer(index)
        try:
            places = dict(json.loads(reading.read_text(index))["weight_map"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{index} is no index of weight files ({error!r}); download it again") from error
        names = set(places.values())
    if missing := sorted(name for name in names if not (directory / name).is_file()):
        raise UserError(f"{directory} lacks {', '.join(missing)}; download the model again")
    files = {name: tensors_of(directory / name) for name in sorted(names)}
    for tensor, name in places.items():
        if tensor not in files[name]:
            raise UserError(f"{directory / name} lacks {tensor}, which {index.name} names; download both again")
    for path in reading.listing(directory):
        if path.suffix in SMALL_FILES and path.is_file():
            refuse_pointer(path)
    return files
