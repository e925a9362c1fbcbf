"""Disturbs a scenario at every single file operation: `python -m tests.faults.points SCENARIO ROOT ACTION…`.

The code under test has no hooks. Each execution is a fork of this process in which Python's own (slow, but observable)
file objects stand in for the C ones, and every call that changes a file system is counted; at call n the action happens.
A second fork then resumes, undisturbed. One JSON line is printed for each point.

    kill    SIGKILL just before the call, which is also just after the one before it
    tear    half of a write, then SIGKILL; points that are no write are left out
    EIO     the call fails with this error (any name of errno.h); EDQUOT fails writes only
"""

import _pyio
import builtins
import errno
import importlib
import io
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from diagcot.jobs.state import reading

CALLS = ("open", "write", "fsync", "link", "replace", "rename", "unlink", "rmdir", "mkdir")


class Scenario(Protocol):
    """A module of tests/faults/scenarios. `prepare(root)`, where it has one, comes first and is not disturbed."""

    def run(self, root: Path) -> None:
        """Do the work, from wherever an earlier execution left it."""

    def outcome(self, root: Path) -> Any:
        """What has to be the same however often the work was disturbed (JSON)."""


class Shim:
    """Counts the calls of this process that change files, and acts at one of them."""

    def __init__(self, point: int, action: str) -> None:
        self.point, self.action = point, action
        self.calls: list[str] = []
        self.real = {name: getattr(os, name) for name in CALLS}

    def install(self) -> None:
        builtins.open = io.open = _pyio.open  # type: ignore[assignment]  # these write through os.write
        reading.File.write = lambda file, data: os.write(file.fileno(), data)  # type: ignore[method-assign, assignment]
        for name in CALLS:
            setattr(os, name, self._wrap(name))

    def _wrap(self, name: str) -> Callable[..., Any]:
        real = self.real[name]

        def call(*args: Any, **named: Any) -> Any:
            if (name == "open" and not args[1] & os.O_CREAT) or (name == "write" and args[0] <= 2):
                return real(*args, **named)
            target = args[0] if not isinstance(args[0], int) else Path(f"/proc/self/fd/{args[0]}").readlink()
            self.calls.append(f"{name} {target}" + (f" -> {args[1]}" if name in ("link", "replace", "rename") else ""))
            if len(self.calls) == self.point:
                if self.action == "tear" and name == "write":
                    real(args[0], bytes(args[1])[: len(args[1]) // 2])
                if self.action in ("kill", "tear"):
                    os.kill(os.getpid(), signal.SIGKILL)
                code = getattr(errno, self.action)
                raise OSError(code, os.strerror(code))
            return real(*args, **named)

        return call


def execute(scenario: Scenario, root: Path, point: int = 0, action: str = "kill", trace: Path | None = None) -> int:
    """Run the scenario in a fork; its exit code, -9 where it was killed. `trace` gets the calls, one a line."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        os.chdir("/")
        sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115  instead of pytest's
        getattr(scenario, "prepare", lambda root: None)(root)
        shim = Shim(point, action)
        if point or trace:
            shim.install()
        scenario.run(root)
        if trace:
            calls = "".join(f"{line}\n" for line in shim.calls)
            trace.write_text(calls)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def main(name: str, root: Path, actions: list[str]) -> int:
    scenario: Any = importlib.import_module(f"tests.faults.scenarios.{name}")
    sys.stdout.flush()
    (root / "undisturbed").mkdir(parents=True)
    assert execute(scenario, root / "undisturbed", trace=root / "calls") == 0
    expected = scenario.outcome(root / "undisturbed")
    calls = (root / "calls").read_text().splitlines()
    for action in actions:
        for point, call in enumerate(calls, 1):
            if action in ("tear", "EDQUOT") and not call.startswith("write "):
                continue
            place = root / f"{action}-{point}"
            place.mkdir()
            code = execute(scenario, place, point, action)
            done = scenario.outcome(place) == expected
            resumed = execute(scenario, place)
            row = {"action": action, "point": point, "call": call, "code": code, "done": done}
            row |= {"resumed": resumed, "same": scenario.outcome(place) == expected}
            print(json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:]))
