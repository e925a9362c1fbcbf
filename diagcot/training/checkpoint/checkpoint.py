"""Checkpoints in a stage's workspace, written by all ranks while training goes on; one counts when all shards are whole."""

import contextlib
import random
import threading
import time
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import torch

from diagcot.jobs import Context
from diagcot.jobs.errors import StorageError
from diagcot.jobs.state import reading
from diagcot.jobs.state.files import remove
from diagcot.training.checkpoint import shard, universal
from diagcot.training.checkpoint.origin import Origin
from diagcot.training.checkpoint.shard import CheckpointShard, Manifest
from diagcot.training.distributed import process_group
from diagcot.training.distributed.engine import Engine

TAG = "state"


class _Writing(NamedTuple):
    """A checkpoint that a thread is writing. stall_s: seconds that training has waited for it so far."""

    shard: CheckpointShard
    thread: threading.Thread
    stall_s: float


class Checkpoints:
    """The checkpoints of a stage: the newest whole one at the start, and new ones, at most one of them being written.

    A context manager: its end waits for the one being written. A checkpoint that cannot be written does not end the
    stage: it is reported, the checkpoints before it stay, and training goes on.

    origin: what the stage is made of; checkpoints of another origin are set aside. keep: how many stay. async_save: write
    in a thread from a copy in host memory; else training waits.
    """

    def __init__(self, ctx: Context, engine: Engine, origin: Origin, keep: int, async_save: bool = True) -> None:
        self._ctx, self._engine, self._origin, self._keep, self._async_save = ctx, engine, origin, keep, async_save
        self._root = ctx.workspace / "checkpoints"
        self._writing: _Writing | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.wait()
        elif self._writing is not None:  # other ranks may be gone: the own shard must not wait for them
            self._writing.thread.join()

    def resume(self) -> tuple[int, dict[str, Any]] | None:
        """Load the newest whole checkpoint into engine and random states; its step and state, or None. A collective.

        A checkpoint that is not whole, or whose bytes differ from what was written, is passed over and reported. If the
        newest whole one was made of other settings, data, weights or code, all are set aside. On another number of ranks,
        rank r takes the random state of the old rank r modulo the old number.
        """
        newest = self._newest()
        if newest is None or self._set_aside(newest[1][0]):
            return None
        folder, manifests = newest
        old_ranks = len(manifests)
        if old_ranks == self._ctx.world_size:
            self._engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=False)
        else:
            universal.load(self._ctx, self._engine, folder, TAG)
        _restore(torch.load(folder / f"random-{self._ctx.rank % old_ranks}.pt", weights_only=False))
        step = int(manifests[0]["step"])
        self._ctx.event("resumed", step=step, ranks=self._ctx.world_size, written_by=old_ranks)
        return step, manifests[0]["state"]

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write `step` with `state` (JSON, equal on all ranks) and every rank's random state. A collective.

        Nothing of an earlier checkpoint is touched before this one is whole.
        """
        self.wait()
        began = time.monotonic()
        folder = self._root / f"step-{step:08d}"
        problem, attempt = process_group.broadcast(
            (_make_empty(folder, self._root), self._ctx.attempt) if self._ctx.rank == 0 else None
        )
        if problem:
            self._report_failure(step, problem)
            return
        header = {
            "step": step,
            "attempt": attempt,
            "world_size": self._ctx.world_size,
            "state": state,
            "origin": self._origin.record(),
        }
        own = CheckpointShard(folder, self._ctx.rank, header)
        own.add_engine(self._engine, TAG)
        own.add(f"random-{self._ctx.rank}.pt", _random_state())
        thread = threading.Thread(target=own.write, name="checkpoint")
        thread.start()
        self._writing = _Writing(own, thread, time.monotonic() - began)
        if not self._async_save:
            self.wait()

    def wait(self) -> None:
        """Wait until the checkpoint being written is whole, on all ranks; then remove old ones. A collective."""
        if self._writing is None:
            return
        (own, thread, stall_s), self._writing = self._writing, None
        began = time.monotonic()
        thread.join()
        step = int(own.header["step"])
        errors = [error for error in process_group.all_gather(own.error) if error]
        if errors:
            self._report_failure(step, errors[0])
            if self._ctx.rank == 0:
                remove(own.folder, self._root)
        else:
            stall_s += time.monotonic() - began
            self._ctx.event("checkpoint", step=step, stall_s=round(stall_s, 4), write_s=round(own.seconds, 4))
            if self._ctx.rank == 0:
                try:
                    self._remove_old(own.folder)
                except StorageError as error:  # it says nothing about the old ones, which may be whole
                    print(f"no old checkpoint is removed now: {error}", flush=True)
        process_group.barrier()

    def _report_failure(self, step: int, reason: str) -> None:
        with contextlib.suppress(OSError):  # the disk of the logs may be the full one
            print(f"no checkpoint of step {step}: {reason}; the one before stays, training goes on", flush=True)
            self._ctx.event("checkpoint_failed", step=step, why=reason)

    def _newest(self) -> tuple[Path, list[Manifest]] | None:
        folders = reading.listing(self._root, "step-*")[::-1] if self._ctx.rank == 0 else []
        for folder in map(Path, process_group.broadcast([str(path) for path in folders])):
            manifests = process_group.broadcast(shard.read(folder) if self._ctx.rank == 0 else None)
            reason = "it is not whole"
            if manifests is not None:
                own = list(shard.damaged_files(folder, manifests, self._ctx.rank, self._ctx.world_size))
                if not (damaged := sorted(chain.from_iterable(process_group.all_gather(own)))):
                    return folder, manifests
                reason = f"{', '.join(damaged)}: other bytes than were written"
            if self._ctx.rank == 0:
                print(f"checkpoint {folder.name} is passed over: {reason}", flush=True)
            self._ctx.event("checkpoint_passed_over", checkpoint=folder.name, why=reason)
        return None

    def _set_aside(self, manifest: Manifest) -> bool:
        """Move all checkpoints away, and say so, if this one is of another origin. A collective."""
        why = "; ".join(self._origin.differences(manifest.get("origin"), self._ctx.stage_dir.parent))
        place = self._root.with_name(f"checkpoints-of-{manifest['attempt']}")
        if self._ctx.rank == 0 and why:
            remove(place, self._ctx.workspace)
            self._root.rename(place)
            print(
                f"the checkpoints in the stage's folder are of another training ({why}): they are set aside in {place}, and"
                " this stage begins at its first step. Remove that folder if you do not need it",
                flush=True,
            )
        different: bool = process_group.broadcast(bool(why))
        if different:
            self._ctx.event("checkpoint_set_aside", checkpoint=f"step-{manifest['step']:08d}", why=why)
        return different

    def _remove_old(self, newest: Path) -> None:
        """Remove whole checkpoints beyond `keep`, and those that a kill left incomplete or that were passed over.

        The newest one stays even if this node does not see yet what the others have written. Raises StorageError, before
        anything is removed, if the old ones cannot be read.
        """
        folders = reading.listing(self._root, "step-*")[::-1]
        kept = [newest, *(folder for folder in folders if folder < newest and shard.read(folder))][: self._keep]
        for folder in folders:
            if folder not in kept:
                for manifest in folder.glob("part-*.json"):
                    remove(manifest, self._root)
                remove(folder, self._root)


def _make_empty(folder: Path, root: Path) -> str:
    """Make an empty folder for a checkpoint; returns the error of the disk, or an empty text."""
    try:
        remove(folder, root)
        (folder / TAG).mkdir(parents=True)
    except OSError as error:
        return str(error)
    return ""


def _random_state() -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state(), "cuda": cuda}


def _restore(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
