"""`make env` on a small checkout with a lock of one package: environments beside each other, copies, two at once."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
HOSTILE = {
    "PIP_USER": "1", "PIP_TARGET": "/nowhere", "PIP_PREFIX": "/nowhere", "PIP_REQUIRE_HASHES": "1", "PIP_NO_BINARY": ":all:",
    "PIP_PYTHON": "/nowhere", "UV_REQUIRE_HASHES": "1", "UV_TARGET": "/nowhere", "UV_PYTHON": "/nowhere", "UV_OFFLINE": "1",
    "UV_SYSTEM_PYTHON": "1", "UV_NO_BINARY": "1", "UV_CONFIG_FILE": "/nowhere", "PYTHONHOME": "/nowhere",
    "PYTHONPATH": "/nowhere", "PYTHONWARNINGS": "error", "VIRTUAL_ENV": "/nowhere", "LOCK": "gpu", "PYTHON": "/nowhere",
}  # fmt: skip
"""What a shell may export against pip, uv, Python and make's own options; every call here has it."""
MAIN = "import sys, diagcot\nprint(diagcot.__file__)\nprint(sys.executable)\n"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout, with a space in its path, whose environment is built."""
    root = tmp_path_factory.mktemp("check out")
    (root / "locks").mkdir()
    (root / "diagcot" / "cli").mkdir(parents=True)
    (root / "diagcot" / "jobs" / "environment").mkdir(parents=True)
    variables = [f"diagcot/jobs/{name}.py" for name in ("__init__", "environment/__init__", "environment/variables")]
    for name in ("Makefile", "locks/install.py", *variables):
        shutil.copy(ROOT / name, root / name)
    for name, text in {"__init__": "", "environment": "", "cli/__init__": "", "cli/main": MAIN}.items():
        (root / "diagcot" / f"{name}.py").write_text(text)
    lock(root, "iniconfig==2.1.0")
    done = env(root)
    assert "building" in done.stdout and "environment ready" in done.stdout
    return root


@pytest.fixture
def checkout(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "copy", symlinks=True))


def lock(root: Path, text: str) -> None:
    (root / "locks" / "cpu.txt").write_text(f"{text}\n")


def start(root: Path) -> "subprocess.Popen[str]":
    command = ["make", "--no-print-directory", "env", f"PYTHON={sys.executable}"]
    return subprocess.Popen(
        command, cwd=root, env=os.environ | HOSTILE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def env(root: Path) -> subprocess.CompletedProcess[str]:
    process = start(root)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return subprocess.CompletedProcess([], 0, output)


def speaks(root: Path) -> list[str]:
    """Code and interpreter of the command, called through the link."""
    command = [str(root / ".venv" / "bin" / "diagcot")]
    return subprocess.run(command, cwd="/", capture_output=True, text=True, check=True).stdout.splitlines()


def folders(root: Path) -> list[Path]:
    return sorted(path for path in root.glob(".venv-*") if path.is_dir())


def itself(root: Path) -> None:
    (venv,) = folders(root)
    assert speaks(root) == [str(root / "diagcot" / "__init__.py"), str(venv / "bin" / "python")]


def test_the_command_runs_its_checkout_with_the_folder_of_the_environment(built: Path) -> None:
    itself(built)
    before = built.stat().st_mtime_ns
    assert env(built).stdout == ""  # nothing to do
    assert built.stat().st_mtime_ns == before  # and nothing was written


@pytest.mark.parametrize("how", ["copied", "moved"])
def test_a_checkout_elsewhere_works_as_itself(how: str, built: Path, checkout: Path, tmp_path: Path) -> None:
    root = Path(shutil.move(checkout, tmp_path / "else where")) if how == "moved" else checkout
    itself(root)  # also before `make env`
    assert env(root).stdout == ""  # nothing is built again
    itself(root)
    (venv,) = folders(root)
    (original,) = folders(built)
    assert (venv / "lock").read_text().splitlines()[1] == str(venv)
    for path in (venv / "bin").iterdir():
        if path.stat().st_size < 2**20:
            assert str(built).encode() not in path.read_bytes(), path
    itself(built)
    assert str(original) in (original / "bin" / "activate").read_text()


def test_a_process_keeps_its_environment_when_another_lock_is_built(checkout: Path) -> None:
    (old,) = folders(checkout)
    program = (
        "import sys; sys.stdin.readline(); import iniconfig, importlib.metadata as m; print(m.version('iniconfig'))"
    )
    with subprocess.Popen(
        [old / "bin" / "python", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        lock(checkout, "iniconfig==2.0.0")
        assert "building" in env(checkout).stdout
        assert running.communicate("\n")[0] == "2.1.0\n"
    (new,) = set(folders(checkout)) - {old}
    assert (checkout / ".venv").resolve() == new
    assert speaks(checkout)[1] == str(new / "bin" / "python")
    lock(checkout, "iniconfig==2.1.0")  # `git checkout` of the earlier lock
    assert env(checkout).stdout == ""
    assert (checkout / ".venv").resolve() == old


def test_two_builds_at_once_and_what_a_killed_one_left(checkout: Path) -> None:
    (venv,) = folders(checkout)
    (venv / "lock").unlink()  # as after a build that was killed
    (venv / "bin" / "diagcot").unlink()
    processes = [start(checkout) for _ in range(2)]
    outputs = sorted(process.communicate(timeout=300)[0] for process in processes)
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert [output.count("building .venv") for output in outputs] == [0, 1]
    assert outputs[0].startswith("another `make env` builds")
    itself(checkout)


def test_a_folder_in_place_of_the_link_gives_way(checkout: Path) -> None:
    (checkout / ".venv").unlink()
    (checkout / ".venv" / "bin").mkdir(parents=True)
    env(checkout)
    assert (checkout / ".venv-former" / "bin").is_dir()
    assert (checkout / ".venv").is_symlink()
