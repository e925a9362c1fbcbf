"""The whole chain for real: killed and continued on a laptop, by dependencies alone on a real Slurm, with the same table.

Both run from a checkout that is broken right after the submission: every kind of stage computes with the submitted code. The
laptop's shell exports a hostile value for every variable that the installed packages read.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from diagcot.data.readers import fetch
from diagcot.jobs.plans import space
from diagcot.jobs.slurm import commands as slurm
from diagcot.jobs.state import attempts, runner
from launchers.chain import open_chain
from tests.e2e.conftest import ROOT, cluster_file
from tests.integration.environment import hostile

pytestmark = [pytest.mark.heavy, pytest.mark.chain]
SCORED = {"base", "align", "teacher", "cot-sft", "grpo"}  # align by retrieval alone
DEADLINE_S = 900


def diagcot(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "diagcot", *map(str, arguments)]


def table(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "metrics.json").read_text())  # type: ignore[no-any-return]


@pytest.fixture
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied(tmp_path_factory.mktemp("checkout"))


def copied(folder: Path) -> Path:
    """A copy of this checkout."""
    for name in ("diagcot", "launchers", "prompts", "recipes", "slurm", "locks"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    fetch.fetch(fetch.PLACE)  # before the shell is hostile, which keeps pip from its index
    (folder / "data").symlink_to(ROOT / "data")
    return folder


def break_code(checkout: Path, *folders: str) -> dict[Path, str]:
    """Make every module in these folders fail when it is imported; what they held."""
    held = {path: path.read_text() for name in folders for path in (checkout / name).rglob("*.py")}
    for path in held:
        path.write_text("raise RuntimeError('edited after the submission')\n")
    return held


@pytest.fixture(scope="module")
def laptop(micro: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The run's folder after `diagcot demo` was stopped by Ctrl-C in the middle and then run again to its end.

    Each time, what stages import and the command itself does not is broken as soon as the run's own process is there.
    """
    root = tmp_path_factory.mktemp("laptop")
    checkout = copied(root / "checkout")
    # What keeps Python or its linker from starting is left out.
    unusable = ("PYTHON", "LD_")
    env = {name: value for name, value in (os.environ | hostile.environment()).items() if not name.startswith(unusable)}
    command = diagcot("demo", "--recipe", micro, "--cluster", cluster_file("laptop", root, "local"), "--run", "trial")
    run_dir = root / "logs" / "trial"
    first = subprocess.Popen(
        command, cwd=checkout, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    held = broken_once_running(checkout, run_dir, first)
    end = time.monotonic() + DEADLINE_S
    partial = run_dir / "cot" / "partial"
    while time.monotonic() < end and first.poll() is None and not any(partial.glob("*.jsonl")):
        time.sleep(0.2)
    first.send_signal(signal.SIGINT)
    said, _ = first.communicate(timeout=90)
    assert first.returncode == 130, said
    assert not (run_dir / "metrics.json").exists()
    for path, text in held.items():
        path.write_text(text)
    second = subprocess.Popen(
        command, cwd=checkout, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    broken_once_running(checkout, run_dir, second)
    said, _ = second.communicate(timeout=DEADLINE_S)
    assert second.returncode == 0, said
    (run_dir / "said").write_text(said)
    yield run_dir


def broken_once_running(checkout: Path, run_dir: Path, command: subprocess.Popen[str]) -> dict[Path, str]:
    end = time.monotonic() + 60
    while not runner.process_id(run_dir):
        assert time.monotonic() < end and command.poll() is None, command.communicate()
        time.sleep(0.1)
    return break_code(
        checkout, *(f"diagcot/{name}" for name in ("training", "serving", "cot", "shards", "rewards", "tasks"))
    )


def test_the_demo_goes_on_after_ctrl_c_and_shows_every_model(laptop: Path) -> None:
    metrics = table(laptop)
    assert set(metrics["models"]) == SCORED
    said = (laptop / "said").read_text()
    assert all(name in said for name in SCORED) and "Traceback" not in said
    assert (laptop / "report.html").stat().st_mode & 0o077 == 0  # private to the user
    tried = [name.parent.parent.name for name in laptop.glob("*/attempts/2.json")]
    assert "cot" in tried or "filter" in tried  # it was stopped in the middle, and what was done was kept
    assert not list((laptop / "shard").glob("attempts/2.json"))


def test_the_plan_has_told_the_space_of_each_stage_within_a_factor_of_two(micro: Path, laptop: Path) -> None:
    told = open_chain(str(micro), "laptop", None).storage()
    used = {row.stage: row.product for row in space.stages(laptop) if told[row.stage] is not None}
    del used["filter"]  # how many traces a teacher of a few steps writes that are kept is chance
    trained = {"base", "align", "teacher-lora", "teacher", "cot-sft", "grpo"}
    assert {"phantoms", "shard", "cot", "evaluate", "retrieval"} | trained <= used.keys()
    off = {name: (told[name], size) for name, size in used.items() if not size / 2 <= (told[name] or 0) <= size * 2}
    assert off == {}


@pytest.mark.slurm
@pytest.mark.row(
    16,
    promise="every kind of stage, GRPO included, computes with the submitted code, on a laptop and on Slurm",
    injected="a checkout of which every module fails to import, right after the submission",
    daemons="real",
)
def test_row_16_the_same_chain_on_a_real_slurm_by_dependencies_alone(
    micro: Path, laptop: Path, tmp_path: Path, checkout: Path, devcluster: Any
) -> None:
    cluster = cluster_file("devcluster", tmp_path, "slurm")
    command = diagcot("submit", "--recipe", micro, "--cluster", cluster, "--run", "trial", "--stage", "all")
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    break_code(checkout, "diagcot", "launchers")
    run_dir = tmp_path / "logs" / "trial"
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end and not (run_dir / "metrics.json").exists():
        made = [attempt for path in run_dir.glob("*/attempts") for attempt in attempts.read(path.parent)]
        assert slurm.alive({job: name for attempt in made for job, name in attempt.names.items()}), (
            f"the chain stopped: {failed(run_dir)}"
        )
        time.sleep(2)
    ours, theirs = table(run_dir), table(laptop)
    assert ours["models"] == theirs["models"]
    assert samples(ours) == samples(theirs)
    # The same seed and the same samples: the same table, although one chain was killed in the middle and the other ran
    # on two nodes. Only what the order of requests does to the last bits of a server's sums may differ.
    assert scores(ours) == pytest.approx(scores(theirs), abs=0.02, nan_ok=True)


def samples(metrics: dict[str, Any]) -> list[Any]:
    return [(row["dataset"], row["model"], row["samples"]) for row in metrics["rows"]]


def scores(metrics: dict[str, Any]) -> dict[str, float]:
    return {
        f"{row['dataset']}.{row['model']}.{name}": float("nan") if cell["value"] is None else cell["value"]
        for row in metrics["rows"]
        for name, cell in row["scores"].items()
        if cell
    }


def failed(run_dir: Path) -> list[str]:
    return [json.loads(path.read_text())["message"] for path in run_dir.glob("*/failed/*.json")]


def test_nothing_of_the_chain_is_left_running(laptop: Path) -> None:
    end = time.monotonic() + 30  # a server that was told to end may still be ending
    while left := processes_of(laptop.parent.parent):
        assert time.monotonic() < end, left
        time.sleep(0.2)


def processes_of(folder: Path) -> list[str]:
    """Process ids whose command line names `folder`, other than this process."""
    command = ["pgrep", "-f", str(folder)]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return [pid for pid in found if int(pid) != os.getpid()]
