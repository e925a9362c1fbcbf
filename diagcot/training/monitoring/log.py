"""The log of a training stage: a line of `train.jsonl` for each step, TensorBoard, trackers on request, progress, curves."""

import contextlib
import json
import resource
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from diagcot.jobs import Context
from diagcot.jobs.state import reading
from diagcot.jobs.state.files import write_text
from diagcot.training.monitoring import curves
from diagcot.training.monitoring.trackers import Trackers

SHOWN = ("loss", "reward", "kl", "gap", "tokens_per_s", "mfu")  # next to the progress bar, where a stage has them


class TrainingLog:
    """The log of a stage that continues after step `first` of `steps`. Only rank 0 writes; `path` is its file.

    A context manager: at its end it draws the curves, however the stage ends. trackers: names of further places for the
    figures, see `Trackers`.
    """

    def __init__(self, ctx: Context, first: int, steps: int, trackers: Sequence[str] = ()) -> None:
        self._ctx, self._steps = ctx, steps
        self.path = ctx.workspace / "train.jsonl"
        self._unwritten: list[str] = []  # lines that a full disk did not take
        if ctx.rank:
            return
        rewind(self.path, first)
        self._board = _tensorboard(ctx.stage_dir / "tensorboard", first)
        self._trackers = Trackers(ctx, trackers)

    def __enter__(self) -> "TrainingLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._ctx.rank:
            return
        with contextlib.suppress(OSError):
            self._board.close()
        self._trackers.close()
        with contextlib.suppress(OSError):
            curves.draw(self.path, self._ctx.stage_dir / "curves.png", f"{self._ctx.run} / {self._ctx.stage}")

    def step(self, step: int, figures: dict[str, Any]) -> None:
        """Log the figures of a finished step (1-based)."""
        if self._ctx.rank == 0:
            self._unwritten.append(json.dumps({"step": step, **figures}) + "\n")
            with contextlib.suppress(OSError):
                append(self.path, "".join(self._unwritten))
                self._unwritten.clear()
            with contextlib.suppress(OSError):
                for name, value in figures.items():
                    if isinstance(value, int | float):
                        self._board.add_scalar(name, value, step)
            self._trackers.log(figures, step)
        shown = {name: round(figures[name], 4) for name in SHOWN if isinstance(figures.get(name), int | float)}
        self._ctx.progress(step, self._steps, **shown)


def append(log: Path, text: str) -> None:
    """Add lines, all or none: half a line that a full disk took is removed. Raises OSError."""
    with reading.File(log, "a") as out:
        end = out.tell()
        try:
            data = text.encode()
            if out.write(data) != len(data):
                raise OSError(f"{log} did not take all of a line")
        except OSError:
            out.truncate(end)
            raise


def rewind(log: Path, step: int) -> None:
    """Keep the lines up to `step`: what came after the checkpoint is computed again."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    kept = []
    for line in lines:
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError):
            continue  # cut short by a kill
    log.parent.mkdir(parents=True, exist_ok=True)
    write_text(log, "".join(f"{line}\n" for line in kept))


def memory_gb(device: torch.device) -> float:
    """Peak memory of this process so far, GiB: of its GPU, or of the host where it has none."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device) / 2**30)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux gives KiB


def _tensorboard(folder: Path, first: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=first + 1, flush_secs=30)
