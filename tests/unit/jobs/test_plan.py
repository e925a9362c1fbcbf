"""Plans: packing, exclusiveness, differences; settings and their errors; ranks."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diagcot.jobs import Cluster, Unit, UserError
from diagcot.jobs.cluster import Size
from diagcot.jobs.execution.ranks import Ranks, from_environment
from diagcot.jobs.plans import plan as plans
from diagcot.jobs.plans.units import Units
from diagcot.jobs.settings import load
from tests import chains


@settings(deadline=None)
@given(
    units=st.integers(0, 5000),
    startup=st.floats(0, 600),
    seconds=st.floats(0.01, 3600),
    minutes=st.integers(1, 2880),
)
def test_packing_covers_every_unit_once_and_evenly(units: int, startup: float, seconds: float, minutes: int) -> None:
    made = chains.plan(Path("nowhere"), "s", units, tasks=plans.pack(units, startup, seconds, minutes))
    bounds = [made.bounds(task_index) for task_index in range(made.tasks)]
    assert [k for first, last in bounds for k in range(first, last)] == list(range(units))
    assert all(
        made.task_of(k) == task_index for task_index, (first, last) in enumerate(bounds) for k in (first, last - 1)
    )
    sizes = [last - first for first, last in bounds]
    assert not sizes or max(sizes) - min(sizes) <= 1
    if sizes and max(sizes) > 1:  # a task of several units fits the time limit
        assert startup + max(sizes) * seconds <= minutes * 60
    if sizes and startup + plans.TASK_START_S + 2 * max(sizes) * seconds < minutes * 48:  # longer tasks would fit, too
        assert made.tasks <= plans.MOST_TASKS


def test_start_up_is_at_most_a_twentieth_of_a_task() -> None:
    size = 10_000 / plans.pack(10_000, 60, 30, 24 * 60)
    assert 60 / (60 + 30 * size) <= 0.05


def test_units_are_read_back_as_they_were_whatever_is_asked_of_them(tmp_path: Path) -> None:
    units = tuple(Unit(f"a+b={k}.x", {"z": k, "a": ['"', {"key": 1}]} if k % 2 else {}) for k in range(7))
    found = plans.read(plans.write(chains.plan(tmp_path, "s", 7, units=Units(units), tasks=3)).path)
    assert tuple(found.units) == units and found.units[-1] == units[-1] and found.units[2:5] == units[2:5]
    assert found.keys == [unit.key for unit in units]
    assert [unit for task_index in range(3) for unit in found.units_of(task_index)] == list(units)
    assert [key for task_index in range(3) for key in found.keys_of(task_index)] == found.keys


@pytest.mark.parametrize("keys", [["a/b"], [".hidden"], ["a b"], [""], ["a\n"], ["é"], ["one", "one"]])
def test_keys_that_are_no_file_names_or_come_twice_are_refused(tmp_path: Path, keys: list[str]) -> None:
    with pytest.raises(UserError, match="key"):
        plans.write(chains.plan(tmp_path, "s", 1, units=Units(keys)))
    assert not (tmp_path / "logs" / tmp_path.name / "s" / "plan.json").exists()


def test_other_resources_are_no_other_plan_and_are_taken_up(tmp_path: Path) -> None:
    plans.write(chains.plan(tmp_path, "s", 2, resources=Size(minutes=5)))
    assert plans.write(chains.plan(tmp_path, "s", 2, resources=Size(minutes=9))).resources.minutes == 9


def test_a_plan_is_written_once_and_read_back(tmp_path: Path) -> None:
    made = chains.plan(tmp_path, "shard", 4)
    plans.write(made)
    found = plans.write(dataclasses.replace(made, code="elsewhere"))  # other code is no other plan
    assert tuple(found.units) == tuple(made.units) and found.tasks == made.tasks and found.code == made.code


def test_another_plan_under_the_same_name_is_refused_with_the_difference(tmp_path: Path) -> None:
    plans.write(chains.plan(tmp_path, "shard", 4, settings={"quality": 90}))
    with pytest.raises(UserError, match=r"settings.quality: 90 in the run, 80 now"):
        plans.write(chains.plan(tmp_path, "shard", 4, settings={"quality": 80}))
    with pytest.raises(UserError, match="units"):
        plans.write(chains.plan(tmp_path, "shard", 5, settings={"quality": 90}))


def test_a_shell_without_the_variable_of_a_run_is_told_its_name_and_the_key(tmp_path: Path) -> None:
    long = {"entry": {"title": "x" * 3000}}
    plans.write(chains.plan(tmp_path, "shard", 1, settings={"sources": [{"kind": "iu", "images": "/data/iu", **long}]}))
    unset = {"sources": [{"kind": "iu", "images": "$NO_SUCH_DIR", **long}]}
    with pytest.raises(
        UserError, match=r'settings.sources.0.images: "/data/iu" in the run, "\$NO_SUCH_DIR" now'
    ) as told:
        plans.write(chains.plan(tmp_path, "shard", 1, settings=unset))
    said = str(told.value)
    assert (
        said.endswith("In this shell NO_SUCH_DIR is not set: set it as when the run was submitted.") and len(said) < 500
    )
    with pytest.raises(UserError, match="Use another RUN=name") as told:
        plans.write(chains.plan(tmp_path, "shard", 1, settings={"sources": []}))
    assert len(str(told.value)) < 1500


def test_an_unknown_key_names_file_line_and_neighbour(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nexecutor: slurm\nsizes:\n  cpu:\n    minuts: 5\n")
    with pytest.raises(UserError, match=r"mine.yaml:5: unknown key 'minuts'; did you mean 'minutes'\?"):
        load(path, Cluster)
    path.write_text("name: mine\nexecutor: slrm\nsizes: {}\n")
    with pytest.raises(UserError, match=r"mine.yaml:2: executor: must be one of slurm, local, debug"):
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
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_NNODES": "2",
        "SLURM_PROCID": "3",
        "SLURM_LOCALID": "1",
        "SLURM_NODEID": "1",
        "SLURM_STEP_NODELIST": "gpu[3-4]",
    }
    assert from_environment(env) == Ranks("12_4", 2, 3, 4, 1, 2, 1, 2, "gpu3")
    assert from_environment(env).attempt == "12_4-2"
    alone = env | {"SLURM_NNODES": "1", "SLURM_STEP_NODELIST": "gpu7"}
    assert from_environment(alone).master_addr == "gpu7"  # without asking Slurm
    shell = {"SLURM_JOB_ID": "17", "SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "gpu[3-4]"}
    assert from_environment(shell) == Ranks("17", 0, 0, 1, 0, 1, 0, 1, "127.0.0.1")  # in an allocation, by hand
    local = {"SUBMITIT_LOCAL_JOB_ID": "9", "SUBMITIT_LOCAL_NTASKS": "2", "SUBMITIT_LOCAL_GLOBALID": "1"}
    assert from_environment(local | {"SUBMITIT_LOCAL_LOCALID": "1", "DIAGCOT_ATTEMPT": "1.1"}).attempt == "1.1-0"
    assert 15000 <= from_environment(env).master_port < 30000
