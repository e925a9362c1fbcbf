"""What interrupts a training, and how it goes on: killed, warned, on other ranks, with a damaged checkpoint."""

import signal
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.training.conftest import SFT, deepspeed, everything, inputs
from tests.training.ranks import Job, start

pytestmark = pytest.mark.heavy
BOUND_S = 60  # a rank that has lost another ends by itself within this


@pytest.mark.row(
    35,
    promise="the other rank ends within a minute; one rank alone continues from the newest complete checkpoint, parks"
    " with a checkpoint at a warning, and two ranks end with the losses and the model of an undisturbed run",
    injected="SIGKILL of one of two ranks in the middle of training, then one bit of the newest checkpoint, then a warning"
    " signal, and another number of ranks each time",
    daemons="real",
)
def test_row_35_killed_damaged_and_on_other_ranks_it_ends_the_same(undisturbed: Job, training_root: Path) -> None:
    settings = everything(save_every=2)
    killed = start(training_root, SFT, "killed", settings, inputs(training_root))
    killed.reach(7)
    victim, other = killed.processes
    victim.kill()
    began = time.monotonic()
    other.join(BOUND_S)
    assert other.exitcode not in (0, None), "the rank that is left does not end"
    print(f"the other rank ended {time.monotonic() - began:.1f} s after the kill")
    assert not (killed.output / "model").exists()
    newest = sorted(path for path in (killed.workspace / "checkpoints").iterdir() if any(path.glob("part-*.json")))[-1]
    state = next((newest / "state").glob("*optim_states.pt"))
    data = bytearray(state.read_bytes())
    data[len(data) // 2] ^= 1
    state.write_bytes(data)

    alone = start(training_root, SFT, "killed", settings, inputs(training_root), world=1)
    alone.kill_after(8, number=signal.SIGUSR2)
    assert alone.processes[0].exitcode == 0
    assert not (killed.output / "model").exists()
    (passed,) = killed.events("checkpoint_passed_over")
    assert passed["checkpoint"] == newest.name and state.name in passed["why"]
    (stopped,) = killed.events("stopped")
    (resumed,) = killed.events("resumed")
    assert resumed["step"] == int(newest.name[-8:]) - 2 and (resumed["written_by"], resumed["ranks"]) == (2, 1)

    last = start(training_root, SFT, "killed", settings, inputs(training_root))
    last.wait()
    assert [row["written_by"] for row in last.events("resumed")] == [2, 1]
    assert last.events("resumed")[-1]["step"] == stopped["step"]
    rows = last.rows()
    assert [row["step"] for row in rows] == list(range(1, 11))
    for name in ("loss", "lr", "grad_norm"):
        assert [row[name] for row in rows] == pytest.approx([row[name] for row in undisturbed.rows()], rel=1e-4)
    mine, theirs = (load_file(job.output / "model" / "model.safetensors") for job in (last, undisturbed))
    assert mine.keys() == theirs.keys()
    assert max(float((mine[name] - theirs[name]).abs().max()) for name in mine) < 1e-4


def test_zero_3_stopped_and_resumed_on_one_rank_agrees_with_zero_2(undisturbed: Job, training_root: Path) -> None:
    first = start(training_root, SFT, "zero3-stopped", everything(stage=3), inputs(training_root), stop_after=5)
    assert "stopped" in first.wait()
    assert not (first.output / "model").exists()
    again = start(training_root, SFT, "zero3-stopped", everything(stage=3), inputs(training_root), world=1)
    again.wait()
    assert [row["loss"] for row in again.rows()] == pytest.approx([row["loss"] for row in undisturbed.rows()], rel=1e-3)
    mine, theirs = (load_file(job.output / "model" / "model.safetensors") for job in (again, undisturbed))
    assert mine.keys() == theirs.keys()
    assert max(float((mine[name] - theirs[name]).abs().max()) for name in mine) < 2e-3


@pytest.mark.parametrize(("stage", "precision", "tolerance"), [(2, "bf16", 2e-2), (3, "fp32", 1e-4)])
def test_an_adapter_goes_on_on_other_ranks(training_root: Path, stage: int, precision: str, tolerance: float) -> None:
    """LoRA over frozen weights, which no checkpoint holds: a stage of one rank goes on on two."""

    def run(name: str, stage: int, **job: Any) -> Job:
        optimisation = deepspeed(weight_decay=0.1, steps=6, stage=stage, precision=precision)
        settings = {"trainable": ["lora"], "lora": {"rank": 4}, "deepspeed": optimisation}
        started = start(training_root, SFT, name, settings, inputs(training_root), **job)
        started.wait()
        return started

    run(f"adapter{stage}", stage, world=1, stop_after=3)
    moved = run(f"adapter{stage}", stage)
    quiet = run(f"adapter{stage}-quiet", 2, world=1)
    assert [row["written_by"] for row in moved.events("resumed")] == [1]
    losses = [[row["loss"] for row in job.rows()] for job in (moved, quiet)]
    assert losses[0] == pytest.approx(losses[1], rel=tolerance)
    assert losses[1][-1] < 0.99 * losses[1][0]
