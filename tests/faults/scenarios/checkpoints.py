"""Two checkpoints one after the other, of which the newest alone is kept; see tests/faults/test_training.py."""

import contextlib
import os
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch
import torch.distributed as dist

from diagcot.jobs import Context
from diagcot.jobs.testing import context
from diagcot.training.checkpoint import shard
from diagcot.training.checkpoint.checkpoint import Checkpoints
from diagcot.training.checkpoint.origin import Origin
from diagcot.training.config.settings import DeepSpeedSettings

KEEP = 1
ORIGIN = Origin(DeepSpeedSettings(steps=9), seed=7, data="samples", model="weights", code="")


class Engine:
    """What `Checkpoints` needs of DeepSpeed's engine: it writes and reads the tensors of a step."""

    checkpoint_engine: Any = None

    def __init__(self, step: int = 0, size: int = 64) -> None:
        self.weights = torch.full((size,), float(step))

    def save_checkpoint(self, folder: str, tag: str, **_: Any) -> None:
        place = Path(folder) / tag
        self.checkpoint_engine.save({"module": self.weights}, str(place / "mp_rank_00_model_states.pt"))
        optimizer = place / "zero_pp_rank_0_mp_rank_00_optim_states.pt"
        self.checkpoint_engine.save({"optimizer": self.weights * 2}, str(optimizer))

    def load_checkpoint(self, folder: str, tag: str, **_: Any) -> None:
        place = Path(folder) / tag
        self.weights = torch.load(place / "mp_rank_00_model_states.pt")["module"]
        assert (torch.load(place / "zero_pp_rank_0_mp_rank_00_optim_states.pt")["optimizer"] == 2 * self.weights).all()


def alone() -> None:
    """A process group of this process, once."""
    if not dist.is_initialized():
        dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())


def at(root: Path) -> Context:
    """A context whose workspace is `root`."""
    return context(root, workspace=root)


def run(root: Path) -> None:
    """Go on after the newest checkpoint, up to step 2; what was once whole must not be lost."""
    alone()
    engine: Any = Engine()
    # What is printed is the list of points.
    with contextlib.redirect_stdout(None), Checkpoints(at(root), engine, ORIGIN, KEEP) as checkpoints:
        first, _ = checkpoints.resume() or (0, {})
        for step in range(1, first + 1):
            (root / f"saved-{step}").mkdir(exist_ok=True)
        assert not (root / f"saved-{first + 1}").exists()
        for step in range(first + 1, 3):
            engine.weights.fill_(step)
            checkpoints.save(step, {"epoch": step})
            engine.weights.fill_(-1)  # the training goes on: what is written is what was there
            checkpoints.wait()
            (root / f"saved-{step}").mkdir()


def load(root: Path) -> tuple[int, float]:
    """Step and weights of the newest valid checkpoint."""
    alone()
    engine: Any = Engine()
    with Checkpoints(at(root), engine, ORIGIN, KEEP) as checkpoints:
        found = checkpoints.resume()
    assert found is not None and found[1] == {"epoch": found[0]}
    return found[0], float(engine.weights[0])


def outcome(root: Path) -> Any:
    """The newest whole checkpoint. Called without a process group."""
    return [path.name for path in sorted((root / "checkpoints").glob("step-*")) if shard.read(path)][-1:]
