"""The ledger: exclusive publishing, records that survive a kill, half-done renames."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diagcot.jobs import Pipeline, Records, UserError, summary
from diagcot.jobs.execution import worker
from diagcot.jobs.plans import plan as plans
from diagcot.jobs.state import ledger, progress
from diagcot.jobs.state.files import digest
from diagcot.jobs.testing import context
from tests import chains


def test_of_two_executions_one_publishes(tmp_path: Path) -> None:
    final = tmp_path / "out" / "a.txt"
    first, second = context(tmp_path, attempt="1"), context(tmp_path, attempt="2")
    for ctx in (first, second):
        ctx.staged(final).write_text(ctx.attempt)
    assert ledger.publish(first.stage_dir, "a", {final: first.staged(final)}, {"n": 1}, {})
    assert not ledger.publish(second.stage_dir, "a", {final: second.staged(final)}, {"n": 1}, {})
    assert final.read_text() == "1"
    assert list(final.parent.iterdir()) == [final]  # what the loser staged is gone
    row = ledger.manifest(first.stage_dir, "a")
    assert row is not None and row["outputs"][str(final)]["sha256"] == digest(final)


def test_outputs_of_a_stage_whose_plan_is_damaged_stay(tmp_path: Path) -> None:
    """The plan names the folders that may be written and removed; without it a manifest could name any."""
    plan = chains.plan(tmp_path, "shard", 1)
    plans.write(plan)
    (output := tmp_path / "elsewhere").touch()
    (plan.path / "done").mkdir()
    row = {"unit": "00000", "outputs": {str(output): {"staged": str(output), "sha256": ""}}, "counts": {}}
    (plan.path / "done" / "00000.json").write_text(json.dumps(row))
    for content, why in ((plan.path / "plan.json").read_text(), "is not inside"), ("", "is damaged"):
        (plan.path / "plan.json").write_text(content)
        with pytest.raises(UserError, match=why):
            ledger.withdraw(plan.path, "00000")
    assert output.exists()


def test_a_rename_cut_short_is_finished_by_the_next_who_looks(tmp_path: Path) -> None:
    plan = chains.plan(tmp_path, "shard", 1)
    plans.write(plan)
    final = plan.output / "model"
    staged = plan.output / ".model.1"
    staged.mkdir(parents=True)
    (staged / "weights").write_text("w")
    (plan.path / "done").mkdir()
    row = {"unit": "00000", "outputs": {str(final): {"staged": str(staged), "sha256": ""}}, "counts": {}}
    (plan.path / "done" / "00000.json").write_text(json.dumps(row))
    assert summary.check(plan) == []
    assert (final / "weights").read_text() == "w" and not staged.exists()


def test_a_unit_whose_output_is_gone_is_open_again(tmp_path: Path) -> None:
    plan = chains.plan(tmp_path, "shard", 2)
    plans.write(plan)
    for key in plan.keys:
        plan.output.mkdir(parents=True, exist_ok=True)
        (plan.output / f".{key}").write_text(key)
        assert ledger.publish(plan.path, key, {plan.output / key: plan.output / f".{key}"}, {}, {})
    assert summary.check(plan) == []
    (plan.output / "00001").unlink()
    assert summary.check(plan) == ["00001"] == plan.missing()


def harmed(mark: Path, how: str) -> None:
    """Damage a manifest."""
    whole = mark.read_text()
    mark.unlink()
    if how == "a folder":
        (mark / "inside").mkdir(parents=True)
    else:
        mark.write_text({"empty": "", "half": whole[: len(whole) // 2], "null": "null", "another type": "[]"}[how])


@pytest.mark.row(
    38,
    promise="the end of the stage, a further submission and a retry set its manifest aside, say how many, and run the unit again",
    injected="a manifest that is empty, half, null, of another type, or a folder; its product is whole",
    daemons="real",
)
@pytest.mark.parametrize("how", ["empty", "half", "null", "another type", "a folder"])
def test_row_38_a_unit_whose_manifest_is_damaged_is_open_again(
    tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = chains.plan(tmp_path, "shard", 2)
    plans.write(plan)
    plan.output.mkdir(parents=True)
    for key in plan.keys:
        (plan.output / f".{key}").write_text(key)
        assert ledger.publish(plan.path, key, {plan.output / key: plan.output / f".{key}"}, {}, {})
    summary.summarise(plan, [])
    for again in (False, True):
        harmed(plan.path / "done" / "00001.json", how)
        assert plan.missing() == []  # counted by its name
        assert ledger.settle(plan.path, "00001") == [plan.path / "done" / "00001.json"]
        assert summary.reopen(plan) == ["00001"] == plan.missing() and not (plan.path / "summary.json").exists()
        assert "stage shard: files of 1 finished units are gone or damaged; these run again" in capsys.readouterr().out
        assert (plan.output / "00001").exists()  # stays until it is replaced
        (plan.output / ".00001").write_text(f"new {again}")
        assert ledger.publish(plan.path, "00001", {plan.output / "00001": plan.output / ".00001"}, {}, {})
        assert summary.check(plan) == [] and (plan.output / "00001").read_text() == f"new {again}"


def test_a_damaged_manifest_of_a_unit_that_was_replaced_does_not_run_it_again(tmp_path: Path) -> None:
    def made(key: str) -> plans.Plan:
        flow = Pipeline("run", chains.cluster(), tmp_path)
        flow.stage("merge", "tests.kinds.count", [key], "small", grows="anew")
        return flow.write()[0]

    made("a")
    plan = made("b")
    ledger.publish(plan.path, "b", {}, {}, {})
    assert summary.check(plan) == []
    harmed(plan.path / "done" / "a.json", "half")
    assert summary.check(plan) == []
    assert (ledger.manifest(plan.path, "a") or {})["superseded"] == "b"
    harmed(plan.path / "done" / "a.json", "empty")
    assert made("b").missing() == [] and (ledger.manifest(plan.path, "a") or {})["superseded"] == "b"


def test_a_torn_last_line_is_dropped_at_every_length(tmp_path: Path) -> None:
    whole = '{"id": "a", "x": 1}\n{"id": "b", "x": 2}\n'
    for cut in range(len(whole) + 1):
        stage = tmp_path / str(cut)
        (stage / "partial").mkdir(parents=True)
        (stage / "partial" / "u~1.jsonl").write_text(whole[:cut])
        records = Records(stage, "u", "2")
        assert records.ids == {row["id"] for row in map(json.loads, whole[:cut].split("\n")[: whole[:cut].count("\n")])}
        records.append({"id": "b", "x": 2})
        records.append({"id": "a", "x": 1})
        records.close()
        again = Records(stage, "u", "3")
        assert [row["id"] for row in again.rows()] == ["a", "b"]
        again.close()


def test_records_of_units_whose_keys_begin_alike_are_not_mixed(tmp_path: Path) -> None:
    for key, attempt in (("a", "1.1-0"), ("a.b", "1.1-0"), ("a.b", "2.1-0"), ("a.1", "7-0")):
        records = Records(tmp_path, key, attempt)
        records.append({"id": "same", "of": key})
        records.close()
    for key in ("a", "a.b", "a.1"):
        again = Records(tmp_path, key, "9-0")
        assert [row["of"] for row in again.rows()] == [key]
        again.close()
    assert progress.record_bytes(tmp_path).keys() == {"a", "a.b", "a.1"}
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / "a.json").write_text(json.dumps({"unit": "a", "outputs": {}, "counts": {}}))
    ledger.withdraw(tmp_path, "a")
    assert progress.record_bytes(tmp_path).keys() == {"a.b", "a.1"}


@settings(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 3)), max_size=30))
def test_records_of_several_executions_come_out_once_and_sorted(writes: list[tuple[str, int]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        stage = Path(folder)
        for attempt in (1, 2, 3):
            records = Records(stage, "u", str(attempt))
            for name, _ in (w for w in writes if w[1] == attempt):
                records.append({"id": name, "by": attempt})
            records.close()
        last = Records(stage, "u", "4")
        assert [row["id"] for row in last.rows()] == sorted({name for name, _ in writes})
        last.close()


def test_a_task_requeued_between_mark_and_rename_finishes_the_rename(tmp_path: Path) -> None:
    plan = chains.plan(tmp_path, "first", 2, tasks=1)
    follower = chains.plan(tmp_path, "second", 2, tasks=1, after=(plans.Edge("first", elementwise=True),))
    plans.write(plan)
    plans.write(follower)
    final, staged = plan.output / "00000.txt", plan.output / ".00000.txt.7_0-0"
    staged.parent.mkdir(parents=True)
    staged.write_text("whole")
    (plan.path / "done").mkdir()
    for key, outputs in (("00000", {str(final): {"staged": str(staged), "sha256": ""}}), ("00001", {})):
        (plan.path / "done" / f"{key}.json").write_text(json.dumps({"unit": key, "outputs": outputs, "counts": {}}))
    worker.await_upstream(follower, 0)  # whoever comes first finishes it: the follower, or the task itself
    assert final.read_text() == "whole"


def test_what_killed_executions_had_staged_goes_when_the_stage_is_done(tmp_path: Path) -> None:
    plan = chains.plan(tmp_path, "first", 1)
    plans.write(plan)
    output = plan.output
    output.mkdir(parents=True)
    (plan.path / "out").mkdir()
    for token in ("7_0-0", "1.2-0"):
        (plan.path / "out" / f"00000.{token}.log").touch()
        (output / f".00000.txt.{token}").write_text("half")
    (output / ".mine").touch()
    (plan.path / "done").mkdir()
    for name in ("00000.json", ".00000.json.410.cb6fdbe0"):  # the second was about to get the name of the first
        (plan.path / "done" / name).write_text("{}")
    summary.clean(plan)
    assert [path.name for path in output.iterdir()] == [".mine"]
    assert [path.name for path in (plan.path / "done").iterdir()] == ["00000.json"]


def test_records_bear_halves_of_characters_and_ids_that_are_none(tmp_path: Path) -> None:
    first = Records(tmp_path, "u", "1")
    first.append({"id": "a", "text": "half \ud83d of a smile"})
    first.append({"id": "b", "text": "\U0001f642"})
    first.close()
    with (tmp_path / "partial" / "u~1.jsonl").open("a") as file:
        file.write('{"id": []}\n{"id": null}\nnull\n{"id": {}}\n[["id"]]\n' + "[" * 99999 + "\n")
    again = Records(tmp_path, "u", "2")
    assert again.torn == 6 and [row["text"] for row in again.rows()] == ["half \ud83d of a smile", "\U0001f642"]


def test_what_tasks_report_is_used_only_if_it_is_whole(tmp_path: Path) -> None:
    from diagcot.jobs.state import executions

    whole = {"attempt": "1", "host": "h", "pid": 1, "time": 2.0, "unit": "", "done": 3, "total": None, "figures": {}}
    (tmp_path / "progress").mkdir()
    texts = [
        "null",
        "[]",
        '{"done": []}',
        '{"done": null}',
        "",
        "7",
        json.dumps(whole | {"done": 1e400}),
        json.dumps(whole),
    ]
    for number, text in enumerate(texts):
        (tmp_path / "progress" / f"{number:05d}.json").write_text(text)
    assert progress.reported_steps(tmp_path) == {7: 3000}
    assert [bool(progress.last_report(tmp_path, number)) for number in range(8)] == [False] * 7 + [True]
    started = {"event": "started", "task": "00000", "attempt": "1", "time": 5.0}
    lines = ["null", "[]", "{}", '{"time": null, "event": "started"}', '{"time": "x"}', "{", json.dumps(started)]
    for count in range(len(lines)):
        (tmp_path / "events.jsonl").write_text("".join(line + "\n" for line in lines[count:]))
        executions._begun.cache_clear()
        assert executions.begun(tmp_path) == {("00000", "1"): 5.0}
        executions.first_event(tmp_path)
