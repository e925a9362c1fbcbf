"""Drives a chain of 200 units on a development cluster while, from a fixed seed, everything fails that can.

`python -m tests.faults.chaos TOOL DIRECTORY ROOT SEED`, run as a client of the cluster (`devcluster exec`, so that nodes
may have networks of their own). Prints one JSON line: what was done to the chain, and what a person had to do.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from diagcot.jobs import Pipeline, Plan, UserError, pipeline
from diagcot.jobs.plans.plan import read
from diagcot.jobs.slurm import commands as slurm
from diagcot.jobs.state import attempts
from tests import chains

STAGES = ("first", "second", "third")
DEADLINE_S = 420
SIZES = {
    "spot": {"partition": "spot", "minutes": 4, "mem_gb": 0.3, "array_parallelism": 12},
    "cpu": {"partition": "cpu", "minutes": 4, "mem_gb": 0.3, "array_parallelism": 12},
    "small": {"partition": "cpu", "minutes": 5, "mem_gb": 0.3},
}


def declare(root: Path, executor: str) -> Pipeline:
    """80 units, 80 that follow them one by one, 40 that follow those as a whole; the same bytes on any executor."""
    on = chains.cluster(executor, resource_profiles=SIZES, max_attempts=6, warning_seconds=10)
    flow = Pipeline("chaos", on, root, code=[chains.ROOT / "tests"])
    pairs = [f"{k:02d}-{half}" for k in range(40) for half in "ab"]
    work = {"records": 5, "seconds": 0 if executor == "debug" else 0.2}
    first = flow.stage("first", "tests.kinds.count", pairs, "spot", settings=work, unit_s=20)
    relay = {"seconds": work["seconds"]}
    second = flow.stage(
        "second",
        "tests.kinds.relay",
        pairs,
        "cpu",
        settings=relay,
        elementwise=[first],
        inputs={"source": [first]},
        unit_s=20,
    )
    singles = [f"{k:02d}" for k in range(40)]
    flow.stage("third", "tests.kinds.relay", singles, "spot", settings=relay, inputs={"source": [second]}, unit_s=10)
    return flow


@dataclass
class Chaos:
    tool: list[str]
    root: Path
    random: random.Random
    told: list[str] = field(default_factory=list)
    repairs: list[tuple[float, Callable[[], object]]] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    @property
    def run_dir(self) -> Path:
        return self.root / "logs" / "chaos"

    def plans(self) -> list[Plan]:
        return [read(self.run_dir / name) for name in STAGES if (self.run_dir / name / "plan.json").exists()]

    def say(self, text: str) -> None:
        self.told.append(f"{time.monotonic() - self.began:.0f} s: {text}")

    def lab(self, *verb: str) -> None:
        subprocess.run([*self.tool, *verb], capture_output=True, timeout=90, check=False)

    # -- faults ------------------------------------------------------------------------------------------------------
    def kill_worker(self) -> None:
        self._kill("a worker", lambda line: "diagcot.jobs.entrypoints work" in line and str(self.root) in line)

    def kill_step(self) -> None:
        self._kill("a step", lambda line: line.startswith("slurmstepd: [") and ".batch" not in line)

    def _kill(self, what: str, is_one: Callable[[str], bool]) -> None:
        found = [pid for pid, line in processes() if is_one(line)]
        if found:
            victim = self.random.choice(found)
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
            self.say(f"SIGKILL of {what}")

    def kill_node(self) -> None:
        self._node("kill-node", 6, *self.random.choice([(), ("--silent",)]))

    def hang_node(self) -> None:
        self._node("hang-node", 14)

    def cut_node(self) -> None:
        self._node("cut-node", 14)

    def _node(self, verb: str, seconds: float, *flags: str) -> None:
        node = self.random.choice(["gpu1", "gpu2", "gpu3", "cpu1", "cpu2"])
        self.lab(verb, node, *flags)
        self.say(f"{verb} {node} {' '.join(flags)}")
        self.later(seconds, lambda: self.lab("restore-node", node))

    def kill_ctld(self) -> None:
        self.lab("kill-ctld")
        self.say("SIGKILL of slurmctld")
        self.later(self.random.uniform(1, 5), lambda: self.lab("restart"))

    def kill_dbd(self) -> None:
        self.lab("kill-dbd")
        self.say("SIGKILL of slurmdbd")
        self.later(self.random.uniform(5, 10), lambda: self.lab("restart-dbd"))

    def preempt(self) -> None:
        node = self.random.choice(["gpu1", "gpu2"])
        command = ["sbatch", "-p", "urgent", "-w", node, "--exclusive", "--time=1", "-o", "/dev/null", "--wrap=sleep 4"]
        subprocess.run(command, capture_output=True, timeout=60, check=False)
        self.say(f"urgent job on {node}")

    def cancel(self) -> None:
        with contextlib.suppress(UserError):
            mine = [job.id for job in slurm.queue(5) if ".first." in job.name and "_" in job.id]
            if mine:
                slurm.cancel([self.random.choice(mine)])
                self.say("scancel of an element")

    def later(self, seconds: float, repair: Callable[[], object]) -> None:
        self.repairs.append((time.monotonic() + seconds, repair))

    def repair(self, all_of_them: bool = False) -> None:
        due = [row for row in self.repairs if all_of_them or row[0] <= time.monotonic()]
        self.repairs = [row for row in self.repairs if row not in due]
        for _, action in due:
            action()

    def resume_nodes(self) -> None:
        """What the administrator does: Slurm drains a node on which it finds a job's forgotten copy."""
        rows = (row.split() for row in slurm.call("sinfo", "-N", "-h", "-o", "%N %t").splitlines())
        for node in sorted({node for node, state in rows if state.strip("*") in ("drain", "drng", "down", "fail")}):
            self.lab("restore-node", node)
            self.say(f"the administrator brings {node} back")

    # -- the person --------------------------------------------------------------------------------------------------
    def launch(self, kill: bool) -> bool:
        """Submit the chain in a process of its own, to be killed at some point if `kill`; whether it got through."""
        made = subprocess.Popen([sys.executable, "-m", "tests.faults.chaos", "submit", str(self.root)])
        if kill:
            time.sleep(self.random.uniform(0.3, 1.0))
            if made.poll() is None:
                made.kill()
                self.say("SIGKILL of the launcher")
        return made.wait(timeout=400) == 0

    def attend(self) -> bool:
        """What a person does who looks in now and then; True when all is done."""
        plans = self.plans()
        stuck = next((plan for plan in plans if plan.missing()), None)
        if stuck is None:
            return True
        try:
            queued = slurm.queue(5)
            mine = {job for plan in plans for made in attempts.read(plan.path) for job in made.jobs}
            alive = [job for job in queued if job.id.split("_")[0] in mine]
            held = [job for job in alive if "held" in job.reason.lower()]
            if not alive or held:
                # Meanwhile the last units may have ended: then there is nothing left to retry.
                stages = [plan.stage for plan in plans if plan.missing()]
                wanted = next((stage for stage in stages if not held or f".{stage}." in held[0].name), None)
                if wanted is not None:
                    rows = pipeline.retry_stage(self.run_dir, wanted)
                    self.say(f"make retry STAGE={wanted}: {rows[0].state}")
        except UserError as error:
            self.say(f"(nothing to do: {str(error)[:80]})")
        return False


def processes() -> Iterator[tuple[int, str]]:
    """(pid, command line) of every process of this machine."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                yield int(folder.name), (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")


def main(argv: list[str]) -> int:
    if argv[0] == "submit":
        declare(Path(argv[1]), "slurm").submit()
        return 0
    tool, directory, root, seed = argv
    chaos = Chaos([sys.executable, tool, "--directory", directory], Path(root), random.Random(int(seed)))
    names = ["kill_worker"] * 3 + ["kill_step", "kill_node", "kill_node", "hang_node", "cut_node"]
    names += ["kill_ctld", "kill_ctld", "kill_dbd", "preempt", "preempt", "cancel"]
    chaos.random.shuffle(names)
    launches = [True, True, True]  # killed so often
    launched, due = False, time.monotonic() + 1.0
    done = False
    while not done and time.monotonic() - chaos.began < DEADLINE_S:
        chaos.repair()
        if not launched:
            launched = chaos.launch(kill=bool(launches and launches.pop()))
            due = time.monotonic() + 4
        elif names and time.monotonic() > due:
            getattr(chaos, names.pop())()
            due = time.monotonic() + chaos.random.uniform(1.5, 4)
        elif not names:
            chaos.repair(all_of_them=True)
            with contextlib.suppress(UserError):
                chaos.resume_nodes()
            done = chaos.attend()
            time.sleep(2)
        time.sleep(0.2)
    chaos.repair(all_of_them=True)
    row = {"done": done, "seconds": round(time.monotonic() - chaos.began), "told": chaos.told, "left": names}
    print(json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
