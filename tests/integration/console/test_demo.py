"""`make demo` around a real runner: lines in a pipe, failures, and going on after Ctrl-C."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diagcot.console.screens import demo, watch
from diagcot.console.state.executor import query
from diagcot.jobs import Submitted, UserError
from diagcot.jobs.execution import local
from diagcot.jobs.state import runner
from tests import chains
from tests.chains import Edge


class Chain:
    """Two stages of the test kind on this machine."""

    def __init__(self, root: Path, **settings: object) -> None:
        self.plans = [
            chains.plan(root, "first", 2, settings=settings),
            chains.plan(root, "second", 1, after=(Edge("first"),)),
        ]
        self.run_dir = chains.write(root, self.plans, chains.cluster())

    def submit(self, number: str) -> list[Submitted]:
        todo = [plan for plan in self.plans if plan.missing()]
        if todo:
            local.start(self.run_dir, [plan.stage for plan in self.plans])
        return [
            Submitted(p.stage, "submitted" if p in todo else "complete", (), len(p.open_tasks())) for p in self.plans
        ]


def test_a_failure_ends_it_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.run(Chain(tmp_path / "r", fail="all")) == 1
    assert "asked to fail" in capsys.readouterr().out


def test_a_runner_that_cannot_start_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = Chain(tmp_path / "r")
    monkeypatch.setattr(runner, "START_S", 0.5)
    monkeypatch.setattr(local, "start", lambda *_: None)
    with pytest.raises(UserError, match=r"did not start: it wrote nothing \(see .*runner\.log"):
        demo.run(chain)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_it_and_the_same_command_goes_on(tmp_path: Path, number: int) -> None:
    code = (
        "import sys; from pathlib import Path; from diagcot.console.screens import demo\n"
        "from tests.integration.console.test_demo import Chain\n"
        f"sys.exit(demo.run(Chain(Path({str(tmp_path / 'r')!r}), seconds=0.2, records=12)))"
    )
    env = os.environ | {"PYTHONPATH": str(chains.ROOT)}
    first = subprocess.Popen([sys.executable, "-c", code], cwd=chains.ROOT, env=env, stdout=subprocess.PIPE, text=True)
    run_dir = tmp_path / "r" / "logs" / "r"
    end = time.monotonic() + 60
    while not list(run_dir.glob("first/partial/*")):
        assert time.monotonic() < end
        time.sleep(0.1)
    assert not query(run_dir).ended
    first.send_signal(number)
    shown, _ = first.communicate(timeout=60)
    assert first.returncode == 128 + number
    assert "the same command continues the run" in shown
    assert query(run_dir).ended
    if number != signal.SIGINT:
        return
    again = subprocess.run(
        [sys.executable, "-c", code], cwd=chains.ROOT, env=env, capture_output=True, text=True, timeout=90
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert "unknown" not in again.stdout
    assert "second: 1/1 done" in again.stdout
    assert demo.run(Chain(tmp_path / "r", seconds=0.2, records=12)) == 0  # nothing is left to do


def test_ctrl_c_while_the_command_still_imports_its_modules_shows_no_traceback() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "diagcot.cli.main", "help"]
    process = subprocess.Popen(command, cwd=chains.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while "diagcot.cli.options" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    shown, said = process.communicate(timeout=30)
    assert "Traceback" not in said and (process.returncode, shown) == (-signal.SIGINT, "")


def test_whoever_looks_right_after_the_start_sees_it_at_work(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "r", seconds=0.1, records=5)
    chain.submit("all")
    assert not query(chain.run_dir).ended
    assert local.start(chain.run_dir, ["first"]) is None  # nobody else gets the lock in between either
    assert watch.show(chain.run_dir) == 0
    assert not any(plan.missing() for plan in chain.plans)
