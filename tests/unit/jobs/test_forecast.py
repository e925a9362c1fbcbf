"""What is known before a submission: sizes that fit nowhere, limits, time, space, starts; and Slurm not answering."""

import os
from pathlib import Path
from typing import Any

import pytest

from diagcot.jobs import Cluster
from diagcot.jobs import forecast as forecasts
from diagcot.jobs.cluster import Size
from diagcot.jobs.forecast import Forecast, forecast, parse_test_only
from diagcot.jobs.plans.plan import Edge
from diagcot.jobs.slurm import commands as slurm
from tests import chains
from tests.unit.console.console_run import fake_slurm

SINFO = """\
gpu*|up|1-00:00:00|1-infinite|3|16|64000|gpu:4
gpu*|up|1-00:00:00|1-infinite|1|64|512000|gpu:h100:8(S:0-1),nvme:1
cpu|up|infinite|1-2|4|16|64000|(null)
old|down|infinite|1-infinite|4|16|64000|(null)
"""
CONFIG = "MaxArraySize            = 1001\nMaxJobCount             = 10000\nAccountingStorageEnforce = none\n"
START = "!sbatch: Job 7 to start at 2099-01-01T00:00:00 using 1 processors on nodes n1 in partition gpu\n"


def on(**more: Any) -> Cluster:
    return chains.cluster("slurm", slurm={"partition": "gpu"}, **more)


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (START[1:], ("2099-01-01T00:00:00", "")),
        ("allocation failure: Requested node configuration is not available", 1),
        ("sbatch: error: invalid partition specified: x\nsbatch: error: Batch job submission failed: Invalid x", 1),
        ("", 1),
    ],
)
def test_answers_of_test_only(said: str, found: Any) -> None:
    when, fault = parse_test_only(said)
    if found == 1:
        assert when == "" and fault and "failure:" not in fault and "failed:" not in fault
    else:
        assert (when, fault) == found


def ask(monkeypatch: pytest.MonkeyPatch, folder: Path, said: dict[str, str], *plans: Any, **more: Any) -> Forecast:
    monkeypatch.setenv("PATH", f"{fake_slurm(folder / 'bin', **said)}:{os.environ['PATH']}")
    return forecast(plans, on(), {"a": None, **more})


def test_the_first_stages_are_asked_for_and_nothing_is_submitted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said = {"sinfo": SINFO, "scontrol": CONFIG, "squeue": "1|RUNNING|None|x\n", "sbatch": START.replace("!", "")}
    first = chains.plan(tmp_path, "a", 3000, tasks=3000)
    later = chains.plan(tmp_path, "b", 9000, tasks=9000, after=(Edge("a"),), resources=Size(nodes=9, minutes=5))
    found = ask(monkeypatch, tmp_path, said, first, later)
    assert found.starts == {"a": "2099-01-01T00:00:00"}
    assert found.warnings == ["b: could never start: asks for 9 nodes, gpu has 4"]
    assert found.notes[0] == "a: 3000 tasks are split into 3 arrays (MaxArraySize 1001)"
    assert (
        "12002 jobs with the finalisers, and the queue takes 9999 more (MaxJobCount 10000, 1 queued already)"
        in found.notes[2]
    )
    assert found.unknown == []
    calls = (tmp_path / "bin" / "calls").read_text().splitlines()
    assert all("--test-only" in line for line in calls if line.startswith("sbatch"))
    assert sorted(line.split()[0] for line in calls) == ["sbatch", "scontrol", "sinfo", "squeue"]


def test_slurm_that_refuses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said = {"sinfo": SINFO, "scontrol": CONFIG, "squeue": "", "sbatch": "!allocation failure: Invalid account\n"}
    found = ask(monkeypatch, tmp_path, said, chains.plan(tmp_path, "a", 1))
    assert found.warnings == ["a: Slurm would refuse it: Invalid account"]


def test_slurm_away_is_said_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    away = "!Unable to contact slurm controller (connect failure)\n"
    said = dict.fromkeys(("sinfo", "scontrol", "squeue", "sbatch"), away)
    found = ask(monkeypatch, tmp_path, said, chains.plan(tmp_path, "a", 1, unit_s=55, resources=Size(minutes=1)))
    assert len(found.unknown) == 1 and "Unable to contact" in found.unknown[0]
    assert (
        len(found.warnings) == 1 and "start-up and one unit take about 1 minutes of a limit of 1" in found.warnings[0]
    )
    monkeypatch.setattr(slurm, "available", lambda: False)
    assert "not on PATH" in forecast([chains.plan(tmp_path, "a", 1)], on(), {}).unknown[0]


def test_space_that_does_not_suffice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(forecasts, "free_bytes", lambda path: 10_000_000_000)
    plans = [chains.plan(tmp_path, "a", 1), chains.plan(tmp_path, "b", 1)]
    found = forecast(plans, chains.cluster(), {"a": 4_000_000_000, "b": 7_000_000_000})
    assert len(found.warnings) == 1
    assert "10.0 GB free, and about 11.0 GB will be written (b most of it)" in found.warnings[0]
    assert forecast(plans, chains.cluster(), {"a": 4_000_000_000, "b": None}).warnings == []
