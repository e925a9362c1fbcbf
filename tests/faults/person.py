"""What a person does with a run while everything fails: the real commands, each with the outcomes that are documented.

Every output is searched for a traceback, and every refusal has to be one that the docs promise in that situation.
"""

import collections
import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from diagcot.jobs import UserError
from diagcot.jobs.slurm import commands as slurm
from diagcot.jobs.state import attempts
from tests import chains
from tests.faults import proof
from tests.faults.project import STAGES, Project

LOOKS = ("status", "failures", "logs", "table", "space", "verify", "watch")
AT_WORK = (
    *("look", "look", "look", "look", "again", "at_once", "edit_settings", "edit_seed"),
    *("grow", "copy", "retry", "retry", "cancel", "move"),
)
"""What is done while the run is at work, in a random order."""
AT_THE_END = ("again", "retry", "grow", "lose_products", "copy", "look")
"""What is done with the finished run, in a random order."""

# Slurm does not answer: the person does the same again later.
AWAY = rf"(?i:gave no answer|Slurm does not answer|{'|'.join(slurm.UNREACHABLE)})"
QUEUED = r"is queued or running"
HELD_BACK = r"cannot grow now: .*Nothing was changed"
COPY = r"is a copy of the run in"
WAIT_S = 200  # for jobs to end that were cancelled, also on nodes that hang
LOST_S = 100  # a job that was being requeued from a node that hangs is in the queue again by then
LONG_S = 400  # longer than any command waits for slurmctld or for a lease


@dataclass(frozen=True)
class Answer:
    """What a command said."""

    code: int
    out: str
    err: str

    def says(self, pattern: str) -> bool:
        return re.search(pattern, self.out + self.err, re.DOTALL) is not None


@dataclass
class Person:
    """The actions on one run. say: takes down what was done."""

    project: Project
    random: random.Random
    witness: proof.Witness
    say: Callable[[str], None]
    counts: collections.Counter[str] = field(default_factory=collections.Counter)
    needed: list[str] = field(default_factory=list)  # what the run could not do without a person

    # -- commands ----------------------------------------------------------------------------------------------------
    def start(self, *command: str) -> subprocess.Popen[str]:
        env = os.environ | {"PYTHONPATH": str(chains.ROOT), "COLUMNS": self.random.choice(["80", "160"])}
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=self.project.folder, env=env, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def end(self, process: subprocess.Popen[str], allowed: Mapping[int, str]) -> Answer:
        """Wait for a command. allowed: exit code -> what it has to say then, as a pattern. Raises Violation."""
        words = " ".join(process.args[2:]) if isinstance(process.args, list) else ""
        try:
            out, err = process.communicate(timeout=LONG_S)
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise proof.Violation(f"`{words}` did not end in {LONG_S} s") from error
        answer = Answer(process.returncode, out, err)
        said = f"`{words}` ended with {answer.code} and said:\n{out[-2000:]}\n{err[-2000:]}"
        proof.require(not answer.says("Traceback"), said)
        expected = allowed.get(answer.code)
        proof.require(expected is not None and answer.says(expected), said)
        proof.require(answer.code != 1 or not err or err.startswith(("error: ", "run ")), said)
        return answer

    def verb(self, name: str, *options: str, run: str = "", logs: str = "logs", **allowed: str) -> Answer:
        """A verb of the command on the run. allowed: `ok`, `refused`: what it has to say then."""
        command = ("diagcot", name, "--run", run or self.project.run, "--logs", logs, *options)
        return self.end(self.start(*command), {{"ok": 0, "refused": 1}[key]: said for key, said in allowed.items()})

    def submission(self) -> subprocess.Popen[str]:
        return self.start("tests.faults.project", str(self.project.folder), self.project.run)

    def submit(self, refused: str = AWAY) -> Answer:
        """Submit the run. refused: what a refusal says, besides that Slurm is away."""
        return self.end(self.submission(), {0: r"(?m)^third  (submitted|queued|complete) ", 1: f"{refused}|{AWAY}"})

    # -- actions -----------------------------------------------------------------------------------------------------
    def launch(self, kills: int) -> None:
        """Submit the run for the first time; the launcher is killed `kills` times on its way."""
        for _ in range(kills):
            process = self.submission()
            time.sleep(self.random.uniform(0.3, 1.0))
            if process.poll() is None:
                process.kill()
                self.say("SIGKILL of the launcher")
            self.end(process, {0: "", 1: AWAY, -signal.SIGKILL: ""})
        while self.submit().code:
            time.sleep(1)

    def act(self, name: str) -> None:
        self.counts[name] += 1
        getattr(self, name)()
        self.witness.look()

    def look(self) -> None:
        verb = self.random.choice(LOOKS)
        self.counts[verb] += 1
        if verb == "watch":
            process = self.start("diagcot", "watch", "--run", self.project.run, "--logs", "logs")
            time.sleep(self.random.uniform(2, 5))
            process.send_signal(signal.SIGINT)
            self.end(process, {0: "", 1: "", 130: ""})
            return
        refused = {"logs": "has no log|no log yet", "table": "has no evaluation stage", "space": "(?!)"}.get(verb, "")
        ok = "(?!)" if verb == "table" else ""
        options = ["--stage", self.random.choice(STAGES)] if verb == "logs" and self.random.random() < 0.5 else []
        answer = self.verb(verb, *options, ok=ok, refused=refused)
        self.say(f"{verb}: {answer.code}")

    def again(self) -> None:
        answer = self.submit()
        self.say(f"submitted again: {_states(answer)}")

    def at_once(self) -> None:
        processes = [self.submission(), self.submission()]
        answers = [self.end(process, {0: r"(?m)^third  ", 1: AWAY}) for process in processes]
        self.say(f"submitted twice at once: {' / '.join(map(_states, answers))}")

    def retry(self) -> None:
        stage = self.random.choice(STAGES)
        refused = f"{QUEUED}|is complete: there is nothing|is not complete and not queued|{AWAY}"
        answer = self.verb("retry", "--stage", stage, ok=f"{stage} .*(submitted|released)", refused=refused)
        self.say(f"retry of {stage}: {_states(answer)}")

    def edit_settings(self) -> None:
        self._edit({"records": 6}, r"has another plan for stage first.*records")

    def edit_seed(self) -> None:
        self._edit({"seed": 2}, r"has another plan for stage first.*seed")

    def _edit(self, changes: dict[str, int], refused: str) -> None:
        """Another value under the same name is always refused; then the person undoes the edit."""
        before = self.project.recipe
        self.project.write(**changes)
        answer = self.end(self.submission(), {1: f"{refused}|{AWAY}"})
        self.project.write(**before)
        self.say(f"{next(iter(changes))} edited: {answer.err.splitlines()[0][:100]}")

    def grow(self) -> None:
        """More units: the run grows, or, while a stage is queued, is left as it is; then the person undoes the edit."""
        before = self.project.recipe
        self.project.write(pairs=before["pairs"] + 2)
        answer = self.submit(HELD_BACK)
        if not answer.code:
            proof.require(answer.says("has grown: third: 2 further units"), f"the run did not grow: {answer}")
        elif len(self.project.plans()[-1].keys) == before["pairs"]:
            self.project.write(**before)
        # Else Slurm was away after the run had grown: the next submission goes on with what is declared now.
        self.say(f"grow: {_states(answer)}")

    def copy(self) -> None:
        """A copy can be looked at, and everything else refuses it."""
        name, logs = self.random.choice([(f"{self.project.run}-copy", "logs"), (self.project.run, "elsewhere")])
        copied = self.project.folder / logs / name
        _copy(self.project.run_dir, copied)
        try:
            self.verb("status", run=name, logs=logs, ok="", refused="")
            for verb in (["retry", "--stage", "second"], ["cancel"], ["remove", "--yes"]):
                self.verb(*verb, run=name, logs=logs, refused=COPY)
        finally:
            shutil.rmtree(copied)
        self.say(f"a copy, {logs}/{'…-copy' if logs == 'logs' else '…'}, was refused by retry, cancel and remove")

    def cancel(self, again: bool = False) -> bool:
        """Cancel the run and see that all of its jobs end; False if Slurm was away. again: Slurm has forgotten the first time."""
        answer = self.verb("cancel", ok="jobs cancelled", refused=AWAY)
        self.say(f"cancel: {(answer.out or answer.err).strip()[:80]}")
        if answer.code:
            return False
        told, end = time.monotonic(), time.monotonic() + WAIT_S
        while left := self._alive():
            proof.require(time.monotonic() < end, f"jobs are left {WAIT_S} s after cancel: {left}")
            if not again and time.monotonic() > told + LOST_S and any(job.endswith("PENDING") for job in left):
                self.needed.append("cancel again (Slurm had forgotten the first)")
                return self.cancel(again=True)
            time.sleep(1)
        return True

    def _alive(self) -> list[str]:
        try:
            return proof.jobs_of(self.project)
        except UserError:
            return ["Slurm does not answer"]

    def move(self) -> None:
        """Move the project while nothing of it runs, and go on in the new place."""
        if not self.cancel():
            return
        end = time.monotonic() + WAIT_S
        while proof.processes_of(self.project):  # those on a node that hangs outlive their jobs
            if time.monotonic() > end:
                self.say("not moved: processes are left")
                return
            time.sleep(1)
        old = self.project.folder
        self.project.folder = old.with_name(f"{old.name}m")
        old.rename(self.project.folder)
        answer = self.submit()
        proof.require(not old.exists(), f"{old} is there again after the project was moved away")
        self.say(f"moved: {_states(answer)}")

    def lose_products(self) -> None:
        """Remove what some units have published; the next submission makes those alone again."""
        stage = self.random.choice(STAGES)
        plan = next(plan for plan in self.project.plans() if plan.stage == stage)
        lost = self.random.sample(list(plan.keys), 2)
        for key in lost:
            (plan.output / f"{key}.txt").unlink()
        self.witness.forget(stage, lost)
        answer = self.submit()
        again = all((plan.output / f"{key}.txt").exists() for key in lost)  # by a finaliser that was still at work
        said = answer.says("files of 2 finished units are gone")
        proof.require(answer.code or said or again, f"nothing was said: {answer}")
        self.say(f"products of {stage} lost: {_states(answer)}")

    # -- looking after it --------------------------------------------------------------------------------------------
    def attend(self) -> bool:
        """What a person does who looks in now and then; True when all is done."""
        self.witness.look()
        plans = self.project.plans()
        missing = [plan.stage for plan in plans if plan.missing()]
        if not missing and all((plan.path / "summary.json").exists() for plan in plans):
            return True
        try:
            mine = {job for plan in plans for made in attempts.read(plan.path) for job in made.jobs}
            alive = [job for job in slurm.queue(5) if job.id.split("_")[0] in mine]
        except UserError:
            return False
        held = [job for job in alive if "held" in job.reason.lower()]
        # A finaliser may be held, too, of a stage whose units are done: others wait for it.
        wanted = [plan.stage for plan in plans if f".{plan.stage}." in held[0].name] if held else missing
        if alive and not held:
            return False
        if wanted:
            refused = f"is complete: there is nothing|{QUEUED}|{AWAY}"
            answer = self.verb("retry", "--stage", wanted[0], ok="submitted|released|queued", refused=refused)
            what = f"retry of {wanted[0]} ({held[0].reason if held else 'nothing was queued'})"
        elif not alive:  # the last finaliser was killed
            answer, what = self.submit(), "submission of a run whose finaliser was gone"
        else:
            return False
        if not answer.code:
            self.needed.append(what)
        self.say(f"a person had to: {what}: {_states(answer)}")
        return False


def _copy(source: Path, target: Path) -> None:
    """Copy a folder in which files come and go."""

    def copy_if_there(one: str, other: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            shutil.copy2(one, other)

    shutil.copytree(source, target, symlinks=True, copy_function=copy_if_there)


def _states(answer: Answer) -> str:
    """`first submitted, second queued`, or the first line of the error."""
    rows = re.findall(r"(?m)^(first|second|third) +(\w+)", answer.out)
    return ", ".join(" ".join(row) for row in rows) if rows else (answer.err.splitlines() or [""])[0][:100]
