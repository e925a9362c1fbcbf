"""Users whose id has no name, as in containers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
NAMELESS = ["unshare", "--user", "--map-user=54321"]
"""Runs a command as a user id that the system has no name for; it still reads what this user may read."""


def can_be_nameless() -> bool:
    try:
        return subprocess.run([*NAMELESS, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not can_be_nameless(), reason="no user namespaces here")
@pytest.mark.parametrize("verb", [["status"], ["plan"]], ids=lambda verb: verb[0])
def test_a_user_id_without_a_name_gives_no_traceback(tmp_path: Path, verb: list[str]) -> None:
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*NAMELESS, sys.executable, "-m", "diagcot", *verb], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == {"status": 1, "plan": 0}[verb[0]], done.stderr
