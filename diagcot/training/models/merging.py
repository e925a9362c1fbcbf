"""Adds a LoRA adapter to its base, tensor by tensor, so that memory holds one weight file at most."""

import json
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from diagcot.jobs import UserError
from diagcot.training.distributed import library_setup
from diagcot.training.models import architecture, lora
from diagcot.training.models.pretrained import SMALL_FILES, weights_of
from diagcot.training.models.weight_files import StoredTensor, tensors_of

library_setup.configure()

import torch  # noqa: E402
from peft import LoraConfig, PeftConfig  # noqa: E402
from safetensors import safe_open  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

ADAPTER = "adapter_model.safetensors"
_PREFIX = "base_model.model."  # of a module's name in an adapter's file

Parts = dict[str, torch.Tensor]


def merge(base: Path, adapter: Path, target: Path, shard_bytes: int) -> int:
    """Write base plus adapter to `target`, in weight files of at most `shard_bytes`; returns the number of parameters.

    Configuration, tokenizer, names and types of the tensors are the base's. Raises UserError if the base is not whole or
    the adapter does not fit it.
    """
    architecture.check_whole(base)
    config = PeftConfig.from_pretrained(str(adapter))
    if not isinstance(config, LoraConfig):
        raise UserError(f"{adapter} is an adapter of kind {config.peft_type}; only LoRA can be merged")
    files = weights_of(base)
    names = architecture.names_of(base, (name for tensors in files.values() for name in tensors))
    parts, whole = _parts(adapter, set(names.values()))
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
        (target / "model.safetensors.index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")
    return count


def _parts(adapter: Path, parameters: set[str]) -> tuple[dict[str, Parts], Parts]:
    """The adapter's tensors by module, and the parameters that trained whole beside it.

    parameters: of the base. Raises UserError for a tensor that has no place there.
    """
    tensors_of(adapter / ADAPTER)  # names a file that is not whole
    parts: dict[str, Parts] = defaultdict(dict)
    whole: Parts = {}
    with safe_open(adapter / ADAPTER, "pt") as source:
        for stored in source.keys():  # noqa: SIM118  no dictionary
            name = stored.removeprefix(_PREFIX)
            module, found, part = name.partition(".lora_")
            if found and f"{module}.weight" in parameters:
                parts[module][f"lora_{part}"] = source.get_tensor(stored)
            elif name in parameters:
                whole[name] = source.get_tensor(stored)
            else:
                raise UserError(
                    f"{adapter / ADAPTER} holds {stored}, which has no place in the base: the adapter was trained on"
                    " another model; name that model as role `model`"
                )
    if not parts or any(not {"lora_A.weight", "lora_B.weight"} <= found.keys() for found in parts.values()):
        raise UserError(f"{adapter / ADAPTER} lacks matrices of its adapter; train it again")
    return dict(parts), whole


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
