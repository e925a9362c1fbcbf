"""Rows 1 and 2: killed anywhere, or with a torn line, a stage resumes to the same bytes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from diagcot.jobs import Records
from diagcot.jobs.execution import worker
from diagcot.jobs.plans import plan as plans
from tests import chains
from tests.faults import points

ROOT = chains.ROOT


def disturb(scenario: str, root: Path, *actions: str) -> list[dict[str, Any]]:
    """Run a scenario with each action at each of its file operations; one row a point."""
    command = [sys.executable, "-m", "tests.faults.points", scenario, str(root), *actions]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    root = tmp_path_factory.mktemp("killed") / "points"
    return root, disturb("units", root, "kill", "tear")


@pytest.mark.heavy
@pytest.mark.row(
    1,
    promise="the next execution ends with the same bytes, manifests and sums; no duplicate, no gap",
    injected="SIGKILL before every file operation of a stage, and in the middle of every write",
    daemons="real",
)
def test_row_01_killed_at_any_file_operation_a_stage_resumes_to_the_same_bytes(killed: Any) -> None:
    _, points = killed
    assert len({row["call"].split()[0] for row in points}) >= 8  # open, write, fsync, link, replace, unlink, mkdir, …
    assert sum(row["action"] == "kill" for row in points) > 80
    assert {row["code"] for row in points} == {-9}
    assert [row for row in points if not row["same"] or row["resumed"]] == []


@pytest.mark.heavy
@pytest.mark.row(
    1,
    promise="what a manifest names was on disk before the manifest, and the manifest before the rename (power loss)",
    injected="the order of all file operations of an undisturbed stage",
    daemons="real",
)
def test_row_01_outputs_are_flushed_before_their_mark_and_the_mark_before_the_rename(killed: Any) -> None:
    root, _ = killed
    calls = (root / "calls").read_text().splitlines()
    place = root / "undisturbed" / "logs" / "undisturbed" / "count" / "done"
    marks = [(n, call) for n, call in enumerate(calls) if call.startswith("link ") and f"-> {place}/" in call]
    assert len(marks) == 3
    for at, call in marks:
        draft, mark = call.removeprefix("link ").split(" -> ")
        before, after = calls[:at], calls[at:]
        rename = next(n for n, line in enumerate(after) if line.startswith("replace ") and "/out/count/" in line)
        staged, final = after[rename].removeprefix("replace ").split(" -> ")
        assert Path(final).stem == Path(mark).stem
        for path in (draft, staged):
            assert _last(before, f"fsync {path}") > _last(before, f"write {path}") > -1
        assert _last(before, f"fsync {Path(final).parent}") > _last(before, f"open {staged}")
        assert f"fsync {place}" in after[:rename]
        assert f"fsync {Path(final).parent}" in after[rename:]


def _last(calls: list[str], call: str) -> int:
    return max((n for n, line in enumerate(calls) if line == call), default=-1)


class Task:
    """Task 0 of the stage `count` under the token of an attempt, as a process of a job runs it."""

    def __init__(self, attempt: str) -> None:
        self.attempt = attempt

    def run(self, root: Path) -> None:
        ranks = {"JOB_ID": "1", "NTASKS": "1", "GLOBALID": "0", "LOCALID": "0"}
        os.environ.update({f"SUBMITIT_LOCAL_{name}": value for name, value in ranks.items()})
        os.environ["DIAGCOT_ATTEMPT"] = self.attempt
        worker.work(stage(root).path, 0)

    def outcome(self, root: Path) -> None: ...


def stage(root: Path) -> plans.Plan:
    return chains.plan(root, "count", 1, settings={"records": 4})


LINES = [f'{{"id": "00000-{n:04d}", "square": {n * n}}}\n' for n in range(4)]


@pytest.mark.heavy
@pytest.mark.row(
    2,
    promise="the line is dropped, the log reports it, only that record is done again",
    injected="the last record cut by k bytes, for every k",
    daemons="real",
)
@pytest.mark.parametrize("attempt", ["2", "1"], ids=["another attempt", "the same attempt's file"])
def test_row_02_a_torn_last_line_is_dropped_and_its_record_done_again(tmp_path: Path, attempt: str) -> None:
    whole = "".join(LINES)
    for cut in range(len(LINES[-1]) + 1):
        root = tmp_path / str(cut)
        plan = stage(root)
        plans.write(plan)
        before = plan.path / "partial" / "00000~1-0.jsonl"
        before.parent.mkdir()
        before.write_text(whole[: len(whole) - cut])
        assert points.execute(Task(attempt), root) == 0
        lines = "".join(f"00000-{n:04d} {n * n}\n" for n in range(4))
        assert (plan.output / "00000.txt").read_text() == lines
        mine = before.with_name(f"00000~{attempt}-0.jsonl").read_text()
        if attempt == "2":  # its own file holds what it did itself
            assert mine == (LINES[-1] if cut else "")
        else:  # a line that lacks its end alone is closed, and its record kept once by whoever reads
            assert mine.count(LINES[-1]) == (2 if cut == 1 else 1)
        log = (plan.path / "out" / f"00000.{attempt}-0.log").read_text()
        assert ("torn" in log) == (0 < cut < len(LINES[-1])), cut
        assert Records(plan.path, "00000", "9").ids == {json.loads(line)["id"] for line in LINES}


@pytest.mark.heavy
@pytest.mark.row(
    1,
    promise="a run that was growing has grown completely or not at all; the next submission ends with the same bytes",
    injected="SIGKILL before every file operation of growing a run and of working on what it has grown by",
    daemons="real",
)
def test_row_01_killed_at_any_file_operation_a_run_grows_all_the_same(tmp_path: Path) -> None:
    rows = disturb("growth", tmp_path / "points", "kill")
    assert any("growth.json" in row["call"] for row in rows)
    assert {row["code"] for row in rows} == {-9}
    assert [row for row in rows if not row["same"] or row["resumed"]] == []
