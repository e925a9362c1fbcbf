"""The pipeline of docs/jobs.md on real daemons; retries with what changed; jobs that wait while the checkout changes."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diagcot.jobs import Pipeline, UserError, pipeline
from diagcot.jobs.plans.plan import read
from diagcot.jobs.slurm import commands as slurm
from diagcot.jobs.state import attempts
from tests import chains, documented
from tests.slurm.test_chain import finished

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("devcluster")]
SIZES = {"small": {"partition": "cpu", "minutes": 5, "mem_gb": 0.5}}


def test_the_documented_pipeline_runs_on_slurm(shared_path: Path) -> None:
    documented.pipeline(shared_path)
    (shared_path / "mine.yaml").write_text(
        json.dumps({"name": "mine", "executor": "slurm", "resource_profiles": SIZES})
    )
    texts = [f"{name}.txt" for name in documented.TEXTS]
    done = subprocess.run(
        [sys.executable, "words.py", "mine.yaml", *texts],
        cwd=shared_path,
        env=os.environ | {"PYTHONPATH": str(chains.ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    finished([read(shared_path / "logs" / "words" / name) for name in ("words", "counts", "total")])
    total = json.loads((shared_path / "shards" / "words" / "total" / "total.json").read_text())
    assert total == {"the": 3, "heart": 1, "is": 1, "large": 2, "lungs": 2, "are": 2, "clear": 2}


def test_waiting_jobs_run_the_code_that_was_submitted_until_a_retry_takes_the_new(shared_path: Path) -> None:
    module = shared_path / "mine.py"
    work = "def work(unit, ctx):\n    raise RuntimeError({said!r})\n"
    module.write_text(work.format(said="as submitted"))
    flow = Pipeline("code", chains.cluster("slurm", resource_profiles=SIZES), shared_path, code=[module])
    flow.stage("only", "mine:work", ["a"], "small")
    flow.submit()
    module.write_text(work.format(said="edited while it waited"))
    plan = read(flow.run_dir / "only")
    finished([plan])
    said = [json.loads(path.read_text())["message"] for path in (plan.path / "failed").glob("*.json")]
    assert said == ["as submitted"] * 2  # tried once more by itself, then stopped
    module.write_text("from diagcot.jobs import Result\n\ndef work(unit, ctx):\n    return Result()\n")
    changes = {"mem_gb": 0.75, "minutes": 6}
    (told,) = pipeline.retry_stage(flow.run_dir, "only", changes, code=[chains.ROOT / "diagcot", module])
    with pytest.raises(UserError, match="stage only is queued or running"):
        pipeline.retry_stage(flow.run_dir, "only")
    shown = slurm.call("scontrol", "show", "job", "-o", told.jobs[0])
    assert "TimeLimit=00:06:00" in shown and "mem=768M" in shown
    finished([plan])
    assert not plan.missing()
    last = attempts.read(plan.path)[-1]
    assert last.why.startswith("retry mem_gb=0.75 minutes=6 code=") and last.code != plan.code
    summary = json.loads((plan.path / "summary.json").read_text())
    assert [row["by"] for row in summary["submissions"]] == ["person", "finaliser", "person"]
    assert all(row["why"] for row in summary["submissions"])


def test_a_stage_that_is_retried_takes_along_what_follows_it(shared_path: Path) -> None:
    flow = Pipeline(
        "later", chains.cluster("slurm", resource_profiles=SIZES), shared_path, code=[chains.ROOT / "tests"]
    )
    first = flow.stage(
        "first", "tests.kinds.count", ["a", "b"], "small", settings={"fail_until": str(shared_path / "go")}
    )
    second = flow.stage("second", "tests.kinds.count", ["a", "b"], "small", elementwise=[first])
    flow.stage("third", "tests.kinds.count", ["all"], "small", after=[second])
    flow.submit()
    plans = [read(flow.run_dir / name) for name in ("first", "second", "third")]
    finished(plans, 120)
    assert [len(plan.missing()) for plan in plans] == [2, 2, 1]
    (shared_path / "go").touch()
    told = pipeline.retry_stage(flow.run_dir, "first")
    assert [(row.stage, row.state) for row in told] == [(plan.stage, "submitted") for plan in plans]
    time.sleep(0.5)
    finished(plans, 120)
    assert [plan.missing() for plan in plans] == [[], [], []]
