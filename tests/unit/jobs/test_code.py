"""Every process of a run compares the code that it imported with the run's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from diagcot.jobs.environment import code
from tests import chains

ASK = "from diagcot.jobs.environment import code; code.require_own(); print('own')"


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    roots = [chains.ROOT / "prompts", chains.ROOT / "diagcot"]
    target = tmp_path_factory.mktemp("run") / code.FOLDER / code.digest(roots)
    code.snapshot(roots, target)
    return target


def ask(imported: Path, expected: Path) -> str:
    env = os.environ | {"PYTHONPATH": str(imported), "PYTHONSAFEPATH": "1", code.VARIABLE: str(expected)}
    done = subprocess.run([sys.executable, "-c", ASK], env=env, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_the_digest_is_that_of_the_snapshot_whatever_the_order_and_the_caches(snapshot: Path) -> None:
    roots = [chains.ROOT / "diagcot", chains.ROOT / "prompts"]
    assert code.digest(roots) == code.digest(roots[::-1]) == snapshot.name
    assert ask(snapshot, snapshot) == "own\n"  # which wrote bytecode into the snapshot
    assert ask(snapshot, snapshot) == "own\n"


def test_the_code_of_a_checkout_is_refused(snapshot: Path) -> None:
    said = ask(chains.ROOT, snapshot)
    assert "UserError" in said and f"instead of the run's code in {snapshot}" in said


def test_a_snapshot_that_was_changed_is_refused(snapshot: Path, tmp_path: Path) -> None:
    changed = tmp_path / code.FOLDER / snapshot.name
    code.snapshot([snapshot / "diagcot", snapshot / "prompts"], changed)
    file = changed / "diagcot" / "serving" / "request.py"
    file.write_text(file.read_text() + "\n")
    said = ask(changed, changed)
    assert "was changed after submission" in said and "CODE=new" in said


def test_outside_a_run_there_is_nothing_to_compare_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(code.VARIABLE, raising=False)
    code.require_own()


def test_the_commit_says_whether_tracked_files_differ_from_it(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert code.commit(tmp_path) == ""
    git("init", "-q")
    (tmp_path / "a.py").write_text("1\n")
    git("add", "a.py")
    git("commit", "-qm", "one")
    (tmp_path / "other.txt").write_text("not tracked")
    assert code.commit(tmp_path) == git("rev-parse", "HEAD")
    (tmp_path / "a.py").write_text("2\n")
    assert code.commit(tmp_path) == git("rev-parse", "HEAD") + " with changes"
