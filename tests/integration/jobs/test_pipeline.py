"""The public door to the toolkit: the pipeline of docs/jobs.md, on this machine and in this process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from diagcot.jobs import Pipeline, UserError, pipeline
from diagcot.jobs.plans.plan import read
from tests import chains, documented

TOTAL = {"the": 3, "heart": 1, "is": 1, "large": 2, "lungs": 2, "are": 2, "clear": 2}


def run(folder: Path, executor: str) -> subprocess.CompletedProcess[str]:
    documented.pipeline(folder)
    (folder / "mine.yaml").write_text(f"name: mine\nexecutor: {executor}\nsizes: {{small: {{}}}}\n")
    texts = [f"{name}.txt" for name in documented.TEXTS]
    return subprocess.run(
        [sys.executable, "words.py", "mine.yaml", *texts],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(chains.ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def total(folder: Path) -> object:
    return json.loads((folder / "shards" / "words" / "total" / "total.json").read_text())


def test_the_documented_pipeline_is_short_and_runs_on_this_machine(tmp_path: Path) -> None:
    assert len(documented.pipeline(tmp_path).read_text().splitlines()) <= 40
    for _ in range(2):  # the second time there is nothing left to do
        done = run(tmp_path, "local")
        assert done.returncode == 0, done.stderr
        chains.wait_for_end(tmp_path / "logs" / "words", 0)
    assert total(tmp_path) == TOTAL
    assert "state='complete'" in done.stdout and "submitted" not in done.stdout


def test_the_documented_pipeline_runs_inside_a_debugger(tmp_path: Path) -> None:
    done = run(tmp_path, "debug")
    assert done.returncode == 0, done.stderr
    assert total(tmp_path) == TOTAL
    assert not list((tmp_path / "logs" / "words").glob("*/out/*.log"))  # the terminal is the debugger's


def test_retry_says_what_it_cannot_do_and_takes_up_new_code(tmp_path: Path) -> None:
    on = chains.cluster("local", roots={"logs": "logs", "shards": "out", "models": "work"})
    flow = Pipeline("run", on, tmp_path, code=[chains.ROOT / "tests"])
    flow.stage("first", "tests.kinds.count", ["a", "b"], "small", settings={"fail": "b"})
    flow.submit()
    with pytest.raises(UserError, match="no stage 'frist'; it has first"):
        pipeline.retry_stage(flow.run_dir, "frist")
    chains.wait_for_end(flow.run_dir, 1)
    before = {path.name for path in (flow.run_dir / "code").iterdir()}
    mended = tmp_path / "tests"
    (mended / "kinds").mkdir(parents=True)
    for name in ("__init__.py", "kinds/__init__.py"):
        (mended / name).touch()
    text = (chains.ROOT / "tests" / "kinds" / "count.py").read_text()
    (mended / "kinds" / "count.py").write_text(text.replace("raise RuntimeError", "print"))
    told = pipeline.retry_stage(flow.run_dir, "first", code=[chains.ROOT / "diagcot", mended])
    assert [(row.stage, row.state) for row in told] == [("first", "submitted")]
    chains.wait_for_end(flow.run_dir, 0)
    assert not read(flow.run_dir / "first").missing()
    assert len({path.name for path in (flow.run_dir / "code").iterdir()} - before) == 1
    with pytest.raises(UserError, match="stage first is complete"):
        pipeline.retry_stage(flow.run_dir, "first")
