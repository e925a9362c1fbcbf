"""A list of units that is not what was planned: nobody works by it, and nobody calls the stage done."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from diagcot.cli import main as cli
from diagcot.console.screens import logs
from diagcot.console.state.status import snapshot
from diagcot.jobs import Pipeline, Plan, UserError, entrypoints, pipeline, summary
from diagcot.jobs.execution import local, worker
from diagcot.jobs.plans import plan as plans
from diagcot.jobs.plans import segments
from diagcot.jobs.plans.plan import read
from diagcot.jobs.state.files import digest
from tests import chains

Damage = Callable[[Path], object]


def cut(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))


def emptied(path: Path) -> None:
    path.write_text("")


def flipped(path: Path) -> None:
    text = path.read_bytes()
    path.write_bytes(text.replace(b"00001", b"00009", 1) if b"00001" in text else text.replace(b'"5"', b'"9"', 1))


def missing(path: Path) -> None:
    path.unlink()


each_damage = pytest.mark.parametrize("harm", [cut, emptied, flipped, missing])


def flow(root: Path, count: int = 6) -> Pipeline:
    roots = {"logs": root / "logs", "shards": root / "out", "models": root / "work"}
    made = Pipeline("run", chains.cluster(roots=roots), root)
    made.stage("first", "tests.kinds.count", [f"{k:05d}" for k in range(count)], "small")
    return made


def done(plan: Plan, count: int) -> None:
    (plan.path / "done").mkdir(exist_ok=True)
    for key in plan.keys[:count]:
        (plan.path / "done" / f"{key}.json").write_text(json.dumps({"unit": key, "outputs": {}, "counts": {}}))


@each_damage
@pytest.mark.parametrize("count", [0, 3, 6])
def test_a_damaged_list_of_units_is_never_done(
    tmp_path: Path, harm: Damage, count: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = flow(tmp_path)
    (plan,) = made.write()
    done(plan, count)
    harm(plan.path / segments.UNITS)
    where = r"first/units\.jsonl (is damaged|cannot be read)"
    for act in (
        lambda: summary.check(read(plan.path)),
        lambda: summary.summarise(read(plan.path), []),
        lambda: read(plan.path).units_of(0),
        lambda: read(plan.path).missing(),
        lambda: flow(tmp_path).submit(),
        lambda: pipeline.retry_stage(made.run_dir, "first"),
        lambda: plans.write(flow(tmp_path).plans[0]),
        lambda: logs.find(made.run_dir, "first", "00004"),
    ):
        with pytest.raises(UserError, match=where):
            act()
    environment = dict(os.environ)
    assert local.main([str(made.run_dir)]) == 1 and not (plan.path / "summary.json").exists()
    assert dict(os.environ) == environment  # the runner's variables do not outlive the run
    said = capsys.readouterr().err
    assert "error: " in said and "Traceback" not in said
    code = cli.main(["status", "--logs", str(made.run_dir.parent), "--run", "run"])
    shown = capsys.readouterr()
    if count < 6:
        assert code == 1 and "first: stopped: " in shown.out and "Traceback" not in shown.err
        assert cli.main(["failures", "--logs", str(made.run_dir.parent), "--run", "run"]) == 1
        failures = capsys.readouterr().out
        assert "first: damaged" in failures and "make retry" not in failures
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    assert entrypoints.main(["finalise", str(plan.path)]) == 1
    assert "error: " in (message := capsys.readouterr().err) and "Traceback" not in message


@each_damage
@pytest.mark.parametrize("name", ["first/units.jsonl", "grown/1/first.jsonl"])
def test_a_damaged_list_of_a_finished_stage_is_named(
    tmp_path: Path, harm: Damage, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for count in (4, 9):
        made = Pipeline("run", chains.cluster(), tmp_path)
        made.stage(
            "first",
            "tests.kinds.count",
            [f"{k:05d}" if k < 4 else str(k) for k in range(count)],
            "small",
            grows="units",
        )
        made.stage("second", "tests.kinds.count", ["0"], "small", grows="units")
        plan, _ = made.write()
    done(plan, 9)
    harm(made.run_dir / name)
    path = os.path.normpath(made.run_dir / name)
    for verb in ("status", "failures", "verify"):
        code = cli.main([verb, "--logs", str(made.run_dir.parent), "--run", "run"])
        said = "".join((shown := capsys.readouterr()).out.split()).replace("first/../", "")
        assert code == 1 and path in said and "Restoreitfromacopy,orstartagainunderanotherRUN=name" in said, verb
        assert "Traceback" not in shown.err
        assert verb == "failures" or all(stage in shown.out for stage in ("first", "second"))
    assert (
        "9/9" in (cli.main(["status", "--logs", str(made.run_dir.parent), "--run", "run"]), capsys.readouterr().out)[1]
    )
    assert not snapshot(made.run_dir).blocked(snapshot(made.run_dir).stages[1])  # the second stage can still run


def test_a_worker_does_not_begin_with_a_damaged_list(tmp_path: Path) -> None:
    (plan,) = flow(tmp_path).write()
    cut(plan.path / segments.UNITS)
    before = os.dup(1), os.dup(2)
    try:
        with pytest.raises(UserError, match="is damaged"):
            worker.work(plan.path, 0)
    finally:
        for handle, number in zip(before, (1, 2), strict=True):
            os.dup2(handle, number)
            os.close(handle)
    (row,) = [json.loads(path.read_text()) for path in (plan.path / "failed").glob("*.json")]
    assert row["for_user"] and not (plan.path / "done").exists()


@each_damage
def test_so_is_a_list_that_the_run_grew_by(tmp_path: Path, harm: Damage) -> None:
    def growing(count: int) -> Pipeline:
        made = Pipeline("run", chains.cluster(), tmp_path)
        made.stage("first", "tests.kinds.count", [str(k) for k in range(count)], "small", grows="units")
        return made

    growing(4).write()
    (plan,) = growing(9).write()
    assert read(plan.path).keys == [str(k) for k in range(9)]
    harm(tmp_path / "logs" / "run" / "grown" / "1" / "first.jsonl")
    with pytest.raises(UserError, match=r"first\.jsonl (is damaged|cannot be read)"):
        summary.check(read(plan.path))
    with pytest.raises(UserError, match=r"first\.jsonl (is damaged|cannot be read)"):
        growing(9).write()
    assert [unit.key for unit in read(plan.path).units[:4]] == ["0", "1", "2", "3"]  # what is whole can still be read


@pytest.mark.parametrize("numbers", [{"units": 200_000_000, "tasks": 200_000_000}, {"units": 10**14, "tasks": 1}])
@pytest.mark.parametrize("planned", ["plan.json", "growth.json", "an old plan.json", "another list", "no list"])
def test_numbers_that_the_list_of_units_does_not_bear_out_are_a_damaged_file(
    tmp_path: Path, numbers: dict[str, int], planned: str
) -> None:
    run = flow(tmp_path)
    run.write()
    path = run.run_dir / "first" / "plan.json"
    row = json.loads(path.read_text()) | numbers
    if planned == "growth.json":
        folder = run.run_dir / "grown" / "1"
        folder.mkdir(parents=True)
        (folder / "first.jsonl").write_text('{"key": "a"}\n{"key": "b"}\n')
        about = {"inputs": {}, "after": [], "settings": {}, "units_sha256": digest(folder / "first.jsonl")}
        path, row = folder / "growth.json", {"time": 1.0, "stages": {"first": about | numbers}}
    elif planned == "an old plan.json":
        del row["units_sha256"]
    elif planned == "another list":
        row["units_sha256"] = "0" * 64
    elif planned == "no list":
        (run.run_dir / "first" / "units.jsonl").unlink()
    path.write_text(json.dumps(row))
    state = snapshot(run.run_dir)
    assert any(
        str(path) in why and "units and tasks" in why and "Restore it from a copy" in why for why in state.damage
    )
    for screen in ("status", "failures"):
        assert cli.main([screen, "--run", "run", "--logs", str(tmp_path / "logs")]) in (0, 1)


def test_a_list_is_on_disk_before_its_plan_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    real = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda handle: (synced.append(Path(f"/proc/self/fd/{handle}").readlink()), real(handle))
    )
    plans.write(chains.plan(tmp_path, "first", 3))
    names = [path.name for path in synced]
    assert names[0].startswith(".units.") and names[1].startswith(".plan.json.")


def test_a_list_is_read_for_its_digest_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (plan,) = flow(tmp_path).write()
    segments._digest.cache_clear()
    read_now: list[Path] = []
    real = digest
    monkeypatch.setattr(segments, "digest", lambda path: (read_now.append(path), real(path))[1])
    for _ in range(3):
        assert len(read(plan.path).keys) == 6 and read(plan.path).units_of(0)
    assert read_now == [plan.path / segments.UNITS]


PIPES = {
    "plan": ("first/plan.json", "cluster.yaml", "stages", "reused.json", "environments"),
    "run": ("places.json", "run.json", "runner.json", "runner.lock", "runner.log", "metrics.json"),
    "stage": (
        *("first/units.jsonl", "first/events.jsonl", "first/summary.json", "first/done/00000.json"),
        *(
            "first/failed/00000.a1.r0.json",
            "first/attempts/1.json",
            "first/progress/00000.json",
            "first/out/00000.a1.log",
        ),
    ),
}
NAMED = ("first/plan.json", "cluster.yaml", "reused.json", "places.json", "first/summary.json", "first/attempts/1.json")


@pytest.mark.parametrize("files", PIPES.values(), ids=PIPES)
def test_pipes_in_the_place_of_files_keep_nobody_waiting(
    tmp_path: Path, files: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    def waited(*_: object) -> None:
        pytest.fail("a pipe was waited for")

    (made,) = flow(tmp_path).write()
    paths = [made.path.parent / file for file in files]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        os.mkfifo(path)
    before = signal.signal(signal.SIGALRM, waited)
    signal.alarm(60)
    try:
        for verb in (
            ["status"],
            ["failures"],
            ["table"],
            ["verify"],
            ["logs", "--stage", "first"],
            ["cancel"],
            ["space"],
        ):
            cli.main([*verb, "--run", "run", "--logs", str(made.path.parent.parent)])
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    for path, file in zip(paths, files, strict=True):
        named = f"{path} is damaged: it is no regular file: move it away. "
        assert file not in NAMED or "".join(named.split()) in "".join((said.out + said.err).split())
