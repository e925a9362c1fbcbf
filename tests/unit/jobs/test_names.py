"""Names of stages: which ones there may be, and that a worker touches no folder but its run's own."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from diagcot.cot.settings import TracesSettings
from diagcot.jobs import Pipeline, UserError, names, summary
from diagcot.jobs.execution import worker
from diagcot.jobs.plans import plan as plans
from diagcot.jobs.plans.units import Units
from diagcot.recipe import StageSpec, find
from launchers.chain import ROOT, settings_model
from launchers.cot import traces
from launchers.stage_kind import Stage
from tests import chains

BAD = ["", ".", "..", "../..", "/absolute", "a/b", "a b", "a\nb", "a\n", "-a", ".a", "é", "s" * 65, "s" * 300]
TAKEN = [
    "environments",
    "write",
    "submit",
    "code",
    "Code",
    "grown",
    "stages",
    "run.json",
    "cluster.yaml",
    "runner.lock",
    "report.html",
]


@pytest.mark.parametrize("name", BAD + TAKEN)
def test_a_stage_has_a_plain_name(tmp_path: Path, name: str) -> None:
    flow = Pipeline("run", chains.cluster(), tmp_path)
    with pytest.raises(UserError, match="stage name="):
        flow.stage(name, "tests.kinds.count", ["a"], "small")
    recipe = tmp_path / "mine.yaml"
    quoted = name.replace("\n", "\\n")
    recipe.write_text(f'name: mine\nstages:\n  - kind: phantoms\n    name: "{quoted}"\n    number: 0\n')
    with pytest.raises(UserError, match=r"mine\.yaml:4: stages\.0\.name: .*stage name="):
        find(str(recipe), tmp_path, lambda kind: None)
    assert list(tmp_path.iterdir()) == [recipe]


@pytest.mark.parametrize("name", ["a", "0", "cot-sft", "v1.2_b", "s" * 64, "report", "codes"])
def test_such_names_are_good(tmp_path: Path, name: str) -> None:
    assert Pipeline("run", chains.cluster(), tmp_path).stage(name, "tests.kinds.count", ["a"], "small").stage == name


@pytest.mark.parametrize("name", ["run", "metrics", "runner", "Report", "estimates"])
def test_a_page_of_traces_replaces_no_file_of_the_run(name: str) -> None:
    spec = StageSpec(kind="traces", name=name, number="2", inputs={"traces": ["cot"], "verdicts": ["filter"]})
    with pytest.raises(UserError, match=rf"writes {name}\.json and {name}\.html"):
        traces.KIND.units(Stage(spec, TracesSettings()), None)


@pytest.mark.parametrize("key", ["k" * 161, "k" * 100_000, "a/b", "", ".a", "a\n", "a b", "é"])
def test_a_unit_has_a_key_of_which_files_can_be_named(tmp_path: Path, key: str) -> None:
    flow = Pipeline("run", chains.cluster(), tmp_path)
    flow.stage("stage", "tests.kinds.count", ["fine", key], "small")
    with pytest.raises(UserError, match="at most 160 letters, digits") as refused:
        flow.write()
    assert len(str(refused.value)) < 300 and not (tmp_path / "logs/run/stage/plan.json").exists()


def test_the_longest_key_has_room_for_all_of_its_files(tmp_path: Path) -> None:
    plan = chains.plan(tmp_path, "stage", 1, units=Units(["k" * 160]), settings={"records": 1})
    plans.write(plan)
    run = subprocess.run(
        [sys.executable, "-m", "diagcot.jobs.execution.worker", str(plan.path), "0"],
        cwd=ROOT,
        env=os.environ
        | {"SLURM_JOB_ID": "4294967295", "SLURM_ARRAY_JOB_ID": "4294967295", "SLURM_ARRAY_TASK_ID": "4000"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert summary.check(plan) == [] and (plan.output / f"{'k' * 160}.txt").is_file()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("p10/p10000032/s50414267", ""),
        ("é" * 100, ""),
        ("a\nb", "control character"),
        ("a\0", "control character"),
        ("\x1b[31m", "control character"),
        ("a\u2028b", "control character"),
        ("é" * 101, "202 bytes between slashes"),
        ("ab/" * 400, "1,200 bytes, over 1,000"),
    ],
)
def test_ids_in_data_are_short_and_of_one_line(text: str, fault: str) -> None:
    said = names.id_fault(text)
    assert fault in said and bool(fault) == bool(said)


def test_every_recipe_has_such_names() -> None:
    for path in (ROOT / "recipes").rglob("*.yaml"):
        assert find(str(path), ROOT, settings_model)[0].stages, path


@pytest.mark.parametrize(
    "where", ["elsewhere", "models/run/.work", "models/run/.work/../..", "models/other/.work/stage"]
)
def test_a_worker_removes_and_writes_only_inside_its_own_workspace(tmp_path: Path, where: str) -> None:
    made = chains.plan(tmp_path / "run", "stage", 1, workspace=tmp_path / where)
    kept = tmp_path / where / "kept"
    (tmp_path / "models/run/.work").mkdir(parents=True)
    kept.mkdir(parents=True)
    chains.write(tmp_path / "run", [made], chains.cluster())
    with pytest.raises(UserError, match="removed"):
        summary.clean(made)
    with pytest.raises(UserError, match="removed"):
        worker.work(made.path, 0)
    assert kept.is_dir() and not (made.path / "done").exists()


def test_a_link_out_of_the_workspace_is_not_followed(tmp_path: Path) -> None:
    kept, root = tmp_path / "elsewhere" / "kept", tmp_path / "models" / "run" / ".work"
    kept.mkdir(parents=True)
    root.mkdir(parents=True)
    (root / "stage").symlink_to(kept.parent)
    with pytest.raises(UserError, match="not inside"):
        summary.clean(chains.plan(tmp_path / "run", "stage", 1, workspace=root / "stage"))
    assert kept.is_dir()


def test_a_plan_of_an_earlier_version_with_a_path_for_a_name_removes_nothing(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    made = chains.plan(tmp_path / "run", "stage", 1)
    with pytest.raises(UserError, match="stage name="):
        summary.clean(dataclasses.replace(made, stage=str(kept), workspace=kept))
    assert kept.is_dir()
