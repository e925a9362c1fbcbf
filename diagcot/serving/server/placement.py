"""How the GPUs of a task are dealt to its servers."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from diagcot.jobs import UserError
from diagcot.serving.settings import ServerSettings


@dataclass(frozen=True)
class Seat:
    """The place of one server process in a task. `number` tells it from the task's other ones."""

    number: int = 0
    gpus: tuple[str, ...] = ()  # as CUDA_VISIBLE_DEVICES names them; none: a CPU
    ranks: int = 1  # tensor parallel
    memory: float = 1.0  # share of each GPU's memory that this server may count on
    nodes: int = 1  # pipeline parallel: each node has some of the layers, on `ranks` GPUs
    node_rank: int = 0
    master: tuple[str, int] = ("", 0)  # address and port at which the nodes find each other


def deal(
    settings: ServerSettings, gpus: int, share: tuple[int, int], environment: Mapping[str, str] = os.environ
) -> list[Seat]:
    """The seats of share i of n of a task's `gpus` GPUs; 0 GPUs: on CPU.

    Where there are fewer GPUs than shares, several shares sit on one GPU and divide its memory. Raises UserError if
    `data_parallel` servers of `tensor_parallel` GPUs each do not fit into the share.
    """
    index, shares = share
    if not gpus:
        count, ranks = settings.data_parallel or 1, settings.tensor_parallel or 1
        return [Seat(index * count + number, (), ranks) for number in range(count)]
    visible = [name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    names = (visible or [str(number) for number in range(gpus)])[:gpus]
    each, memory = len(names) // shares, 1.0
    mine = names[index * each : (index + 1) * each]
    if not each:
        mine, memory = [names[index % len(names)]], 1 / -(-shares // len(names))
    ranks = settings.tensor_parallel or max(1, len(mine) // (settings.data_parallel or 1))
    count = settings.data_parallel or max(1, len(mine) // ranks)
    if count * ranks > len(mine):
        of = f"share {index + 1} of {shares} of the task's {gpus}" if shares > 1 else "the task"
        raise UserError(
            f"{count} servers (data_parallel) of {ranks} GPUs each (tensor_parallel) need {count * ranks} GPUs, and {of}"
            f" has {len(mine)}: lower one of them in the recipe's server settings, or give the stage more GPUs"
        )
    dealt = [tuple(mine[number * ranks : (number + 1) * ranks]) for number in range(count)]
    return [Seat(index * count + number, names, ranks, memory) for number, names in enumerate(dealt)]
