"""Trackers get the log's numbers and nothing else, on rank 0 alone, and cannot stop a stage."""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from diagcot.jobs import Context
from diagcot.jobs.testing import context
from diagcot.training.config.settings import DeepSpeedSettings

FIGURES = {"loss": 1.5, "reward": 2, "note": "the heart is enlarged", "gap": None}
NUMBERS = {"loss": 1.5, "reward": 2.0}


class Recorder:
    """The three libraries as far as they are called: every call with its arguments. fails: names of calls that raise."""

    def __init__(self, fails: tuple[str, ...] = ()) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.fails = fails

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            self.calls.append((name, options or args))
            if name in self.fails:
                raise OSError("the disk is full")
            return SimpleNamespace(
                info=SimpleNamespace(run_id="run"), experiment_id="1", log=self.log, finish=self.finish
            )

        return call

    def install(self, patch: pytest.MonkeyPatch) -> None:
        settings = type("Settings", (SimpleNamespace,), {"Probe": SimpleNamespace, "Terminal": SimpleNamespace})
        wandb, swanlab, tracking = (ModuleType(name) for name in ("wandb", "swanlab", "mlflow.tracking"))
        wandb.init, wandb.Settings = self.init, SimpleNamespace  # type: ignore[attr-defined]
        swanlab.init, swanlab.Settings = self.init, settings  # type: ignore[attr-defined]
        tracking.MlflowClient = self.client  # type: ignore[attr-defined]
        for name, module in {
            "wandb": wandb, "swanlab": swanlab, "mlflow": ModuleType("mlflow"), "mlflow.tracking": tracking,
        }.items():  # fmt: skip
            patch.setitem(sys.modules, name, module)

    def client(self, **options: Any) -> "Recorder":
        self.calls.append(("client", options))
        return self

    def named(self, name: str) -> list[Any]:
        return [options for called, options in self.calls if called == name]


def logged(ctx: Context, names: tuple[str, ...], steps: int = 2) -> list[dict[str, Any]]:
    """Log some steps; the stage's events about trackers."""
    from diagcot.training.monitoring.log import TrainingLog

    with TrainingLog(ctx, 0, steps, names) as log:
        for step in range(1, steps + 1):
            log.step(step, dict(FIGURES))
    path = ctx.stage_dir / "events.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return [row for row in rows if row["event"].startswith("tracker")]


def test_each_library_gets_the_numbers_and_stays_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_ERROR_REPORTING", "MLFLOW_DISABLE_TELEMETRY", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.delenv(name, raising=False)
    library = Recorder()
    library.install(monkeypatch)
    ctx = context(tmp_path)
    assert logged(ctx, ("wandb", "mlflow", "swanlab")) == []
    assert [(call["mode"], call["project"]) for call in library.named("init")] == [("offline", "test")] * 2
    (client,) = library.named("client")
    assert set(client.values()) == {(ctx.stage_dir / "mlflow").as_uri()}
    assert [call for call in library.named("log") if call] == [{"step": 1}, {"step": 1}, {"step": 2}, {"step": 2}]
    assert [call for call in library.calls if call[0] == "log_metric"] == [
        ("log_metric", {"step": step}) for step in (1, 1, 2, 2)
    ]
    assert len(library.named("finish")) == 2 and len(library.named("set_terminated")) == 1
    import os

    assert os.environ["WANDB_ERROR_REPORTING"] == "false" and os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_only_numbers_leave_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diagcot.training.monitoring import trackers

    seen: list[Any] = []
    tracker = SimpleNamespace(log=lambda figures, step: seen.append((step, figures)), close=lambda: None)
    monkeypatch.setattr(trackers, "_OPEN", {"wandb": lambda ctx: tracker})
    logged(context(tmp_path), ("wandb",))
    assert seen == [(1, NUMBERS), (2, NUMBERS)]


@pytest.mark.parametrize("fails", ["init", "log", "finish"])
def test_a_tracker_that_fails_is_reported_once_counted_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fails: str
) -> None:
    library = Recorder((fails,))
    library.install(monkeypatch)
    ctx = context(tmp_path)
    first, last = logged(ctx, ("wandb", "mlflow"))
    assert (first["event"], first["tracker"], first["reason"]) == (
        "tracker_failed",
        "wandb",
        "OSError: the disk is full",
    )
    assert (last["event"], last["count"]) == ("tracker_failures", 2 if fails == "log" else 1)
    assert capsys.readouterr().out.count("training goes on") == 1
    assert len((ctx.workspace / "train.jsonl").read_text().splitlines()) == 2
    assert len(library.named("log_metric")) == 4  # the other one goes on


def test_other_ranks_track_nothing_and_unused_libraries_are_not_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Recorder()
    library.install(monkeypatch)
    logged(context(tmp_path, rank=1, world_size=2), ("wandb", "mlflow", "swanlab"))
    logged(context(tmp_path, stage="other"), ())
    assert library.calls == []


@pytest.mark.parametrize("name", ["wandb", "mlflow", "swanlab"])
def test_the_real_library_writes_below_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    pytest.importorskip(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    ctx = context(tmp_path)
    assert logged(ctx, (name,)) == []
    written = [path for path in (ctx.stage_dir / name).rglob("*") if path.is_file()]
    assert written and not any(b"enlarged" in path.read_bytes() for path in written)


def test_the_old_key_of_wandb_names_the_tracker() -> None:
    assert DeepSpeedSettings.model_validate({"steps": 1, "wandb": True}).trackers == ("wandb",)
    assert DeepSpeedSettings.model_validate({"steps": 1, "wandb": False}).trackers == ()
