"""`make failures`: each distinct failure of a run once, how many units it holds up, and the command that goes on."""

import errno
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from diagcot.console import text
from diagcot.console.executor import ask
from diagcot.console.reasons import sentence
from diagcot.console.status import Run, Stage, snapshot
from diagcot.console.status_screen import require

REMEDIES = {
    errno.ENOSPC: "the disk, or its number of files, is used up: free some, or change `roots` in the cluster file",
    errno.EDQUOT: "your quota is used up: free some, or change `roots` in the cluster file",
    errno.EROFS: "the file system is mounted read-only on that node: tell the administrator, or change `roots`",
    errno.EIO: "the disk or the network to it failed: `make submit` goes on when it is back",
}
"""What to do about an error of the system, by its number."""

MESSAGE = 300  # characters of a message that are shown


@dataclass(frozen=True)
class Failure:
    """One kind of failure of one stage: the first time it happened, and what it holds up now."""

    stage: str
    kind: str  # name of the exception, or a state of Slurm
    message: str
    where: tuple[str, ...]  # last frames, innermost last; empty for an error that is meant for the user
    units: int
    times: int
    log: Path | None


def show(run_dir: Path) -> int:
    """Print the failures. Returns 1 if there are any, else 0."""
    require(run_dir)
    answer = ask(run_dir)
    run = snapshot(run_dir, answer.jobs, answer.note, answer.ended)
    found = [failure for stage in run.stages for failure in failures(stage)]
    screen = text.console()
    screen.print(render(run, found), soft_wrap=True)
    return 1 if found else 0


def failures(stage: Stage) -> Iterator[Failure]:
    """Distinct failures of tasks that have units left, the commonest first."""
    broken = {f"{task.slot:05d}": task for task in stage.live if task.state == "failed"}
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    told = set()
    for row in _rows(stage.path / "failed"):
        if row["task"] in broken:
            where = row.get("where") or [""]
            # The line that raised tells failures apart; messages differ by file and number.
            rows.setdefault((row["type"], row["message"] if row.get("for_user") else where[-1]), []).append(row)
            told.add(row["task"])
    for same in sorted(rows.values(), key=len, reverse=True):
        first = same[0]
        tasks = {row["task"] for row in same}
        log = stage.path / "out" / f"{first['task']}.{first['attempt']}{_rank(first)}.log"
        yield Failure(
            stage.name,
            first["type"],
            first["message"].strip(),
            () if first.get("for_user") else tuple(first.get("where", ())),
            sum(broken[name].left for name in tasks),
            len({(row["task"], row["attempt"]) for row in same}),
            log if log.exists() else None,
        )
    ended = Counter({task.reason: 0 for name, task in broken.items() if name not in told})
    for name, task in broken.items():
        if name not in told:
            ended[task.reason] += task.left
    for reason, units in ended.most_common():
        yield Failure(
            stage.name, reason or "ended", sentence(reason) if reason else "left no message", (), units, 1, None
        )


def _rows(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(path.read_bytes()) for path in folder.glob("[!.]*.json")]
    return sorted(rows, key=lambda row: (row["time"], row.get("rank", 0)))


def _rank(row: dict[str, Any]) -> str:
    return f".r{row['rank']}" if row.get("rank") else ""


def render(run: Run, found: list[Failure]) -> RenderableType:
    if not found:
        return Text(f"{run.name}: nothing failed")
    parts: list[Text] = []
    for failure in found:
        held = f"{failure.units} {'unit' if failure.units == 1 else 'units'}"
        often = f", {failure.times} times" if failure.times > 1 else ""
        parts.append(Text.assemble((f"{failure.stage}: {failure.kind}", "bold red"), f"  holds up {held}{often}"))
        message = failure.message if len(failure.message) <= MESSAGE else failure.message[:MESSAGE] + "…"
        parts += [Text(f"  {line}") for line in message.splitlines()]
        parts += [Text(f"    at {place}", "dim") for place in failure.where]
        if remedy(failure.message):
            parts.append(Text(f"  → {remedy(failure.message)}", "yellow"))
        if failure.log:
            parts.append(Text(f"  log: {text.home(failure.log)}", "dim"))
        parts.append(Text(""))
    numbers = list(dict.fromkeys(stage.number for stage in run.stages if stage.failed))
    parts.append(Text("When the cause is mended, this runs what is not done, and nothing twice:"))
    parts += [Text(f"  {again(run.path, number)}", "bold") for number in numbers]
    return Group(*parts)


def remedy(message: str) -> str:
    """What to do about an OSError, whose text begins with its number; empty for all else."""
    found = re.match(r"\[Errno (\d+)\]", message)
    return REMEDIES.get(int(found[1]), "") if found else ""


def again(run_dir: Path, number: str) -> str:
    """The command that submits a stage number of this run again."""
    try:
        about = json.loads((run_dir / "run.json").read_bytes())
    except (FileNotFoundError, ValueError):
        about = {}
    verb = f"submit-stage{number}" if number.isdigit() else f"submit-{number}"
    named = [f"{name.upper()}={about[name]}" for name in ("recipe", "cluster") if isinstance(about.get(name), str)]
    return " ".join(["make", verb, *named, f"RUN={run_dir.name}"])
