"""The table of faults, read from the tests themselves: `python -m tests.faults.table` writes docs/faults.md.

A test of row 7 is named `test_row_07_…` and carries
`@pytest.mark.row(7, promise="…", injected="…", daemons="real" | "simulated")`. It may stand anywhere under tests/.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "faults.md"

FAULTS = {
    1: "SIGKILL between any two steps of publishing",
    2: "torn last line of a record file",
    3: "bit flip or truncation in a shard",
    4: "no space, quota, I/O error, no inodes",
    5: "read-only file system, no permission",
    6: "preemption",
    7: "time limit",
    8: "out of memory",
    9: "node failure",
    10: "error in user code",
    11: "accounting is late or empty",
    12: "accounting is purged or disabled",
    13: "slurmctld is down",
    14: "sbatch times out after its job was accepted",
    15: "the same task runs twice",
    16: "relaunch with another plan",
    17: "placeholder job id of an array",
    18: "limits of arrays and submissions",
    19: "dependency that can never be met",
    20: "endless requeue",
    21: "a job id is reused",
    22: "files of another node appear late",
    23: "clocks of nodes differ",
    24: "stale lock",
    25: "model server slow, dead, hanging, refusing, or another's",
    26: "poison prompt",
    27: "a metric's program dies",
    28: "newest checkpoint is incomplete",
    29: "rendezvous port taken, or a rank late",
    30: "hang",
    31: "HDF5 across a fork, and file locks",
    32: "kill -9 of launcher or watch",
    33: "sbatch prints warnings or a cluster's name",
    34: "huge plan",
    35: "a process of a training job dies",
    36: "the machine or its storage cannot read a file",
    37: "a run is copied or moved",
    38: "a product vanishes after its stage, or its manifest is damaged",
    39: "another user's files",
}

MISSING: frozenset[int] = frozenset()
"""Rows without a test yet. Remove the number with the row's first test; never add one."""

HEAD = """\
# Faults

What can go wrong on a cluster, what this suite promises then, and the test that proves it. Generated from the tests by
`python -m tests.faults.table`; do not edit. The code under test is never replaced. *real*: the fault is real, and so are the
daemons that take part; *simulated*: what is around the code (a server, a clock, a network file system) is a stand-in that
fails by script. `make test` runs all of them.

| row | fault | promise | injected by | daemons | test |
|---|---|---|---|---|---|
"""

SOAK = """
## For hours

`make soak MINUTES=60 SEED=1` plays rounds on one development cluster of five nodes (real daemons; needs root) and is no part
of CI. A round is a new run of 200 units in three stages, with a seed of its own, and what happens to it:

* faults ([chaos.py](../tests/faults/chaos.py)): SIGKILL of workers, steps, slurmctld, slurmdbd and whole nodes, slurmd frozen,
  a node's network cut, preemption, an element cancelled; all are repaired seconds later;
* a person's actions with the real commands ([person.py](../tests/faults/person.py)), beside the faults and on the finished
  run: a launcher killed three times on its way, submitting again and twice at once, `retry`, `cancel`, every verb that shows
  a run, the recipe edited (settings and seed are refused, more units grow the run or are refused while it is at work), the
  run's folder copied (the copy refuses every verb that changes something), the project's folder moved, products removed.

At the end of a round ([proof.py](../tests/faults/proof.py)) each unit was published once and its manifest has not changed
since, every record is there once, the products are byte by byte those of an undisturbed run, every retry is explained, and no
job, process, partial work or temporary file is left. No output of a command has a traceback, and every refusal is one that is
documented. A property that does not hold ends the soak: it says which and keeps the folder, and `make soak SEED=1 ROUND=7`
plays round 7 alone. What only a person could do is counted: a retry where nothing was queued any more, and a second `cancel`
where Slurm has forgotten the first: slurmctld was killed in the second after it had accepted it, or the job was just being
requeued from a node that does not answer. It is in the queue again a minute later, and `make status` shows it.

"""

LAST_SOAK = """\
The last soak, an hour in one piece: `make soak MINUTES=63 SEED=21` on 2026-12-01, commit 024058c, two cores, tests beside
it for the first half hour. **24 rounds in 65.5 minutes, 336 faults, 600 actions, no violation**: 5,080 units and 30,480
records, each there once. In 12 rounds a person had to do nothing; in the others 14 times a `retry`: nine times nothing of the
stage was queued any more (a killed slurmctld forgets what it accepted last), and five times Slurm held a job whose launch had
failed.

The soaks before (2026-11-30, seeds 11 to 14, 128 minutes and 38 rounds in all) each ended with a find; all are corrected:

* `retry` failed at a job that had been cancelled while it was held, and waited for its node only: it is left out;
* the finaliser of a stage whose units were done was held, which `retry` did not release: it does, and `status` says so;
* the soak's own: a growth that was refused because Slurm was away was not undone by the person;
* slurmctld was killed, forgot the jobs that it had accepted last, and gave their ids to other stages of the same run; `cancel`
  knew one name for an id, and left those jobs in the queue: an id has as many names as it was given.
"""
"""What the last long soak gave, with its command, date and commit."""


@dataclass(frozen=True)
class Row:
    """One test's mark."""

    number: int
    promise: str
    injected: str
    daemons: str
    test: str
    file: str


def rows(root: Path = ROOT) -> list[Row]:
    """The marks of all tests under `root`/tests, sorted by row, file and place. Raises ValueError for a bad mark."""
    found = [row for path in sorted((root / "tests").rglob("test_*.py")) for row in _marks(path, root)]
    return sorted(found, key=lambda row: row.number)  # stable: file and place stay in order


def _marks(path: Path, root: Path) -> Iterator[Row]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for mark in node.decorator_list:
            if not (isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.row"):
                continue
            where = f"{path.relative_to(root)}:{mark.lineno}"
            try:
                (number,) = (ast.literal_eval(argument) for argument in mark.args)
                told = {word.arg: ast.literal_eval(word.value) for word in mark.keywords}
                row = Row(number, test=node.name, file=str(path.relative_to(root)), **told)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{where}: a mark is row(number, promise=, injected=, daemons=): {error}") from error
            if row.daemons not in ("real", "simulated"):
                raise ValueError(f'{where}: daemons is "real" or "simulated", not {row.daemons!r}')
            yield row


def render(found: list[Row]) -> str:
    """docs/faults.md."""
    lines = [
        f"| {row.number} | {FAULTS[row.number]} | {row.promise} | {row.injected} | {row.daemons} "
        f"| [{row.test}](../{row.file}) |\n"
        for row in found
    ]
    return HEAD + "".join(lines) + SOAK + LAST_SOAK


def main() -> int:
    PAGE.write_text(render(rows()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
