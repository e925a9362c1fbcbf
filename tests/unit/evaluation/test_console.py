"""The metrics table in the terminal."""

import io
import json
import random
import subprocess
import sys

import pytest
from rich.console import Console

from diagcot.console.screens import metrics_table
from diagcot.evaluation.scores.columns import COLUMNS, FAMILY
from diagcot.evaluation.scores.verdicts import verdicts

MODELS = ("base", "align", "teacher", "cot-sft", "grpo")


def cell(value, verdict=None):
    made = {"value": value, "low": value - 0.02, "high": value + 0.03, "n": 240, "studies": 120}
    if verdict:
        made["start"] = {"model": "base", "value": 0.1, "low": 0.05, "high": 0.15, "verdict": verdict}
    return made


@pytest.fixture
def metrics():
    columns = [vars(c) for c in COLUMNS if c.main and c.task in ("report", "grounding")]
    rows = []
    for place, model in enumerate(MODELS):
        verdict = [None, "better", "worse", "unclear", "better"][place]
        scores = {column["name"]: cell(0.1 + place / 10, verdict) for column in columns}
        scores["meteor"] = {"value": None, "reason": "no Java"}
        failures = {"report": {"no_text": 0, "cut_at_max_tokens": place, "unreadable": 1}}
        rows.append(
            {"dataset": "all", "model": model, "samples": {"report": 240}, "failures": failures, "scores": scores}
        )
    return {
        "run": "demo", "columns": columns, "rows": rows, "verdicts": verdicts(rows, columns),
        "phantom": {"samples": 1200, "of": 1200}, "missing": {"meteor": "no Java"}, "tokenizer": "simple words",
    }  # fmt: skip


def shown(metrics, width):
    screen = Console(width=width, record=True, file=io.StringIO())
    screen.print(metrics_table.render(metrics, screen))
    return screen.export_text()


@pytest.mark.parametrize("width", [80, 120, 160, 240])
def test_many_tasks_become_several_tables(metrics, width):
    columns = [{**vars(c), "family": FAMILY.get(c.task, "questions")} for c in COLUMNS if c.main]
    for row in metrics["rows"]:
        row["scores"] |= {column["name"]: cell(0.5) for column in columns}
        row["samples"] |= {column["task"]: 10 for column in columns}
    text = shown({**metrics, "columns": columns}, width)
    assert max(map(len, text.splitlines())) <= width and "…" not in text
    assert "progression" in text.replace("\n", "") and text.count("samples") >= 3


@pytest.mark.parametrize("width", [80, 160])
def test_the_table_fits_and_says_what_matters(metrics, width):
    text = shown(metrics, width)
    assert max(map(len, text.splitlines())) <= width
    assert "phantom images" in text and "…" not in text
    for model in MODELS:
        assert model in text
    assert "0.200▲" in text and "0.300▼" in text and "0.400 " in text and "n/a" in text
    assert "no meteor: no Java" in text
    assert "cot-sft: not better than base" in text and f"worse on {len(metrics['columns']) - 1}" in text
    assert "truncated or unreadable answers: 15, all scored" in text
    assert ("±.025" in text) == (width == 80) and ("0.480–0.530" in text) == (width == 160)


def test_it_is_plain_where_piped_and_light(metrics, tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps(metrics))
    code = (
        "import sys; from diagcot.console.screens.metrics_table import main; main([sys.argv[1]]);"
        "print(sorted({'torch', 'numpy', 'scipy', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, env={"PYTHONIOENCODING": "ascii"}
    )
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout and done.stdout.isascii() and "0.200^" in done.stdout
    assert done.stdout.endswith("[]\n")


def test_errors_say_what_to_do(tmp_path, capsys):
    assert metrics_table.main([str(tmp_path / "none.json")]) == 1
    assert "make submit-eval" in capsys.readouterr().err
    broken = tmp_path / "metrics.json"
    broken.write_text("{}")
    assert metrics_table.main([str(broken)]) == 1
    assert "is not a valid metrics file" in capsys.readouterr().err
    assert metrics_table.main([]) == 2


def test_a_damaged_metrics_file_is_named_with_the_way_out(metrics, tmp_path, capsys):
    from diagcot.jobs import UserError

    rng, path = random.Random(3), tmp_path / "metrics.json"
    whole = json.dumps(metrics)
    texts = ["", "null", "[]", "{}", whole[: len(whole) // 2], "\0" * 9, "[" * 99999]
    for _ in range(120):
        damaged = json.loads(whole)
        part = damaged
        while isinstance(part, (dict, list)) and part:
            key = rng.choice(list(part) if isinstance(part, dict) else range(len(part)))
            if not isinstance(part[key], (dict, list)) or rng.random() < 0.3:
                part[key] = rng.choice([None, [], {}, "x", True, {"id": []}, -1, 1e308])
                break
            part = part[key]
        texts.append(json.dumps(damaged))
    for text in texts:
        path.write_text(text)
        try:
            metrics_table.show(path)
        except UserError as error:
            assert "metrics.json is not a valid metrics file" in str(error) and "make submit-eval" in str(error)
    assert "Traceback" not in capsys.readouterr().out
