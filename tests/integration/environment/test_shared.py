"""One installation that nobody can write to: a user plans, runs, and finds the run again from folders of their own."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.users import USER, as_user

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a folder read-only")

RECIPE = """name: small
stages:
  - {name: phantoms, number: 0, kind: phantoms, settings: {studies: 4}}
"""


@pytest.fixture
def places() -> Iterator[tuple[Path, Path]]:
    """The installation, whose environment is this process's packages, and the user's folder."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        install, own = Path(folder) / "install", Path(folder) / "own"
        install.mkdir()
        for name in ("diagcot", "launchers", "prompts", "recipes", "slurm"):
            shutil.copytree(ROOT / name, install / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "Makefile", install)
        (install / ".venv" / "bin").mkdir(parents=True)
        program = install / ".venv" / "bin" / "diagcot"
        program.write_text(
            '#!/bin/sh\n[ -n "$MAKELEVEL" ] || export DIAGCOT_COMMAND="$0"\n'
            f'PYTHONPATH={install} exec {sys.executable} -P -m diagcot.cli.main "$@"\n'
        )
        program.chmod(0o755)
        subprocess.run(["chmod", "-R", "go+rX,go-w", install], check=True)
        own.mkdir()
        (own / "mine.yaml").write_text(RECIPE)
        (own / "elsewhere").mkdir()
        subprocess.run(["chown", "-R", str(USER), own], check=True)
        for options in (["--bind"], ["-o", "remount,ro,bind"]):
            if subprocess.run(["mount", *options, install, install], check=False).returncode:
                pytest.skip("this machine does not let root mount")
        try:
            yield install, own
        finally:
            subprocess.run(["umount", "-l", install], check=True)


def wait(own: Path, name: str) -> None:
    end = time.monotonic() + 120
    while not (own / "logs" / name / "runner.json").exists():
        assert time.monotonic() < end, (own / "logs" / name / "runner.log").read_text()
        time.sleep(0.3)
    assert json.loads((own / "logs" / name / "runner.json").read_text())["code"] == 0


@pytest.mark.parametrize("by", ["make", "the command"])
def test_a_user_of_a_read_only_installation(by: str, places: tuple[Path, Path]) -> None:
    install, own = places
    before = sorted(install.rglob("*"))
    if by == "make":
        (own / "Makefile").write_text(f"include {install}/Makefile\n")
        submit = "make submit-all RECIPE=mine.yaml RUN=first"
    else:
        submit = f"{install}/.venv/bin/diagcot submit --recipe mine.yaml --run first"
    done = as_user(own, submit)
    assert done.returncode == 0, done.stderr
    command = re.search("watch it with: (.*)", done.stdout)[1]
    assert shlex.split(command)[0] == ("make" if by == "make" else f"{install}/.venv/bin/diagcot")
    watched = as_user(own, command.replace("watch", "status"))  # typed where it was printed
    assert watched.returncode == 0 and "phantoms" in watched.stdout, watched.stderr
    wait(own, "first")
    assert (own / "logs" / "first").stat().st_uid == USER and (own / "shards" / "first").exists()
    found = as_user(own, f"{install}/.venv/bin/diagcot status", own / "elsewhere")
    assert found.returncode == 0 and "first" in found.stdout, found.stderr
    named = as_user(own, f"{install}/.venv/bin/diagcot status --logs ../logs", own / "elsewhere")
    assert named.returncode == 0 and "first" in named.stdout
    assert sorted(install.rglob("*")) == before
