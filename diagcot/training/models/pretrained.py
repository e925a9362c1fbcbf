"""Checks of a downloaded model's directory without loading it. Used while planning: nothing heavy is imported."""

import hashlib
import json
from pathlib import Path

from diagcot.jobs import ModelError
from diagcot.jobs.state import reading
from diagcot.training.models.weight_files import StoredTensor, beginnings, refuse_pointer, tensors_of

SMALL_FILES = {".json", ".jinja", ".txt", ".model", ".md"}
"""Endings of the files that a model directory holds beside its weights."""


def family_of(directory: Path) -> str:
    """`model_type` of a model directory. Raises ModelError if there is none."""
    if "$" in str(directory):
        raise ModelError(f"pretrained: the variable in {str(directory)!r} is not set; point it at the downloaded model")
    if not directory.is_dir():
        raise ModelError(f"{directory} does not exist; `pretrained` is the directory of a downloaded model")
    try:
        return str(json.loads(reading.read_text(directory / "config.json"))["model_type"])
    except (OSError, ValueError, KeyError) as error:
        why = error.strerror if isinstance(error, OSError) else f"it has no model_type ({error})"
        raise ModelError(
            f"{directory} holds no model (config.json: {why}); `pretrained` is the directory of a downloaded model"
        ) from error


def weights_of(directory: Path) -> dict[str, dict[str, StoredTensor]]:
    """Weight files, each with its tensors.

    Raises ModelError that names the file that is missing, is a Git-LFS pointer, is cut short or lacks a tensor.
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
            raise ModelError(f"{index} is no index of weight files ({error!r}); download it again") from error
        names = set(places.values())
    if missing := sorted(name for name in names if not (directory / name).is_file()):
        raise ModelError(f"{directory} lacks {', '.join(missing)}; download the model again")
    files = {name: tensors_of(directory / name) for name in sorted(names)}
    for tensor, name in places.items():
        if tensor not in files[name]:
            raise ModelError(f"{directory / name} lacks {tensor}, which {index.name} names; download both again")
    for path in reading.listing(directory):
        if path.suffix in SMALL_FILES and path.is_file():
            refuse_pointer(path)
    return files


def digest(directory: Path) -> str:
    """Digest of a model: its small files, and the first bytes of every tensor, which training changes everywhere.

    A digest of all bytes would take minutes for large models. Raises ModelError as `weights_of`.
    """
    total = hashlib.sha256()
    for path in reading.listing(directory):
        if path.suffix in SMALL_FILES - {".md"} and path.is_file() and path.name != "diagcot.json":
            total.update(f"{path.name}\0".encode() + reading.read_bytes(path))
    for name, tensors in weights_of(directory).items():
        for tensor, beginning in zip(tensors, beginnings(directory / name, tensors.values()), strict=True):
            total.update(f"{name}\0{tensor}\0{tensors[tensor]}".encode() + beginning)
    return total.hexdigest()[:16]
