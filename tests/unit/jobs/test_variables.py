"""What passes into the processes of a run, what is set, and what is dropped and named."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from diagcot.jobs.environment import variables

HOSTILE = {
    "VLLM_API_KEY": "k", "RAY_ADDRESS": "10.0.0.9:6379", "JAVA_TOOL_OPTIONS": "-XX:+UseParallelGC", "CLASSPATH": "/x",
    "PYTHONWARNINGS": "error", "PYTHONPATH": "/nowhere", "PYTHONHOME": "/nowhere", "PIP_USER": "1", "PIP_TARGET": "/x",
    "UV_REQUIRE_HASHES": "1", "MASTER_ADDR": "10.0.0.9", "WORLD_SIZE": "4", "LD_PRELOAD": "/x.so", "HF_HUB_OFFLINE": "0",
}  # fmt: skip


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hostile variables and few others."""
    given = {"HOME": "/home/me", "PATH": os.environ["PATH"], "TMPDIR": "/tmp", **HOSTILE}
    for name in os.environ.keys() - given.keys():
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("shell")
def test_a_list_passes_what_decides_is_set_and_the_rest_is_dropped() -> None:
    made = variables.child(OWN="1")
    assert made == {"HOME": "/home/me", "PATH": os.environ["PATH"], "TMPDIR": "/tmp", "OWN": "1"} | variables.SET
    assert made["HF_HUB_OFFLINE"] == "1"


@pytest.mark.usefixtures("shell")
def test_more_passes_by_name_also_to_what_is_started_below() -> None:
    made = variables.child("VLLM_*", "JAVA_TOOL_OPTIONS")
    assert made["VLLM_API_KEY"] == "k" and "JAVA_TOOL_OPTIONS" in made and "RAY_ADDRESS" not in made
    variables.enter(["VLLM_*"])
    assert variables.child()["VLLM_API_KEY"] == "k"


@pytest.mark.usefixtures("shell")
@pytest.mark.parametrize("name", ["PYTHONWARNINGS", "PYTHONPATH", "LD_PRELOAD"])
def test_what_changes_every_program_never_passes(name: str) -> None:
    assert name not in variables.child(name)


@pytest.mark.usefixtures("shell")
def test_a_process_enters_the_environment_of_a_run_and_names_what_it_drops() -> None:
    dropped = [name for name in variables.enter() if name != "PYTEST_CURRENT_TEST"]
    assert dropped == sorted(set(HOSTILE) - {"PYTHONPATH", *variables.SET}) and not set(dropped) & set(os.environ)
    told = variables.sentence(dropped)
    assert told.endswith(" ".join(dropped)) and "10.0.0.9" not in told  # names alone
    assert variables.enter() == [] and variables.sentence([]) == ""


def test_files_pass_names_by_keys_by_exports_and_by_settings_that_name_a_variable() -> None:
    cluster = {
        "pass_environment": ["MY_*"],
        "environment": {"SLURM_CONF": "/x"},
        "setup": ["module load cuda", "export NCCL_ALGO=Ring; export A_B=1"],
    }
    settings = [{"server": {"api_key_env": "KEY", "seed": 1}, "more": [{"token_env": "TOKEN"}, {"token_env": None}]}]
    assert variables.named(cluster, settings) == ["MY_*", "SLURM_CONF", "NCCL_ALGO", "A_B", "KEY", "TOKEN"]
    assert variables.named({}) == []


def test_the_installer_can_read_this_module_without_any_package(tmp_path: Path) -> None:
    code = "from diagcot.jobs.environment import variables; print(variables.child()['PYTHONUTF8'])"
    root = variables.OWN_CODE["PYTHONPATH"]
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=tmp_path, env={"PYTHONPATH": root}, capture_output=True, text=True
    )
    assert done.stdout == "1\n", done.stderr


def test_variables_of_a_job_do_not_reach_queries_nor_the_laptops_runner() -> None:
    given = {"SLURM_JOB_ID": "7", "SQUEUE_STATES": "PD", "SACCT_FORMAT": "x", "SLURM_CONF": "/c", "HOME": "/h"}
    assert variables.outside_job(given) == {"SLURM_CONF": "/c", "HOME": "/h"}
