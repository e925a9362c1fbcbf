"""Plans: packing, exclusiveness, differences; settings and their errors; ranks."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagcot.jobs import plan as plans
from diagcot.jobs.cluster import Cluster
from diagcot.jobs.errors import UserError
from diagcot.jobs.ranks import Ranks, first_host, from_environment
from diagcot.jobs.settings import load
from tests import chains


@given(
    units=st.integers(0, 5000),
    startup=st.floats(0, 600),
    seconds=st.floats(0.01, 3600),
    minutes=st.integers(1, 2880),
)
def test_packing_covers_every_unit_once_and_evenly(units: int, startup: float, seconds: float, minutes: int) -> None:
    tasks = plans.pack(units, startup, seconds, minutes)
    assert [k for first, last in tasks for k in range(first, last)] == list(range(units))
    sizes = [last - first for first, last in tasks]
    assert not sizes or max(sizes) - min(sizes) <= 1
    if sizes and max(sizes) > 1:  # a task of several units fits the time limit
        assert startup + max(sizes) * seconds <= minutes * 60


def test_start_up_is_at_most_a_twentieth_of_a_task() -> None:
    first, last = plans.pack(10_000, 60, 30, 24 * 60)[0]
    assert 60 / (60 + 30 * (last - first)) <= 0.05


def test_a_plan_is_written_once_and_read_back(tmp_path: Path) -> None:
    made = chains.plan(tmp_path, "shard", 4)
    plans.write(made)
    found = plans.write(dataclasses.replace(made, code="elsewhere"))  # other code is no other plan
    assert found.units == made.units and found.tasks == made.tasks and found.code == made.code


def test_another_plan_under_the_same_name_is_refused_with_the_difference(tmp_path: Path) -> None:
    plans.write(chains.plan(tmp_path, "shard", 4, settings={"quality": 90}))
    with pytest.raises(UserError, match=r"settings.quality: 90 in the run, 80 now"):
        plans.write(chains.plan(tmp_path, "shard", 4, settings={"quality": 80}))
    with pytest.raises(UserError, match="units"):
        plans.write(chains.plan(tmp_path, "shard", 5, settings={"quality": 90}))


def test_an_unknown_key_names_file_line_and_neighbour(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nexecutor: slurm\nsizes:\n  cpu:\n    minuts: 5\n")
    with pytest.raises(UserError, match=r"mine.yaml:5: unknown key 'minuts'; did you mean 'minutes'\?"):
        load(path, Cluster)
    path.write_text("name: mine\nexecutor: slrm\nsizes: {}\n")
    with pytest.raises(UserError, match=r"mine.yaml:2: executor: .*'slurm' or 'local'"):
        load(path, Cluster)
    path.write_text("name: [\n")
    with pytest.raises(UserError, match=r"mine.yaml:\d+: not valid YAML"):
        load(path, Cluster)


def test_ranks_on_slurm_and_on_a_laptop() -> None:
    env = {
        "SLURM_JOB_ID": "17",
        "SLURM_ARRAY_JOB_ID": "12",
        "SLURM_ARRAY_TASK_ID": "4",
        "SLURM_RESTART_COUNT": "2",
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_NNODES": "2",
        "SLURM_PROCID": "3",
        "SLURM_LOCALID": "1",
        "SLURM_NODEID": "1",
        "SLURM_STEP_NODELIST": "gpu[3-4]",
    }
    assert from_environment(env) == Ranks("12_4", 2, 3, 4, 1, 2, 1, 2, "gpu3")
    assert from_environment(env).attempt == "12_4-2"
    local = {"SUBMITIT_LOCAL_JOB_ID": "9", "SUBMITIT_LOCAL_NTASKS": "2", "SUBMITIT_LOCAL_GLOBALID": "1"}
    assert from_environment(local | {"SUBMITIT_LOCAL_LOCALID": "1", "DIAGCOT_ATTEMPT": "1.1"}).attempt == "1.1-0"
    assert 15000 <= from_environment(env).master_port < 30000


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("gpu[03-05,9],x1", "gpu03"), ("n1,n2", "n1"), ("solo", "solo"), ("a[7,9-11]b", "a7b"), ("n1,gpu[2-3]", "n1")],
)
def test_first_host(nodes: str, first: str) -> None:
    assert first_host(nodes) == first
