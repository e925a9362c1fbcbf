"""Standard output that nobody reads, that is full, or that is not there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("output", "code", "said"),
    [
        (">/dev/full", 1, "error: what this command prints cannot be written (No space left on device)"),
        (">&-", 0, ""),
        ("2>&- >/dev/null", 0, ""),
        ("| true", 141, ""),
    ],
)
def test_output_that_cannot_be_written_is_told_or_left(output: str, code: int, said: str, tmp_path: Path) -> None:
    command = f"'{sys.executable}' -m diagcot plan --recipe tiny --cluster laptop {output}; exit ${{PIPESTATUS[0]}}"
    env = os.environ | {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == code and done.stderr.startswith(said), done.stderr
    assert bool(done.stderr) == bool(said) and not any(tmp_path.iterdir())


def test_files_do_not_take_the_number_of_a_stream_that_is_closed(tmp_path: Path) -> None:
    """Else what a child prints would be written into the first file that is opened."""
    source = (
        "import subprocess\nfrom diagcot.console import terminal\nwith terminal.guarded():\n"
        " with open('file', 'w') as file:\n  assert file.fileno() > 2\n  subprocess.run(['echo', 'said'], check=True)\n"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(
        ["bash", "-c", f'exec "{sys.executable}" -c "$0" <&- >&-', source], cwd=tmp_path, env=env, check=True
    )
    assert (tmp_path / "file").read_text() == ""
