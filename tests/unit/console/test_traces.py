"""`make traces`: the numbers of a run's chains of thought, and what they have cost."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from diagcot.cli.main import main
from diagcot.console.screens import traces as traces_screen
from diagcot.console.screens.status import render
from diagcot.console.state.headline import headline_costs
from diagcot.console.state.status import snapshot
from diagcot.cot.review.statistics import Statistics
from tests.unit.console.console_run import SIZE, FakeStage
from tests.unit.cot.cot_traces import trace

NOW = 1_000_000.0


def verdict(keep: bool, scores: dict[str, int] | None = None) -> Any:
    said = {"keep": keep, "scores": scores or {}, "reasons": {}, "held": [], "error": None}
    row = {"kept": keep, "rule": None, "error": None, "judgements": [said] * 2 if scores else []}
    return row | {"calls": 1, "prompt_tokens": 100, "completion_tokens": 10}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose collect stage took 2 hours of 2 GPUs, one of them in vain, and whose filter took half an hour of one."""
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "cluster.yaml").write_text("{}")
    gpus: dict[str, Any] = {"resources": SIZE | {"gpus": 2}}
    collect = FakeStage(tmp_path, "cot", 1, kind="diagcot.cot.search.collect", **gpus)
    counts = {"samples": 50, "calls": 300, "prompt_tokens": 5000, "completion_tokens": 900}
    collect.write("done/00000.json", {"unit": "00000", "outputs": {}, "counts": counts})
    collect.started(NOW - 9000, (0, "a"), (0, "b"))
    rows = [
        {"time": t, "event": "started", "task": "00000", "attempt": a}
        for t, a in ((NOW - 9000, "a"), (NOW - 5400, "b"))
    ]
    (collect.path / "events.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    after = [{"stage": "cot", "each": True}]
    yielded: dict[str, Any] = {"yields": "kept", "yields_from": ["cot"]}
    kept = FakeStage(
        tmp_path,
        "filter",
        1,
        kind="diagcot.cot.filtration.filter",
        after=after,
        resources=SIZE | {"gpus": 1},
        **yielded,
    )
    counts = {"traces": 50, "kept": 40, "calls": 50, "prompt_tokens": 2000, "completion_tokens": 100}
    kept.write("done/00000.json", {"unit": "00000", "outputs": {}, "counts": counts})
    kept.started(NOW - 1800, (0, "c"))
    now = time.time()
    collect.log(0, "a", age=now - (NOW - 5400))
    collect.log(0, "b", age=now - (NOW - 1800))
    kept.log(0, "c", age=now - NOW)
    FakeStage(
        tmp_path,
        "traces",
        1,
        kind="diagcot.cot.review.traces",
        after=[{"stage": name, "each": False} for name in ("filter", "cot")],
    )
    return tmp_path


def test_gpu_hours_for_a_thousand_kept_traces_count_search_filter_and_failed_attempts(run: Path) -> None:
    (found,) = headline_costs(snapshot(run, now=NOW))
    assert (found.stage, found.name, found.count) == ("filter", "kept", 40)
    assert found.gpu_hours == pytest.approx(2 * 2 + 0.5, abs=0.01)
    assert found.per_thousand == pytest.approx(1000 * 4.5 / 40, rel=0.01)
    screen = Console(width=120, color_system=None)
    with screen.capture() as told:
        screen.print(render(snapshot(run, now=NOW), screen))
    assert re.search(r"filter: 11[23] GPU-hours for 1,000 kept\n", told.get())


def test_a_run_without_gpus_has_no_such_figure(run: Path) -> None:
    for name in ("cot", "filter"):
        plan = json.loads((run / name / "plan.json").read_text())
        (run / name / "plan.json").unlink()
        (run / name / "plan.json").write_text(json.dumps(plan | {"resources": SIZE}))
    (found,) = headline_costs(snapshot(run, now=NOW))
    assert found.gpu_hours == 0 and found.per_thousand is None


def test_make_traces_shows_shares_costs_rules_and_where_the_page_is(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    statistics = Statistics()
    for number in range(40):
        statistics.add(trace(id=str(number), forced=number < 4), verdict(True, {"location": 5}))
    for number in range(8):
        statistics.add(trace(id=f"x{number}"), verdict(False) | {"rule": "labels_differ"})
    (run / "traces.json").write_text(json.dumps({"run": "r", "stage": "traces", "time": 0, **statistics.figures()}))
    assert traces_screen.show(run) == 0
    told = capsys.readouterr().out
    assert "40 of 48 traces kept (83%); for 4 of these the model was given the answer" in told
    assert "GPU-hours for 1,000 kept traces" in told and "labels differ" in told and "traces.html" in told
    assert "judgements of one trace agree: 1.00 of pairs, kappa -" in told


def test_what_is_not_there_yet_is_said(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["traces", "--logs", str(run.parent), "--run", run.name]) == 1
    assert "its stage of kind `traces` has not ended (make status)" in capsys.readouterr().err
    (run / "traces.json").write_text('{"run": "r"}')
    assert main(["traces", "--logs", str(run.parent), "--run", run.name]) == 1
    assert "run stage traces again" in capsys.readouterr().err
