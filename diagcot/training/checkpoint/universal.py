"""Conversion of a checkpoint to the form that any number of ranks can load.

DeepSpeed's own converter makes it once, on the first resumption with another number of ranks, in the checkpoint's
folder: optimiser state by parameter instead of by rank.
"""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from diagcot.jobs import Context, UserError
from diagcot.jobs.environment import variables
from diagcot.jobs.state import reading
from diagcot.jobs.state.files import fsync_tree, remove
from diagcot.training.distributed import process_group

TAG = "universal"
DEADLINE_S = 25 * 60  # the other ranks wait for rank 0 no longer than a collective may take


def load(ctx: Context, engine: Any, folder: Path, tag: str) -> None:
    """Load the state that another number of ranks wrote under `folder`/`tag`. A collective.

    Raises UserError if the conversion fails.
    """
    problem = ""
    if ctx.rank == 0 and not (folder / TAG).is_dir():
        try:
            _convert(ctx, folder, tag)
        except (OSError, subprocess.SubprocessError) as error:
            problem = f"checkpoint {folder.name} could not be converted to {ctx.world_size} ranks: {error}"
    if problem := process_group.broadcast(problem):
        raise UserError(f"{problem}; free some disk space, or resume on as many ranks as wrote it")
    decay = [group["weight_decay"] for group in engine.optimizer.optimizer.param_groups]
    engine._config.load_universal_checkpoint = True
    try:
        engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=False)
    finally:
        engine._config.load_universal_checkpoint = False
    # DeepSpeed 0.19 at ZeRO-3 gives all groups the settings of the first, and all states one counter of steps.
    optimizer = engine.optimizer.optimizer
    for group, value in zip(optimizer.param_groups, decay, strict=True):
        group["weight_decay"] = value
    for state in optimizer.state.values():
        if torch.is_tensor(state.get("step")):
            state["step"] = state["step"].clone()


def _convert(ctx: Context, folder: Path, tag: str) -> None:
    """Make `folder`/universal, completely or not at all. Raises OSError or SubprocessError."""
    staged = folder / f".{TAG}"
    remove(staged, folder)
    workers = str(max(1, min(8, ctx.cpus)))
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
    command += ["--input_folder", str(folder / tag), "--output_folder", str(staged)]
    command += ["--num_extract_workers", workers, "--num_merge_workers", workers]
    log = ctx.workspace / "universal.log"
    began = time.monotonic()
    environment = variables.child(DS_ACCELERATOR="cpu", CUDA_VISIBLE_DEVICES="")
    with reading.File(log, "w") as out, subprocess.Popen(command, stdout=out, stderr=out, env=environment) as child:
        while child.poll() is None:
            ctx.beat()
            if time.monotonic() - began > DEADLINE_S:
                child.kill()
            time.sleep(0.2)
    if child.returncode:
        remove(staged, folder)
        raise subprocess.SubprocessError(f"DeepSpeed's converter ended with code {child.returncode}, see {log}")
    fsync_tree(staged)
    staged.rename(folder / TAG)
    ctx.event("converted", checkpoint=folder.name, ranks=ctx.world_size, seconds=round(time.monotonic() - began, 2))
