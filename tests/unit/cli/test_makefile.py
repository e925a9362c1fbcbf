"""The Makefile: values reach the program as one word each, and mistakes are answered."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
HOSTILE = "it's; touch a $(shell touch b) $$(touch c) `touch d` \"e"


def make(folder: Path, *arguments: str, **exported: str) -> subprocess.CompletedProcess[str]:
    """`make` in an empty folder, with a program that prints its arguments, one a line."""
    return subprocess.run(
        ["make", "--no-print-directory", "-f", str(ROOT / "Makefile"), f"BIN={folder}/bin", *arguments],
        cwd=folder,
        env=os.environ | exported,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def program(tmp_path: Path) -> Path:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "diagcot").write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    (tmp_path / "bin" / "diagcot").chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plan", f"RUN={HOSTILE}"], ["plan", "--recipe", "tiny", "--cluster", "laptop", "--run", HOSTILE]),
        (["plan", f"RECIPE={HOSTILE}"], ["plan", "--recipe", HOSTILE, "--cluster", "laptop"]),
        (["plan", f"CLUSTER={HOSTILE}"], ["plan", "--recipe", "tiny", "--cluster", HOSTILE]),
        (["demo", f"RECIPE={HOSTILE}", "-o", "env"], ["demo", "--recipe", HOSTILE]),
        (["demo", "SEED=8", "-o", "env"], ["demo", "--seed", "8"]),
        (["demo", "DATA=iu", "-o", "env"], ["demo", "--data", "iu"]),
        (["demo", "FAMILY=internvl", "-o", "env"], ["demo", "--family", "internvl"]),
        (
            ["study", "HALF=cx-mind", "SEEDS=7,8", "-o", "env"],
            ["study", "--half", "cx-mind", "--seeds", "7,8", "--cluster", "laptop"],
        ),
        (["plan", "SEED=8"], ["plan", "--recipe", "tiny", "--cluster", "laptop", "--seed", "8"]),
        (["logs", f"STAGE={HOSTILE}", f"UNIT={HOSTILE}"], ["logs", "--stage", HOSTILE, "--unit", HOSTILE]),
        (["retry", "STAGE=a b", "MEM=1 2"], ["retry", "--stage", "a b", "--mem", "1 2"]),
        (["compare", f"A={HOSTILE}", "B=b b"], ["compare", "--", HOSTILE, "b b"]),
        (["submit-stage2"], ["submit", "--recipe", "tiny", "--cluster", "laptop", "--stage", "2"]),
    ],
)
def test_a_value_is_one_word(program: Path, arguments: list[str], words: list[str]) -> None:
    done = make(program, *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == words
    assert [path.name for path in program.iterdir()] == ["bin"]


@pytest.mark.parametrize(
    ("target", "names"),
    [
        ("cancel", ["RUN", "LOGS"]),
        ("retry", ["RUN", "STAGE", "MEM", "TIME", "CODE"]),
        ("sweep", ["OVER", "SEEDS", "RECIPE", "CLUSTER", "DRY"]),
        ("study", ["HALF"]),
        ("demo", ["DATA", "FAMILY"]),
        ("unpack", ["ARCHIVE"]),
        ("rehearse", ["PATIENCE"]),
        ("verify", ["B"]),
        ("help", ["RECIPE", "RUN"]),
        ("env", ["LOCK", "PYTHON"]),
        ("bench-gpu", ["SHAPE"]),
        ("bench-shards", ["SCALE"]),
    ],
)
def test_nothing_in_a_value_is_run(program: Path, target: str, names: list[str]) -> None:
    (program / "bin" / "python").symlink_to("diagcot")
    for name in names:
        python = [] if name == "PYTHON" else [f"PYTHON={program}/bin/python"]
        done = make(program, target, *python, *(["-o", "env"] if target != "env" else []), f"{name}={HOSTILE}")
        assert name in ("DRY", "SCALE", "PYTHON") or (target, name) == ("help", "RUN") or HOSTILE in done.stdout
        assert [path.name for path in program.iterdir()] == ["bin"], name
        for several in ("a\ntouch b", "'\ntouch b\n'", "a\\\ntouch b"):
            done = make(program, target, f"{name}={several}")
            assert done.returncode == 2 and f"{name}= has a newline in it" in done.stderr


@pytest.mark.parametrize("name", ["a b", "a:b", "a'b", "a;touch x", "a`touch x`", "a(b"])
def test_a_project_in_a_folder_that_a_shell_cannot_take_is_told(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "Makefile").write_text((ROOT / "Makefile").read_text())
    command = ["make", "-f", str(folder / "Makefile"), "help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "move it" in done.stderr and list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("flags", [[], ["-e"]], ids=["plain", "environment overrides"])
def test_only_the_command_line_sets_an_option(program: Path, flags: list[str]) -> None:
    exported = dict.fromkeys(
        ("TIME", "MEM", "RUN", "CLUSTER", "RECIPE", "STAGE", "SEED", "DRY", "CODE", "LOGS"), "site"
    )
    assert make(program, *flags, "retry", **exported).stdout.splitlines() == ["retry"]
    assert make(program, *flags, "retry", "TIME=5", **exported).stdout.splitlines() == ["retry", "--time", "5"]
    words = ["submit", "--recipe", "tiny", "--cluster", "laptop", "--stage", "all"]
    assert make(program, *flags, "submit-all", **exported).stdout.splitlines() == words


def test_python_variables_of_a_shell_reach_no_command(program: Path) -> None:
    (program / "bin" / "diagcot").write_text("#!/bin/sh\nenv | grep ^PYTHON || echo none\n")
    hostile = {"PYTHONHOME": "/nowhere", "PYTHONPATH": "/nowhere", "PYTHONWARNINGS": "error"}
    given = {name: value for name, value in hostile.items() if name not in os.environ} | {"PYTHONPATH": "/nowhere"}
    assert make(program, "status", **given).stdout == "none\n"


def test_a_verb_before_the_environment_is_built(tmp_path: Path) -> None:
    done = make(tmp_path, "status")
    assert (done.returncode, done.stderr.splitlines()[0]) == (2, "error: run `make env` first")


def test_an_unknown_target(program: Path) -> None:
    done = make(program, "nope")
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        2,
        "error: there is no target nope; `make help` lists them",
    )


def test_an_option_in_small_letters(program: Path) -> None:
    done = make(program, "plan", "recipe=other")
    assert done.returncode == 0
    assert "recipe= is ignored: write the option in capitals" in done.stderr
    assert "ignored" not in make(program, "plan", "RECIPE=other").stderr
