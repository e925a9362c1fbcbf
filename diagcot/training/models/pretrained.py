"""Checks of a downloaded model's directory without loading it. Used while planning: nothing heavy is imported."""

import hashlib
import re
from importlib.util import find_spec
from pathlib import Path

from diagcot.jobs import ModelError
from diagcot.jobs.state import reading
from diagcot.training.config.settings import TEXT, ModelSettings
from diagcot.training.families import FAMILIES
from diagcot.training.models.weight_files import StoredTensor, beginnings, refuse_pointer, tensors_of

SMALL_FILES = {".json", ".jinja", ".txt", ".model", ".md"}
"""Endings of the files that a model directory holds beside its weights."""
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
OF_TRAINING = {"trainer_state.json", "all_results.json", "train_results.json", "eval_results.json", "trainer_log.jsonl"}
"""Small files of LLaMA-Factory's and transformers' trainers, which are no part of a model."""
_RANK_FILE = re.compile(r"model_world_size_(\d+)_rank_(\d+)\.pt")


def family_of(directory: Path) -> str:
    """`model_type` of a model directory. Raises ModelError if there is none."""
    if "$" in str(directory):
        raise ModelError(f"pretrained: the variable in {str(directory)!r} is not set; point it at the downloaded model")
    if not directory.is_dir():
        raise ModelError(f"{directory} does not exist; `pretrained` is the directory of a downloaded model")
    if (directory / ADAPTER_CONFIG).is_file() and not (directory / "config.json").is_file():
        raise ModelError(
            f"{directory} is an adapter on {_base_of(directory)}: name that model's folder as `pretrained`, and this one as"
            " `adapter`"
        )
    try:
        return str(reading.read_json(configuration_of(directory) / "config.json")["model_type"])
    except (OSError, ValueError, KeyError) as error:
        why = error.strerror if isinstance(error, OSError) else f"it has no model_type ({error})"
        raise ModelError(
            f"{directory} holds no model (config.json: {why}); `pretrained` is the directory of a downloaded model"
        ) from error


def check_family(settings: ModelSettings) -> None:
    """Raise ModelError unless the folder of a model is of the family that the settings name, in a form that can be read."""
    source = settings.pretrained
    if source is None:
        return
    found = family_of(source)
    if found != settings.family and (settings.family != TEXT or found in FAMILIES):
        raise ModelError(f"{source} is a {found}, the recipe says family: {settings.family}")
    family = FAMILIES.get(found)
    if family and family.turned and rank_files(source):
        raise ModelError(
            f"{source} is divided among ranks, and versions of transformers lay the experts of {family.title} out in different"
            " ways: gather it with the tool that wrote it"
        )


def check_packages(name: str) -> None:
    """Raise ModelError that names what a family's processor imports and this environment lacks."""
    packages = FAMILIES[name].packages if name in FAMILIES else ()
    if absent := [package for package in packages if find_spec(package) is None]:
        raise ModelError(
            f"the processor of {FAMILIES[name].title} needs {', '.join(absent)}, which this environment lacks: run `make env`,"
            f" or `pip install {' '.join(absent)}`"
        )


def check_pixel_budget(settings: ModelSettings) -> None:
    """Raise ModelError where a downloaded model of a family without a pixel budget is given one."""
    family = FAMILIES.get(settings.family)
    if settings.pretrained is None or (family and family.pixel_budget):
        return
    if given := [name for name in ("min_pixels", "max_pixels") if getattr(settings, name) is not None]:
        if family is None:
            raise ModelError(f"a model without images takes no {' and '.join(given)}: remove the setting")
        raise ModelError(
            f"{family.title} gives every image the size that its processor names, so it takes no {' and '.join(given)}: remove"
            " the setting"
        )


def configuration_of(directory: Path) -> Path:
    """The folder of a model's configuration, tokenizer and processor: its own, or that beside the files of FSDP's ranks."""
    return directory / "huggingface" if rank_files(directory) else directory


def rank_files(directory: Path) -> list[Path]:
    """The weights of an `actor/` folder of EasyR1 or verl, one file for each rank of FSDP; empty for any other folder.

    Raises ModelError that names the files of ranks that are missing.
    """
    found = {
        (int(match[1]), int(match[2])): path
        for path in reading.listing(directory, "model_world_size_*.pt")
        if (match := _RANK_FILE.fullmatch(path.name))
    }
    worlds = sorted({world for world, _ in found})
    if len(worlds) > 1:
        raise ModelError(f"{directory} holds the checkpoints of {len(worlds)} numbers of ranks; remove the older one")
    ranks = range(worlds[0]) if worlds else range(0)
    missing = [f"model_world_size_{worlds[0]}_rank_{rank}.pt" for rank in ranks if (worlds[0], rank) not in found]
    if missing:
        raise ModelError(f"{directory} lacks {', '.join(missing)}; copy the files of all ranks")
    return [found[worlds[0], rank] for rank in ranks]


def weight_paths(directory: Path, adapter: Path | None = None) -> list[Path]:
    """The files that hold a model's weights. Raises ModelError as `weights_of` and `rank_files`, and for a broken adapter."""
    files = rank_files(directory)
    if files:
        family_of(directory)
    else:
        files = [directory / name for name in weights_of(directory)]
    if adapter is not None:
        check_adapter(adapter)
        files.append(adapter / ADAPTER_WEIGHTS)
    return files


def check_adapter(directory: Path) -> None:
    """Raise ModelError unless the folder holds an adapter as PEFT saves it, with whole files."""
    if "$" in str(directory):
        raise ModelError(f"adapter: the variable in {str(directory)!r} is not set; point it at the adapter's folder")
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (directory / name).is_file():
            raise ModelError(f"{directory} is no adapter: it lacks {name}, which PEFT and LLaMA-Factory write")
    _base_of(directory)
    tensors_of(directory / ADAPTER_WEIGHTS)


def _base_of(adapter: Path) -> str:
    """The base model that an adapter names."""
    path = adapter / ADAPTER_CONFIG
    try:
        return str(reading.read_json(path).get("base_model_name_or_path"))
    except (ValueError, AttributeError, RecursionError) as error:
        raise ModelError(f"{path} is no configuration of an adapter ({error}); copy it again") from None


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
            places = dict(reading.read_json(index)["weight_map"])
            names = {str(name) for name in places.values()}
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ModelError(f"{index} is no index of weight files ({error!r}); download it again") from error
        if outside := sorted(name for name in names if "/" in name or name in ("", ".", "..")):
            raise ModelError(f"{index} names {outside[0]!r}, which is no file of its folder; download it again")
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
