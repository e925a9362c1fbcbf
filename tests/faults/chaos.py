"""Everything fails that can while a run is at work: nodes, daemons, workers; from a seed, and repaired some seconds later."""

import collections
import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from diagcot.jobs import UserError
from diagcot.jobs.slurm import commands as slurm
from tests.faults import proof
from tests.faults.project import Project

FAULTS = (
    *("kill_worker",) * 3,
    *("kill_step", "kill_node", "kill_node", "hang_node", "cut_node"),
    *("kill_ctld", "kill_ctld", "kill_dbd", "preempt", "preempt", "cancel_element"),
)
NODES = ("gpu1", "gpu2", "gpu3", "cpu1", "cpu2")


@dataclass
class Chaos:
    """The faults of one run. tool: the command of the development cluster; say: takes down what was done."""

    tool: list[str]
    project: Project
    random: random.Random
    say: Callable[[str], None]
    counts: collections.Counter[str] = field(default_factory=collections.Counter)
    _repairs: list[threading.Thread] = field(default_factory=list)
    _tool_in_use: threading.Lock = field(default_factory=threading.Lock)

    def start(self, names: Iterable[str], gap_s: tuple[float, float] = (1.5, 4)) -> threading.Thread:
        """Let the faults happen one after the other, in a thread."""

        def inject() -> None:
            for name in names:
                time.sleep(self.random.uniform(*gap_s))
                self.counts[name] += 1
                getattr(self, name)()

        thread = threading.Thread(target=inject, name="chaos", daemon=True)
        thread.start()
        return thread

    def lab(self, *verb: str) -> None:
        with self._tool_in_use:
            subprocess.run([*self.tool, *verb], capture_output=True, timeout=120, check=False)

    def kill_worker(self) -> None:
        folder = f"/logs/{self.project.run}/"
        self._kill("a worker", lambda line: "diagcot.jobs.entrypoints work" in line and folder in line)

    def kill_step(self) -> None:
        self._kill("a step", lambda line: line.startswith("slurmstepd: [") and ".batch" not in line)

    def _kill(self, what: str, is_one: Callable[[str], bool]) -> None:
        running = proof.processes()
        # Each node has a namespace of its own; steps of other clusters on this machine look the same.
        nodes = {_namespace(pid) for pid, line in running if "node.sh" in line and f"{self.tool[-1]}/" in line}
        found = [
            pid for pid, line in running if is_one(line) and _namespace(pid) in nodes - {_namespace(os.getpid()), ""}
        ]
        if found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.random.choice(found), signal.SIGKILL)
            self.say(f"SIGKILL of {what}")

    def kill_node(self) -> None:
        self._node("kill-node", 6, *self.random.choice([(), ("--silent",)]))

    def hang_node(self) -> None:
        self._node("hang-node", 14)

    def cut_node(self) -> None:
        self._node("cut-node", 14)

    def _node(self, verb: str, seconds: float, *flags: str) -> None:
        node = self.random.choice(NODES)
        self.lab(verb, node, *flags)
        self.say(f"{verb} {node} {' '.join(flags)}")
        self._later(seconds, "restore-node", node)

    def kill_ctld(self) -> None:
        self.lab("kill-ctld")
        self.say("SIGKILL of slurmctld")
        self._later(self.random.uniform(1, 5), "restart")

    def kill_dbd(self) -> None:
        self.lab("kill-dbd")
        self.say("SIGKILL of slurmdbd")
        self._later(self.random.uniform(5, 10), "restart-dbd")

    def preempt(self) -> None:
        node = self.random.choice(["gpu1", "gpu2"])
        command = ["sbatch", "-p", "urgent", "-w", node, "--exclusive", "--time=1", "-o", "/dev/null", "--wrap=sleep 4"]
        subprocess.run(command, capture_output=True, timeout=60, check=False)
        self.say(f"urgent job on {node}")

    def cancel_element(self) -> None:
        with contextlib.suppress(UserError):
            first = f"{self.project.run}.first."
            mine = [job.id for job in slurm.queue(5) if job.name.startswith(first) and "_" in job.id]
            if mine:
                slurm.cancel([self.random.choice(mine)])
                self.say("scancel of an element")

    def _later(self, seconds: float, *verb: str) -> None:
        repair = threading.Timer(seconds, self.lab, verb)
        repair.daemon = True
        repair.start()
        self._repairs.append(repair)

    def end(self) -> None:
        """Wait until all that failed is repaired."""
        for repair in self._repairs:
            repair.join()
        for node in NODES:  # a fault of a node may have come while another one was being repaired
            self.lab("restore-node", node)

    def resume_nodes(self) -> None:
        """What the administrator does: Slurm drains a node on which it finds a job's forgotten copy."""
        with contextlib.suppress(UserError):
            rows = (row.split() for row in slurm.call("sinfo", "-N", "-h", "-o", "%N %t").splitlines())
            for node in sorted({node for node, state in rows if state.strip("*") in ("drain", "drng", "down", "fail")}):
                self.lab("restore-node", node)
                self.say(f"the administrator brings {node} back")


def _namespace(pid: int) -> str:
    """The namespace of process ids that a process is in; empty if it has ended."""
    try:
        return str(Path(f"/proc/{pid}/ns/pid").readlink())
    except OSError:
        return ""
