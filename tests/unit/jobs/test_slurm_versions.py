"""What versions of Slurm do differently: `diagcot.jobs.slurm.commands` says it, and the worker acts by it."""

from pathlib import Path

import pytest

from diagcot.jobs.execution import worker
from diagcot.jobs.slurm import commands as slurm


@pytest.mark.parametrize(
    ("version", "early", "late"),
    [("22.05.8", False, False), ("24.11.5", True, True), ("25.11.2", True, True), ("26.05.1", True, False)],
)
def test_an_execution_that_ended_well_is_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, early: bool, late: bool
) -> None:
    said = tmp_path / "said"
    (tmp_path / "scontrol").write_text(
        f'#!/bin/sh\nif [ "$1" = --version ]; then echo slurm {version}; else echo "$*" > {said}; fi\n'
    )
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert slurm.requeues_what_ends_early() == early and slurm.requeues_what_ended_well() == late
    worker._end("7_2")
    assert (said.read_text() if said.exists() else "") == ("update JobId=7_2 Requeue=0\n" if late else "")
    (tmp_path / "scontrol").write_text("#!/bin/sh\nexit 1\n")
    worker._end("7_2")  # done is done, also where Slurm does not answer


@pytest.mark.parametrize(
    "said",
    [
        "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",
        "slurm_load_jobs error: Unable to contact slurm controller (connect failure)",
        "slurm_load_ctl_conf error: Unexpected missing socket error",
        "slurm_load_jobs error: Zero Bytes were transmitted or received",
        "slurm_load_jobs error: Header lengths are longer than data received",
        "slurm_load_jobs error: Message receive failure",
        "slurm_load_jobs error: Communication shutdown failure",
        "slurm_load_jobs error: Slurm backup controller in standby mode",
        "sbatch: error: Batch job submission failed: Resource temporarily unavailable",
    ],
)
def test_a_controller_that_is_away_is_asked_again(said: str) -> None:
    assert slurm.transient(said)  # in the words of slurm_errno.c
    assert not slurm.transient("sbatch: error: Batch job submission failed: Invalid partition name specified")
