"""Two checkpoints one after the other, of which the newest alone is kept; see tests/faults/test_training.py."""

import os
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch
import torch.distributed as dist

from diagcot.training import checkpoint

KEEP = 1


class Engine:
    """What `checkpoint` needs of DeepSpeed's engine: it writes and reads the tensors of a step."""

    def __init__(self, step: int = 0) -> None:
        self.weights = torch.full((64,), float(step))

    def save_checkpoint(self, folder: str, tag: str, **_: Any) -> None:
        place = Path(folder) / tag
        place.mkdir()
        torch.save({"module": self.weights}, place / "mp_rank_00_model_states.pt")
        torch.save({"optimizer": self.weights * 2}, place / "zero_pp_rank_0_mp_rank_00_optim_states.pt")

    def load_checkpoint(self, folder: str, tag: str, **_: Any) -> None:
        place = Path(folder) / tag
        self.weights = torch.load(place / "mp_rank_00_model_states.pt")["module"]
        assert (torch.load(place / "zero_pp_rank_0_mp_rank_00_optim_states.pt")["optimizer"] == 2 * self.weights).all()


def alone() -> None:
    """A process group of this process, once."""
    if not dist.is_initialized():
        dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())


def run(root: Path) -> None:
    """Go on after the newest checkpoint, up to step 2; what was once saved must not be lost."""
    alone()
    first = load(root)[0] if checkpoint.latest(root) else 0
    for step in range(1, first + 1):
        (root / f"saved-{step}").mkdir(exist_ok=True)
    assert not (root / f"saved-{first + 1}").exists()
    for step in range(first + 1, 3):
        checkpoint.save(Engine(step), root, step, {"epoch": step}, KEEP)
        (root / f"saved-{step}").mkdir()


def load(root: Path) -> tuple[int, float]:
    """Step and weights of the newest valid checkpoint."""
    alone()
    newest = checkpoint.latest(root)
    assert newest is not None
    engine = Engine()
    step, state = checkpoint.load(engine, newest)
    assert state == {"epoch": step}
    return step, float(engine.weights[0])


def outcome(root: Path) -> Any:
    """The newest whole checkpoint. Called without a process group."""
    return [path.name for path in checkpoint.valid(root)][-1:]
