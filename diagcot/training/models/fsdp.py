"""Gathers a checkpoint of EasyR1 or verl, whose weights FSDP divides among ranks, into a model directory.

An `actor/` folder holds `model_world_size_<N>_rank_<K>.pt`, one state of tensors for each rank, and in `huggingface/` the
configuration, tokenizer and processor. How parts become tensors: hiyouga/EasyR1, scripts/model_merger.py.
"""

import json
import pickle
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from diagcot.jobs import ModelError
from diagcot.jobs.state import reading
from diagcot.jobs.state.files import write_text
from diagcot.training.distributed import library_setup
from diagcot.training.models import architecture
from diagcot.training.models.pretrained import SMALL_FILES, configuration_of, rank_files

library_setup.configure()

import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from torch.distributed.tensor import DTensor  # noqa: E402

State = Mapping[str, torch.Tensor]


def gather(checkpoint: Path, target: Path, shard_bytes: int) -> int:
    """Write the whole model of a checkpoint to `target`; returns the number of parameters.

    Weights have the type that `config.json` names (bf16 if it names none), in files of at most `shard_bytes`. Nothing but
    tensors is loaded. Raises ModelError that names files or tensors if ranks differ, parts do not fit, or the checkpoint
    holds an adapter.
    """
    source, files = configuration_of(checkpoint), rank_files(checkpoint)
    states = [_state(path) for path in files]
    names = list(states[0])
    for path, state in zip(files, states, strict=True):
        if differing := sorted(set(names) ^ set(state)):
            raise ModelError(
                f"{path} and {files[0].name} do not hold the same tensors: {differing[0]} is in one of them"
            )
    if adapted := [name for name in names if ".lora_" in name]:
        raise ModelError(
            f"{checkpoint} holds an adapter ({adapted[0]}): name its base as `pretrained` and {checkpoint / 'lora_adapter'}"
            " as `adapter`"
        )
    config = reading.read_json(source / "config.json")
    kind = getattr(torch, str(config.get("dtype") or config.get("torch_dtype") or "bfloat16"))
    if config.get("tie_word_embeddings"):
        names = [name for name in names if name != "lm_head.weight"]
    target.mkdir(parents=True)
    for path in sorted(source.iterdir()):
        if path.is_file() and path.suffix in SMALL_FILES - {".md"}:
            shutil.copyfile(path, target / path.name)
    shapes = architecture.shapes_of(source, names)
    places: dict[str, str] = {}
    count = size = 0
    for number, weights in enumerate(_shards(states, names, shapes, kind, shard_bytes), 1):
        file = f"model-{number:05d}.safetensors"
        save_file(weights, target / file, {"format": "pt"})
        places |= dict.fromkeys(weights, file)
        count += sum(weight.numel() for weight in weights.values())
        size += sum(weight.nbytes for weight in weights.values())
    index = {"metadata": {"total_size": size}, "weight_map": places}
    write_text(target / "model.safetensors.index.json", json.dumps(index, indent=1))
    return count


def _state(path: Path) -> State:
    """The tensors of a rank's file, mapped and not read. Raises ModelError if it holds anything else."""
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        why = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{path} holds more than tensors and is not loaded ({why}); save the checkpoint again"
        ) from error
    except (RuntimeError, EOFError) as error:
        raise ModelError(
            f"{path} is cut short or no checkpoint ({' '.join(str(error).split())[:200]}); copy it again"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ModelError(f"{path} holds no state of a model: name the folder `actor` of a checkpoint")
    return state


def _shards(
    states: Sequence[State], names: Sequence[str], shapes: Mapping[str, tuple[int, ...]], kind: torch.dtype, limit: int
) -> Iterator[dict[str, torch.Tensor]]:
    """The whole tensors, in groups of at most `limit` bytes."""
    weights: dict[str, torch.Tensor] = {}
    size = 0
    for name in names:
        weight = _whole(name, [state[name] for state in states], shapes.get(name))
        weight = weight.to(kind).contiguous() if weight.is_floating_point() else weight.contiguous()
        if weights and size + weight.nbytes > limit:
            yield weights
            weights, size = {}, 0
        weights[name] = weight
        size += weight.nbytes
    yield weights


def _whole(name: str, parts: Sequence[torch.Tensor], shape: tuple[int, ...] | None) -> torch.Tensor:
    """The tensor of which each rank holds a part. shape: that of the architecture; None where it has no such tensor."""
    first = parts[0]
    if not isinstance(first, DTensor):
        same = len(parts) == 1 or first.ndim == 0 or tuple(first.shape) == shape
        whole = first if same else torch.cat(list(parts))
    else:
        whole = _joined(name, [part for part in parts if isinstance(part, DTensor)])
        shape = tuple(first.shape)
    if shape is not None and tuple(whole.shape) != shape:
        raise ModelError(
            f"the parts of {name} make a tensor of {tuple(whole.shape)} instead of {shape}: a rank's file is missing"
        )
    return whole.clone()  # the file of a rank stays mapped as long as a tensor refers to it


def _joined(name: str, parts: Sequence[DTensor]) -> torch.Tensor:
    mesh, placements = parts[0].device_mesh.mesh, parts[0].placements
    divided = [axis for axis, placement in enumerate(placements) if placement.is_shard()]
    if len(divided) > 1 or any(placement.is_partial() for placement in placements):
        raise ModelError(f"{name} is divided as {placements}; gather the checkpoint with the tool that wrote it")
    if not divided:
        return parts[0].to_local()
    (axis,) = divided
    along: dict[int, torch.Tensor] = {}
    for rank, part in enumerate(parts):
        place = (mesh == rank).nonzero()[0].tolist()
        if all(index == 0 for other, index in enumerate(place) if other != axis):  # the others hold copies
            along[place[axis]] = part.to_local()
    placement: Any = placements[axis]
    return torch.cat([along[index] for index in sorted(along)], dim=placement.dim)
