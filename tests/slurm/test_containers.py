"""Tasks in a real container, by Apptainer on real daemons; the image holds less than any image that people use."""

import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests import chains
from tests.faults import runs

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.usefixtures("devcluster"),
    pytest.mark.skipif(not shutil.which("apptainer"), reason="no Apptainer here; .ci/slurm-24 installs it"),
]
TOOLS = ("sh", "cat", "rm", "sleep", "flock", "getent", "env")  # as in any image; no Slurm, no Python


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A .sif file of the C library, a shell, and the libraries that this machine's Python is linked with."""
    folder = tmp_path_factory.mktemp("image")
    box = folder / "box"
    for name in ("etc", "tmp", "var/tmp", "proc", "sys", "dev", "root", "usr/bin"):
        (box / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64", "sbin"):
        (box / "usr" / name).mkdir(exist_ok=True)
        (box / name).symlink_to(f"usr/{name}")
    (box / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (box / "etc" / "group").write_text("root:x:0:\n")
    programs = [Path(str(shutil.which(name))).resolve() for name in TOOLS]
    for name, program in zip(TOOLS, programs, strict=True):
        shutil.copy(program, box / "usr" / "bin" / name)
    base = Path(sys.base_prefix)
    linked = [*programs, Path(sys.executable).resolve(), *base.glob("lib/python3*/lib-dynload/*.so")]
    linked += Path(sysconfig.get_path("platlib")).glob("pydantic_core/*.so")
    told = subprocess.run(["ldd", *linked], capture_output=True, text=True, check=False).stdout
    for library in map(Path, set(re.findall(r"(/\S+) \(0x", told))):
        if base not in library.parents:
            (box / library.relative_to("/")).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, box / library.relative_to("/"))
    subprocess.run(["apptainer", "build", folder / "small.sif", box], check=True, capture_output=True)
    return folder / "small.sif"


def test_tasks_run_in_an_image_fail_there_park_there_and_go_on(tmp_path: Path, image: Path) -> None:
    # --no-privs: a test that runs as root need not have all rights that root may have.
    container = {"image": str(image), "runtime": "apptainer", "options": ["--no-privs"]}
    site = chains.cluster("slurm", resource_profiles={"small": runs.SMALL}, warning_seconds=20, container=container)
    kind = {"kind": "tests.kinds.inside", "resources": runs.size(minutes=5)}
    first = chains.plan(tmp_path, "first", 2, settings={"fail_once": "00001"}, **kind)
    second = chains.plan(
        tmp_path, "second", 2, after=(chains.Edge("first", True),), settings={"records": 400, "seconds": 0.3},
        kind="tests.kinds.inside", resources=runs.size(minutes=1, nodes=2),
    )  # fmt: skip
    runs.submit(tmp_path, [first, second], site)
    runs.finished([first, second])
    runs.whole(first, second)
    assert f"apptainer exec --no-privs --bind {tmp_path}" in (first.path / "job.sbatch").read_text()
    for plan in (first, second):
        assert "image: True, squeue: None" in runs.log(plan, 0)
    assert len(runs.why(first)) == 2 and "asked to fail once" in runs.log(first, 1)
    assert "USR2: stopping" in runs.log(second, 0) and len(runs.executions(second, 0)) > 1
