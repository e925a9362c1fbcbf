"""Assigns the GPUs of a task to its servers."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from diagcot.jobs import UserError
from diagcot.serving.settings import ServerSettings


@dataclass(frozen=True)
class Placement:
    """The devices of one server process. `index` is unique among the servers of a task."""

    index: int = 0
    gpus: tuple[str, ...] = ()  # names as in CUDA_VISIBLE_DEVICES; empty: a CPU
    tensor_parallel: int = 1  # GPUs on each node
    memory_share: float = 1.0  # share of each GPU's memory that this server may use, 0 to 1
    nodes: int = 1  # pipeline parallel: each node holds some of the layers, on `tensor_parallel` GPUs
    node_rank: int = 0
    master: tuple[str, int] = ("", 0)  # address and port where the nodes find each other


def place(
    settings: ServerSettings, gpus: int, share: tuple[int, int], environment: Mapping[str, str] = os.environ
) -> list[Placement]:
    """Placements of the servers in share i of n of a task's `gpus` GPUs; 0 GPUs: on CPU.

    If there are fewer GPUs than shares, several shares use one GPU and divide its memory. Raises UserError if
    `data_parallel` servers of `tensor_parallel` GPUs each do not fit into the share.
    """
    index, shares = share
    if not gpus:
        count, tensor_parallel = settings.data_parallel or 1, settings.tensor_parallel or 1
        return [Placement(index * count + number, (), tensor_parallel) for number in range(count)]
    visible = [name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    names = (visible or [str(number) for number in range(gpus)])[:gpus]
    per_share, memory_share = len(names) // shares, 1.0
    own = names[index * per_share : (index + 1) * per_share]
    if not per_share:
        own, memory_share = [names[index % len(names)]], 1 / -(-shares // len(names))
    tensor_parallel = settings.tensor_parallel or max(1, len(own) // (settings.data_parallel or 1))
    count = settings.data_parallel or max(1, len(own) // tensor_parallel)
    needed = count * tensor_parallel
    if needed > len(own):
        owner = f"share {index + 1} of {shares} of the task's {gpus}" if shares > 1 else "the task"
        raise UserError(
            f"{count} servers (data_parallel) of {tensor_parallel} GPUs each (tensor_parallel) need {needed} GPUs, but"
            f" {owner} has {len(own)}: lower one of the two in the recipe's server settings, or give the stage more GPUs"
        )
    groups = [tuple(own[number * tensor_parallel : (number + 1) * tensor_parallel]) for number in range(count)]
    return [
        Placement(index * count + number, group, tensor_parallel, memory_share) for number, group in enumerate(groups)
    ]
