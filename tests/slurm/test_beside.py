"""A chain on Slurm runs through while its installation changes: other users' runs, edited code, another environment."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from diagcot.jobs.plans.plan import read
from diagcot.jobs.slurm import commands as slurm
from diagcot.jobs.state import attempts
from tests.chains import ROOT
from tests.slurm.test_chain import finished
from tests.users import USER, as_user

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.usefixtures("devcluster"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can run commands as another user"),
]
RECIPE = """name: small
stages:
  - {name: phantoms, number: 0, kind: phantoms, settings: {studies: 200}}
  - name: shard
    number: 0
    kind: shard
    inputs: {phantoms: phantoms}
    settings: {sources: [{kind: mimic_cxr, input: phantoms}], shards: 2, image_size: 112}
"""
SIZES = {name: {"partition": "cpu", "cpus": 1, "mem_gb": 1, "minutes": 10} for name in ("cpu", "small")}
STAGES = ("phantoms", "shard")
PACKAGES = Path(sysconfig.get_path("purelib"))


@pytest.fixture
def places() -> Iterator[tuple[Path, Path, Path]]:
    """A checkout with an environment of its own, the folder of its user, and that of another user."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        root = Path(folder)
        root.chmod(0o755)
        checkout, own, other = (root / name for name in ("checkout", "own", "other"))
        for path in (checkout, own, other):
            path.mkdir()
        for name in ("diagcot", "launchers", "prompts", "recipes", "slurm", "locks"):
            shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "Makefile", checkout)
        (checkout / "diagcot" / "environment.py").write_text(
            ""
        )  # what `make env` ends with, for which packages lack here
        environment(checkout, ".venv-own")
        (checkout / ".venv").symlink_to(".venv-own")
        for path in (own, other):
            (path / "mine.yaml").write_text(RECIPE)
        (own / "cluster.yaml").write_text(json.dumps({"name": "own", "executor": "slurm", "resource_profiles": SIZES}))
        subprocess.run(["chown", "-R", str(USER), other], check=True)
        subprocess.run(["chmod", "-R", "go+rX", checkout], check=True)
        yield checkout, own, other


def environment(checkout: Path, name: str) -> None:
    """An environment of the checkout that sees the packages of this one."""
    venv = checkout / name
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (site,) = venv.glob("lib/python*/site-packages")
    (site / "diagcot.pth").write_text(f"{os.path.relpath(checkout, site)}\n")
    lend_packages(venv)
    sys.path.insert(0, str(ROOT / "locks"))
    try:
        from install import COMMAND
    finally:
        sys.path.remove(str(ROOT / "locks"))
    (venv / "bin" / "diagcot").write_text(COMMAND)
    (venv / "bin" / "diagcot").chmod(0o755)


def lend_packages(venv: Path) -> None:
    (site,) = venv.glob("lib/python*/site-packages")
    (site / "packages.pth").write_text(f"{PACKAGES}\n")


def diagcot(checkout: Path, own: Path, *words: str) -> str:
    done = subprocess.run(
        [checkout / ".venv" / "bin" / "diagcot", *words],
        cwd=own,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def submit(checkout: Path, own: Path, run: str) -> None:
    diagcot(checkout, own, "submit", "--recipe", "mine.yaml", "--cluster", "cluster.yaml", "--run", run)


def ended(own: Path, run: str) -> dict[str, str]:
    """Wait for the run; name -> digest of its shards."""
    plans = [read(own / "logs" / run / name) for name in STAGES]
    finished(plans, 300)
    assert [json.loads((plan.path / "summary.json").read_text())["state"] for plan in plans] == ["done", "done"]
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((own / "shards" / run / "shard").glob("*.h5"))
    }


def test_a_chain_runs_through_beside_all_that_changes(places: tuple[Path, Path, Path]) -> None:
    checkout, own, other = places
    submit(checkout, own, "alone")
    undisturbed = ended(own, "alone")
    assert len(undisturbed) == 2

    submit(checkout, own, "beside")
    assert "first" in as_user(other, f"{checkout}/.venv/bin/diagcot submit --recipe mine.yaml --run first").stdout
    (held,) = attempts.read(own / "logs" / "beside" / "shard")[
        0
    ].arrays  # its second stage starts after all the changes
    slurm.call("scontrol", "hold", held.job)
    (checkout / "diagcot" / "shards" / "__init__.py").write_text(
        "raise RuntimeError('edited')\n"
    )  # of the second stage
    (checkout / "locks" / "cpu.txt").write_text("iniconfig==2.1.0\n")
    built = subprocess.run(
        ["make", "--no-print-directory", "env", f"PYTHON={sys.executable}"],
        cwd=checkout, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert "building" in built.stdout and built.returncode == 0, built.stdout + built.stderr
    new = (checkout / ".venv").resolve()
    assert new.name != ".venv-own"
    lend_packages(new)
    assert ".venv-own" in diagcot(checkout, own, "clean").splitlines()[-1]
    slurm.call("scontrol", "release", held.job)

    assert ended(own, "beside") == undisturbed
    end = time.monotonic() + 120
    while not (other / "logs" / "first" / "runner.json").exists():
        assert time.monotonic() < end
        time.sleep(0.3)
    assert json.loads((other / "logs" / "first" / "runner.json").read_text())["code"] == 0
    assert (other / "logs" / "first").stat().st_uid == USER
    assert f"removed {checkout}/.venv-own" in diagcot(checkout, own, "clean")
