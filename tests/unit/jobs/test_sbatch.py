"""Batch scripts: their text, whole; that the shell accepts it; and what the jobs take from it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from diagcot.jobs import entrypoints
from diagcot.jobs.cluster import Cluster, Size, load_cluster
from diagcot.jobs.errors import UserError
from diagcot.jobs.plans.plan import Edge, Plan
from diagcot.jobs.slurm import sbatch, scripts, submit
from diagcot.jobs.state.attempts import Array
from tests import chains

GOLDEN = Path(__file__).parent / "golden"
SITE = Path("/site/first")
SIZE = Size(
    nodes=2, tasks_per_node=4, cpus=8, gpus=1, mem_gb=64.5, minutes=720, exclude="n1,n2", array_parallelism=2
)  # fmt: skip


def cluster(**more: Any) -> Cluster:
    general = {"partition": "gpu", "account": "chest x-ray", "extra": {"mail_type": "END", "exclusive": True}}
    profiles = {"small": {"cpus": 2, "minutes": 60, "partition": "cpu", "requeue": False}}
    rows = {"slurm": general, "resource_profiles": profiles, "environment": {"SITE_CONF": "/etc/a b.conf"}}
    rows |= {"setup": ["module load cuda"]}
    return chains.cluster("slurm", **rows | more)


def plan(stage: str = "cot", count: int = 6, **more: Any) -> Plan:
    rows: dict[str, Any] = {
        "resources": SIZE,
        "tasks": count,
        "code": "/site/code/1a2b",
    }
    return chains.plan(SITE, stage, count, **rows | more)


@pytest.fixture(autouse=True)
def _site(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/site/.venv/bin/python")
    monkeypatch.setattr(Path, "cwd", lambda: Path("/site"))


TEXTS = {
    "array": lambda: sbatch.work(
        plan(), cluster(), SIZE, (0, 1, 2, 5), code="/site/code/3c4d", job_name="first.cot.12ab", dependency="afterok:7"
    ),
    "job": lambda: sbatch.work(plan("align", 1), cluster(), SIZE, (0,), dependency=""),
    "finaliser": lambda: sbatch.finalise(
        plan(), cluster(), job_name="first.cot.finaliser.12ab", dependency="afterany:8"
    ),
    "by_hand": lambda: sbatch.by_hand(plan(), cluster(), range(6), ["Stage cot of run first"]),
}


@pytest.mark.parametrize("name", TEXTS)
def test_the_text_of_a_script(name: str, tmp_path: Path) -> None:
    text = TEXTS[name]()
    path = GOLDEN / f"{name}.txt"
    assert text == path.read_text(), f"the script has changed; if that is meant, write it to {path}"
    script = tmp_path / "job.sbatch"
    script.write_text(text)
    subprocess.run(["bash", "-n", str(script)], check=True)
    subprocess.run(["shellcheck", str(script)], check=True)
    assert len(text.splitlines()) < 40


@pytest.mark.parametrize("tasks", [[0], [7], [0, 1, 2], [0, 1, 2, 5, 7, 8], [3, 1], list(range(4000))])
def test_each_array_element_finds_its_task(tasks: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    text = sbatch.ranges(tasks)
    assert len(text) < 30
    for element in {0, len(tasks) // 2, len(tasks) - 1}:
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(element))
        assert entrypoints.own_task(text) == tasks[element]
    if len(tasks) > 1:
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(len(tasks)))
        with pytest.raises(UserError, match="has no task"):
            entrypoints.own_task(text)


def test_a_job_that_is_no_array_needs_no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    assert entrypoints.own_task("12") == 12


def flags(size: Size = SIZE, **general: Any) -> list[str]:
    return sbatch.flags(sbatch.options(plan(), cluster(slurm=general), size))


def test_options_of_the_site_and_of_a_profile() -> None:
    general: dict[str, Any] = {
        "account": "lab", "reservation": "week", "licenses": "m:2", "exclusive": "user", "switches": "1@60", "nice": 100,
        "begin": "22:00", "comment": "project 7", "wckey": "k", "mail_type": "FAIL", "dependency": "afterok:9",
        "extra": {"hold": True, "gres_flags": "enforce-binding", "mail_user": "me@x", "requeued": None},
    }  # fmt: skip
    assert {
        *("--account=lab", "--reservation=week", "--licenses=m:2", "--exclusive=user", "--switches=1@60", "--nice=100"),
        *("--begin=22:00", "--comment=project 7", "--wckey=k", "--mail-type=FAIL", "--mail-user=me@x"),
        *("--hold", "--gres-flags=enforce-binding", "--dependency=afterok:9"),
    } <= set(flags(**general))
    own = flags(SIZE.model_copy(update={"account": "big", "exclusive": True, "nice": 0}), **general)
    assert {"--account=big", "--exclusive", "--nice=0"} <= set(own)
    text = sbatch.work(plan(), cluster(slurm=general), SIZE, (0,), dependency="afterok:7")
    assert "#SBATCH --dependency=afterok:7,afterok:9\n" in text  # the run's own and the foreign job
    assert not any(flag.startswith(("--wckey", "--comment=p", "--dependency")) for flag in flags())


@pytest.mark.parametrize(
    ("general", "own", "expected"),
    [
        ({}, {}, ["--gpus-per-node=4"]),
        ({"gpu_type": "h100"}, {}, ["--gpus-per-node=h100:4"]),
        ({"gpu_type": "h100", "gpu_request": "gres"}, {"gres": "nvme:1"}, ["--gres=gpu:h100:4,nvme:1"]),
        ({"gpu_request": "gpus-per-task"}, {"gpu_type": "a100"}, ["--gpus-per-task=a100:1"]),
        ({"gpu_type": "h100", "gpu_bind": "closest"}, {}, ["--gpus-per-node=h100:4", "--gpu-bind=closest"]),
        ({"gpu_type": "h100", "gpu_request": "gres", "gpu_bind": "none"}, {"gpus": 0}, []),
        ({}, {"gpus": 0, "gres": "nvme:1"}, ["--gres=nvme:1"]),
    ],
)
def test_site_row_05_gpus_as_the_site_spells_them_and_none_for_cpu_jobs(
    general: dict[str, Any], own: dict[str, Any], expected: list[str]
) -> None:
    found = flags(Size.model_validate(SIZE.model_dump() | own), **general)
    assert [flag for flag in found if flag.startswith(("--gpu", "--gres"))] == expected


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        ({"mem_gb": 1.5}, ["--mem=1536MB"]),
        ({"mem_gb": 0}, ["--mem=0"]),
        ({"mem_per_cpu_gb": 4}, ["--mem-per-cpu=4096MB"]),
        ({}, []),
    ],
)
def test_site_row_06_one_form_of_memory(memory: dict[str, Any], expected: list[str]) -> None:
    size = Size(cpus=8, tasks_per_node=2, **memory)
    assert [flag for flag in flags(size) if flag.startswith("--mem")] == expected
    assert size.with_memory(64).node_mem_gb == 64


@pytest.mark.parametrize(
    ("option", "remedy"),
    [
        ("gpus_per_node", "gpu_type"), ("gres", "gpu_request: gres"), ("mem-per-cpu", "mem_per_cpu_gb"),
        ("signal", "warning_seconds"), ("requeue", "`requeue`"), ("clusters", "`cluster` under"), ("array", "the suite sets"),
        ("output", "find what a job prints"), ("nodes", "`nodes`"), ("p", "long name"),
    ],
)  # fmt: skip
def test_an_option_that_the_suite_sets_is_an_error_with_the_key_to_write(
    tmp_path: Path, option: str, remedy: str
) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(f"name: site\nexecutor: slurm\nresource_profiles: {{}}\nslurm:\n  extra:\n    {option}: x\n")
    with pytest.raises(UserError, match=rf"site.yaml:6: extra: .*{remedy}"):
        load_cluster(path)


def test_a_task_in_a_container(tmp_path: Path) -> None:
    inside = {"image": "/img/dc.sif", "python": "/opt/bin/python", "mounts": ["/data/mimic"]}
    made = plan("align", 1)
    text = sbatch.work(made, cluster(container=inside), SIZE, (0,))
    path = GOLDEN / "apptainer.txt"
    assert text.splitlines()[-1] + "\n" == path.read_text(), f"if that is meant, write it to {path}"
    text = sbatch.work(made, cluster(container=inside | {"runtime": "pyxis"}), SIZE, (0,))
    path = GOLDEN / "pyxis.txt"
    assert text.splitlines()[-1] + "\n" == path.read_text(), f"if that is meant, write it to {path}"
    assert "apptainer" not in sbatch.finalise(made, cluster(container=inside))
    assert "--nv" not in sbatch.work(made, cluster(container=inside), SIZE.model_copy(update={"gpus": 0}), (0,))


def write(root: Path, array_size: int) -> list[Path]:
    first = chains.plan(root, "first", 5, tasks=5)
    second = chains.plan(root, "second", 5, tasks=5, after=(Edge("first", elementwise=True),))
    third = chains.plan(root, "third", 1, after=(Edge("first"), Edge("second")))
    chains.write(root, [first, second, third], cluster())
    return scripts.write([first, second, third], cluster(), array_size)


def test_scripts_to_submit_by_hand_say_what_they_follow(tmp_path: Path) -> None:
    paths = write(tmp_path, 1000)
    assert [path.name for path in paths] == ["first.sbatch", "second.sbatch", "third.sbatch"]
    first, second, third = (path.read_text() for path in paths)
    assert "# Follows" not in first and "#SBATCH --array=0-4%5" in first
    assert "# Follows first task by task: --dependency=aftercorr:<job of first.sbatch>\n" in second
    assert "# Follows first: --dependency=afterok:<job of first.sbatch>\n" in third
    assert "# Follows second: --dependency=afterok:<job of second.sbatch>\n" in third


def test_a_stage_of_more_tasks_than_an_array_takes_has_several_scripts(tmp_path: Path) -> None:
    write(tmp_path, 1000)
    paths = write(tmp_path, 2)
    names = [f"{stage}.{index}.sbatch" for stage in ("first", "second") for index in range(3)]
    assert [path.name for path in paths] == [*names, "third.sbatch"] and sorted(paths[0].parent.iterdir()) == sorted(
        paths
    )
    texts = {path.name: path.read_text() for path in paths}
    assert "#SBATCH --array=0-1%2" in texts["first.1.sbatch"] and " 2-3 &&" in texts["first.1.sbatch"]
    assert "aftercorr:<job of first.1.sbatch>" in texts["second.1.sbatch"]
    last = [f"<job of first.{index}.sbatch>" for index in range(3)]
    assert f"# Follows first: --dependency=afterok:{':'.join(last)}\n" in texts["third.sbatch"]


def test_code_of_an_older_version_is_refused_before_anything_is_submitted(tmp_path: Path) -> None:
    old = chains.plan(tmp_path, "cot", 1, code=str(tmp_path / "code"))
    chains.write(tmp_path, [old], cluster())
    array = Array("", (0,), resources=old.resources.model_dump())
    with pytest.raises(UserError, match=r"make retry RUN=\S+ STAGE=cot CODE=new"):
        submit.submit(old, cluster(), [array], "submitted", None)
    assert not (old.path / "attempts").exists()
