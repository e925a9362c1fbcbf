"""Compares the tensors of a model directory with those of its architecture. No weight is read, no memory is taken."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from diagcot.jobs import ModelError
from diagcot.jobs.state import reading
from diagcot.training.distributed import library_setup
from diagcot.training.models.pretrained import family_of, weights_of

library_setup.configure()

import torch  # noqa: E402
from transformers import (  # noqa: E402
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
)
from transformers.conversion_mapping import get_model_conversion_mapping  # noqa: E402
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key  # noqa: E402

_NO_VALUES = torch.device("meta")


def check_whole(directory: Path) -> None:
    """Raise ModelError unless the weight files hold every parameter of the architecture, in its shape, and nothing else.

    Tied weights count as there. Of quantised weights, whose tensors have other names, only the files are checked.
    """
    files = weights_of(directory)
    if reading.read_json(directory / "config.json").get("quantization_config"):
        return
    stored = {name: tensor for tensors in files.values() for name, tensor in tensors.items()}
    config = AutoConfig.from_pretrained(directory, local_files_only=True)
    empty = {name: torch.empty(tensor.shape, device=_NO_VALUES) for name, tensor in stored.items()}
    network, found = _class_of(config).from_pretrained(
        None,
        config=config,
        state_dict=empty,
        device_map="meta",
        ignore_mismatched_sizes=True,  # they are reported below
        output_loading_info=True,
    )
    faults = []
    if missing := sorted(found["missing_keys"]):
        where = next(iter(files)) if len(files) == 1 else f"its {len(files)} weight files"
        faults.append(f"{where}: {len(missing)} parameters are missing, such as {missing[0]}")
    names = parameter_names(network, stored)
    where_is = {names[name]: file for file, tensors in files.items() for name in tensors}
    if unexpected := sorted(found["unexpected_keys"]):
        file = where_is.get(unexpected[0], "its weight files")
        faults.append(f"{file}: {len(unexpected)} tensors do not belong to it, such as {unexpected[0]}")
    if mismatched := sorted(found["mismatched_keys"]):
        name, shape, wanted = mismatched[0]
        file = where_is.get(name, "its weight files")
        faults.append(
            f"{file}: {len(mismatched)} parameters have another shape, such as {name} with {tuple(shape)} instead of"
            f" {tuple(wanted)}"
        )
    if faults:
        raise ModelError(
            f"{directory} is no whole {family_of(directory)}. {'; '.join(faults)}. Parameters that are not found would"
            " start at random. Download the model again; or, if it was saved while an adapter or a wrapper held it, merge"
            " the adapter or save the model itself"
        )


def _class_of(config: Any) -> Any:
    """transformers' class of a model with images, or of a language model without."""
    kind = type(config)
    for mapping in (MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING):
        if kind in mapping:
            return mapping[kind]
    raise ModelError(f"transformers knows no language model whose model_type is {config.model_type}")


def names_of(directory: Path, stored: Iterable[str]) -> dict[str, str]:
    """Name in a weight file of `directory` -> name of the parameter in the model."""
    config = AutoConfig.from_pretrained(directory, local_files_only=True)
    with _NO_VALUES:
        return parameter_names(_class_of(config)._from_config(config), stored)


def shapes_of(directory: Path, stored: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Name of a weight -> its shape by the architecture; names that it has not are left out."""
    config = AutoConfig.from_pretrained(directory, local_files_only=True)
    with _NO_VALUES:
        network = _class_of(config)._from_config(config)
    parameters = network.state_dict()
    names = parameter_names(network, stored)
    return {name: tuple(parameters[own].shape) for name, own in names.items() if own in parameters}


def parameter_names(network: Any, stored: Iterable[str]) -> dict[str, str]:
    """Name in a weight file -> name of the parameter in `network`, as transformers reads that file."""
    transforms = get_model_conversion_mapping(network)
    renamings = [item for item in transforms if isinstance(item, WeightRenaming)]
    converters = [item for item in transforms if isinstance(item, WeightConverter)]
    parameters = network.state_dict()
    return {
        name: rename_source_key(name, renamings, converters, network.base_model_prefix, parameters)[0]
        for name in stored
    }
