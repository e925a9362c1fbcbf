"""Adds a LoRA adapter to its base, tensor by tensor, so that memory holds one weight file at most."""

import json
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from diagcot.jobs import ModelError
from diagcot.jobs.state.files import write_text
from diagcot.training.distributed import library_setup
from diagcot.training.models import architecture, lora
from diagcot.training.models.pretrained import ADAPTER_WEIGHTS, SMALL_FILES, check_adapter, weights_of
from diagcot.training.models.weight_files import StoredTensor, tensors_of

library_setup.configure()

import torch  # noqa: E402
from peft import LoraConfig, PeftConfig  # noqa: E402
from peft.tuners.tuners_utils import check_target_module_exists  # noqa: E402
from safetensors import safe_open  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

_PREFIX = "base_model.model."  # of a module's name in an adapter's file

Parts = dict[str, torch.Tensor]


def merge(base: Path, adapter: Path, target: Path, shard_bytes: int) -> int:
    """Write base plus adapter to `target`, in weight files of at most `shard_bytes`; returns the number of parameters.

    Configuration, tokenizer, names and types of the tensors are the base's. Raises ModelError if the base is not whole, the
    adapter lacks a tensor, or one has no place or another shape in the base.
    """
    architecture.check_whole(base)
    check_adapter(adapter)
    config = PeftConfig.from_pretrained(str(adapter))
    if not isinstance(config, LoraConfig):
        raise ModelError(f"{adapter} is an adapter of kind {config.peft_type}; only LoRA can be merged")
    if config.rank_pattern or config.alpha_pattern:
        raise ModelError(
            f"{adapter} has ranks or scales of single layers (rank_pattern, alpha_pattern): merge it with peft"
        )
    files = weights_of(base)
    names, parts, whole = _parts(base, adapter, config, files)
    target.mkdir(parents=True)
    for path in sorted(base.iterdir()):
        if path.suffix in SMALL_FILES - {".md"} and path.name not in {
            "diagcot.json",
            "model.safetensors.index.json",
        }:
            shutil.copyfile(path, target / path.name)
    shards, places = list(_shards(files, shard_bytes)), dict[str, str]()
    count = 0
    for number, shard in enumerate(shards, 1):
        name = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        merged: Parts = {}
        for file, tensor_name in shard:
            with safe_open(base / file, "pt") as source:
                tensor = source.get_tensor(tensor_name)
            name_here = names[tensor_name]
            if name_here in whole:
                tensor = whole[name_here].to(tensor.dtype)
            elif (module := name_here.removesuffix(".weight")) in parts:
                tensor = lora.add(tensor, parts[module], config)
            merged[tensor_name] = tensor
            count += tensor.numel()
        save_file(merged, target / name, {"format": "pt"})
        places |= dict.fromkeys(merged, name)
    if len(shards) > 1:
        total = sum(tensor.end - tensor.start for tensors in files.values() for tensor in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": places}
        write_text(target / "model.safetensors.index.json", json.dumps(index, indent=1))
    return count


def _parts(
    base: Path, adapter: Path, config: LoraConfig, files: Mapping[str, Mapping[str, StoredTensor]]
) -> tuple[dict[str, str], dict[str, Parts], Parts]:
    """Names of the base's tensors -> parameters; the adapter's tensors by module, and parameters that trained whole beside it.

    An adapter that was saved under the names of an older transformers is read, too. Raises ModelError as `merge`.
    """
    path = adapter / ADAPTER_WEIGHTS
    stored = tensors_of(path)
    base_tensors = {name: tensor for tensors in files.values() for name, tensor in tensors.items()}
    weights = {name: _weight_of(name) for name in stored}  # tensor of the adapter -> the base's weight that it changes
    names = architecture.names_of(base, [*base_tensors, *weights.values()])
    shapes = {names[name]: tensor.shape for name, tensor in base_tensors.items()}
    parts: dict[str, Parts] = defaultdict(dict)
    whole: Parts = {}
    with safe_open(path, "pt") as source:
        for name, tensor in stored.items():
            own = names[weights[name]]
            shape, part = shapes.get(own), name.partition(".lora_")[2]
            if shape is None or not _fits(part, tensor.shape, shape):
                why = f"whose shape {tensor.shape} does not fit {shape}" if shape else "which has no place in the base"
                raise ModelError(f"{path} holds {name}, {why}: the adapter was trained on another model; name that one")
            if part:
                parts[own.removesuffix(".weight")][f"lora_{part}"] = source.get_tensor(name)
            else:
                whole[own] = source.get_tensor(name)
    targets = (module for own in shapes if (module := own.removesuffix(".weight")) != own)
    expected = {module for module in targets if check_target_module_exists(config, module)}
    needed = {"lora_A.weight", "lora_B.weight"} | ({"lora_magnitude_vector"} if config.use_dora else set())
    missing = sorted(
        f"{module}.{part}" for module in expected | parts.keys() for part in needed - parts.get(module, {}).keys()
    )
    if missing or not parts:
        raise ModelError(
            f"{path} lacks {len(missing)} matrices of its adapter, such as {(missing or ['all of them'])[0]}; copy it again"
        )
    return names, dict(parts), whole


def _weight_of(stored: str) -> str:
    """The name of the base's weight that a tensor of an adapter changes or replaces."""
    module, found, _ = stored.removeprefix(_PREFIX).partition(".lora_")
    return f"{module}.weight" if found else module


def _fits(part: str, shape: tuple[int, ...], weight: tuple[int, ...]) -> bool:
    """Whether a part of an adapter, or a parameter (`part` empty), has a shape that its weight allows."""
    if part == "A.weight":
        return shape[-1] == weight[-1]
    return shape[0] == weight[0] if part else shape == weight


def _shards(files: Mapping[str, Mapping[str, StoredTensor]], shard_bytes: int) -> Iterator[list[tuple[str, str]]]:
    """(file, tensor) of each new weight file, in the order of the old ones."""
    shard: list[tuple[str, str]] = []
    size = 0
    for file, tensors in files.items():
        for name, tensor in sorted(tensors.items(), key=lambda item: item[1].start):
            bytes_ = tensor.end - tensor.start
            if shard and size + bytes_ > shard_bytes:
                yield shard
                shard, size = [], 0
            shard.append((file, name))
            size += bytes_
    yield shard
