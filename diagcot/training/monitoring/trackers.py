"""Trackers of experiments beside the stage's log: wandb, MLflow and SwanLab.

They get numbers alone, and write them to files below the stage's folder. Nothing is sent: a person may upload the files later.
A library is imported when a recipe names it.
"""

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from diagcot.jobs import Context


class Tracker(Protocol):
    """What a library does for a stage."""

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Add the figures of a step (1-based)."""

    def close(self) -> None:
        """Write what is still in memory, and end the run."""


class Trackers:
    """All trackers of a stage, by their names; for rank 0.

    What fails in one stops neither training nor the others: the event `tracker_failed` reports its first failure, and
    `tracker_failures` at the end how many there were.
    """

    def __init__(self, ctx: Context, names: Sequence[str]) -> None:
        self._ctx, self._failures = ctx, Counter[str]()
        self._trackers: dict[str, Tracker] = {}
        for name in names:
            with self._going_on(name):
                self._trackers[name] = _OPEN[name](ctx)

    def log(self, figures: Mapping[str, Any], step: int) -> None:
        """Give the numbers among the figures of a step to all trackers."""
        numbers = {name: float(value) for name, value in figures.items() if isinstance(value, int | float)}
        for name, tracker in self._trackers.items():
            with self._going_on(name):
                tracker.log(numbers, step)

    def close(self) -> None:
        """End all runs."""
        for name, tracker in self._trackers.items():
            with self._going_on(name):
                tracker.close()
        for name, count in self._failures.items():
            self._ctx.event("tracker_failures", tracker=name, count=count)

    @contextlib.contextmanager
    def _going_on(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._failures[name] += 1
            if self._failures[name] == 1:
                reason = f"{type(error).__name__}: {error}"
                print(f"the tracker {name} has failed, training goes on without it: {reason}", flush=True)
                self._ctx.event("tracker_failed", tracker=name, reason=reason)


class _Wandb:
    """An offline run of wandb. `wandb sync` uploads it."""

    def __init__(self, ctx: Context) -> None:
        os.environ["WANDB_ERROR_REPORTING"] = "false"  # offline it would still look for its server of error reports
        import wandb

        name = f"{ctx.run}-{ctx.stage}"
        quiet = {"console": "off", "silent": True, "save_code": False, "disable_code": True, "disable_git": True}
        self._run = wandb.init(
            mode="offline",
            project=ctx.run,
            id=name,
            name=name,
            dir=str(ctx.stage_dir),
            resume="allow",
            settings=wandb.Settings(**quiet, x_disable_stats=True, x_disable_meta=True),
        )

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """See `Tracker.log`."""
        self._run.log(dict(figures), step=step)

    def close(self) -> None:
        """See `Tracker.close`."""
        self._run.finish()


class _Mlflow:
    """A run in MLflow's files: the experiment is our run. `mlflow ui --backend-store-uri` shows it."""

    def __init__(self, ctx: Context) -> None:
        os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_ALLOW_FILE_STORE": "true"}
        from mlflow.tracking import MlflowClient

        place = (ctx.stage_dir / "mlflow").resolve().as_uri()
        self._client = MlflowClient(tracking_uri=place, registry_uri=place)
        known = self._client.get_experiment_by_name(ctx.run)
        experiment = known.experiment_id if known else self._client.create_experiment(ctx.run)
        self._run = self._client.create_run(experiment, run_name=ctx.stage).info.run_id

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """See `Tracker.log`."""
        for name, value in figures.items():
            self._client.log_metric(self._run, name, value, step=step)

    def close(self) -> None:
        """See `Tracker.close`."""
        self._client.set_terminated(self._run)


class _Swanlab:
    """An offline run of SwanLab. `swanlab sync` uploads it."""

    def __init__(self, ctx: Context) -> None:
        import swanlab

        settings = swanlab.Settings
        nothing = dict.fromkeys(("hardware", "runtime", "requirements", "conda", "git", "monitor"), False)
        self._run = swanlab.init(
            mode="offline",
            log_dir=str(ctx.stage_dir / "swanlab"),
            project=ctx.run,
            name=ctx.stage,
            settings=settings(
                interactive=False,
                probe=settings.Probe(**nothing),
                terminal=settings.Terminal(proxy_type="none"),
            ),
        )

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """See `Tracker.log`."""
        self._run.log(dict(figures), step=step)

    def close(self) -> None:
        """See `Tracker.close`."""
        self._run.finish()


_OPEN: Mapping[str, Callable[[Context], Tracker]] = {"wandb": _Wandb, "mlflow": _Mlflow, "swanlab": _Swanlab}
