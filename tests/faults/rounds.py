"""One round: a chain of 200 units on a development cluster, its faults, a person's actions, and the proof at its end.

`python -m tests.faults.rounds TOOL DIRECTORY FOLDER RUN SEED [FAULTS ACTIONS AFTERWARDS]`, run as a client of the cluster
(`devcluster exec`, so that nodes may have networks of their own). Prints one JSON line: what was done, and what a person had
to do. The numbers say how many faults there are, how many actions beside them, and how many on the finished run; all by
default.
"""

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from tests.faults import chaos, person, proof
from tests.faults.project import Project

DEADLINE_S = 420  # from the last fault and action to the end of the run
KILLED_LAUNCHERS = 3


class Round:
    """A run of its own in `folder`, and all that happens to it."""

    def __init__(self, tool: list[str], folder: Path, run: str, seed: str) -> None:
        self.folder, self.began = folder, time.monotonic()
        self.told: list[str] = []
        # Sockets need a short path; whatever the run's processes leave on a node's disk is found here.
        self.scratch = Path(tempfile.mkdtemp(prefix="d", dir="/tmp"))
        self.project = Project(folder / "project", run)
        self.project.write(scratch=str(self.scratch))
        self.random = random.Random(seed)
        self.witness = proof.Witness(self.project)
        self.chaos = chaos.Chaos(tool, self.project, random.Random(f"{seed} faults"), self.say)
        self.person = person.Person(self.project, random.Random(f"{seed} actions"), self.witness, self.say)

    def say(self, text: str) -> None:
        self.told.append(f"{time.monotonic() - self.began:.0f} s: {text}")

    def drawn(self, names: tuple[str, ...], count: int | None) -> list[str]:
        return self.random.sample(names, len(names) if count is None else min(count, len(names)))

    def go(
        self, faults: int | None = None, actions: int | None = None, afterwards: int | None = None
    ) -> dict[str, Any]:
        """Runs the round. Raises Violation."""
        self.person.launch(KILLED_LAUNCHERS)
        failing = self.chaos.start(self.drawn(chaos.FAULTS, faults))
        for name in self.drawn(person.AT_WORK, actions):
            time.sleep(self.random.uniform(0.5, 3))
            self.person.act(name)
        failing.join()
        self.chaos.end()
        self.finish()
        needed = len(self.person.needed)
        for name in self.drawn(person.AT_THE_END, afterwards):
            self.person.act(name)
            self.finish()
        proof.require(len(self.person.needed) == needed, f"a quiet run needed a person: {self.person.needed[needed:]}")
        self.witness.look()
        proof.nothing_left(self.project)
        return dict(proof.whole(self.project, self.folder / "quiet"))

    def finish(self) -> None:
        """Look after the run until all is done."""
        end = time.monotonic() + DEADLINE_S
        while not self.person.attend():
            missing = {plan.stage: len(plan.missing()) for plan in self.project.plans()}
            proof.require(time.monotonic() < end, f"not done {DEADLINE_S} s after the last fault: {missing}")
            self.chaos.resume_nodes()
            time.sleep(2)

    def told_as_row(self) -> dict[str, Any]:
        return {
            "run": self.project.run,
            "seconds": round(time.monotonic() - self.began),
            "faults": dict(self.chaos.counts),
            "actions": dict(self.person.counts),
            "needed": self.person.needed,
            "told": self.told,
        }


def main(argv: list[str]) -> int:
    tool, directory, folder, run, seed = argv[:5]
    os.environ.pop("TMPDIR", None)
    # A shell starts what is in its background with SIGINT ignored, and so would be the Ctrl-C of a person who watches.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ["XDG_STATE_HOME"] = str(Path(folder) / "state")  # the index of runs is the round's own
    made = Round([sys.executable, tool, "--directory", directory], Path(folder), run, seed)
    row: dict[str, Any] = {"violation": None}
    sys.stdout, out = sys.stderr, sys.stdout  # what this process says of its own runs is no part of the answer
    try:
        row |= made.go(*map(int, argv[5:]))
        shutil.rmtree(made.scratch)
    except proof.Violation as violation:
        row["violation"] = str(violation)
    except Exception:
        row["violation"] = traceback.format_exc()
    print(json.dumps(made.told_as_row() | row), file=out, flush=True)
    return int(row["violation"] is not None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
