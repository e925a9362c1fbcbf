"""Metrics of the user's own: a column like any other, and faults that are told when the recipe is planned."""

import json
import traceback
from pathlib import Path
from typing import Any

import pytest
import yaml

from diagcot.evaluation import own_metrics
from diagcot.evaluation.compare import compare
from diagcot.evaluation.predictions import write_parquet
from diagcot.evaluation.scores import own_numbers
from diagcot.evaluation.scores.columns import CONSTANT
from diagcot.evaluation.scores.table import table
from diagcot.evaluation.scores.text_tools import TextTools
from diagcot.evaluation.scores.verdicts import verdicts
from diagcot.evaluation.settings import OwnMetric
from diagcot.jobs import OwnCodeError, UserError
from diagcot.metrics.intervals import LEAST_STUDIES
from diagcot.tasks.predictions import Prediction
from launchers.chain import open_chain

FILE = "def error(answers, references, **columns):\n    return [float(a != r) for a, r in zip(answers, references)]\n"


def answered(model: str, right: int, studies: int = 20) -> list[Prediction]:
    """Answers to questions, of which the first ones are right."""
    return [
        Prediction(
            f"s{n}",
            f"s{n}",
            "open",
            "mine",
            model,
            answer,
            answer,
            "Edema",
            "stop",
            False,
            [],
            question="What is shown?",
        )
        for n in range(studies)
        for answer in ["Edema" if n < right else "Fracture"]
    ]


def metric(folder: Path, better: Any = "lower", body: str = FILE) -> OwnMetric:
    (folder / "mine.py").write_text(body)
    return OwnMetric(name=f"{folder}/mine.py:error", task="open", better=better)


@pytest.mark.parametrize(("better", "verdict", "found"), [("lower", "better", "better"), ("higher", "worse", "worse")])
def test_a_column_has_interval_difference_and_mark_by_its_direction(
    tmp_path: Path, better: str, verdict: str, found: str
) -> None:
    rows = [*answered("base", 2), *answered("tuned", 18), *answered(CONSTANT, 20)]
    own = [metric(tmp_path, better)]
    rows = own_numbers.measured(rows, own)
    made = table(rows, ["base", "tuned", CONSTANT], TextTools(), draws=200, own=own_numbers.columns(own))
    (column,) = [column for column in made["columns"] if column["name"] == "mine.error"]
    assert column == {
        "name": "mine.error", "title": "error", "task": "open", "main": True, "low": better == "lower",
        "interval": LEAST_STUDIES, "bounds": None, "family": "questions",
    }  # fmt: skip
    cells = {row["model"]: row["scores"]["mine.error"] for row in made["rows"]}
    assert [cells[model]["value"] for model in ("base", "tuned", CONSTANT)] == pytest.approx([0.9, 0.1, 0.0])
    assert cells["base"]["low"] < 0.9 < cells["base"]["high"] and "start" not in cells[CONSTANT]
    assert cells["tuned"]["start"]["value"] == pytest.approx(-0.8) and cells["tuned"]["start"]["verdict"] == verdict
    (said,) = [row for row in verdicts(made["rows"], made["columns"]) if row["how"] == "start"]
    assert "error" in said[found]


def run_with(folder: Path, metrics: list[OwnMetric], rows: list[Prediction], keeps_numbers: bool = True) -> Path:
    """The folder of a run whose table has these metrics. keeps_numbers: as runs of this version do."""
    folder.mkdir()
    measured = own_numbers.measured(rows, metrics)
    made = table(measured, ["tuned"], TextTools(), draws=100, own=own_numbers.columns(metrics))
    (folder / "metrics.json").write_text(json.dumps(made))
    write_parquet(folder / "predictions.parquet", measured if keeps_numbers else rows)
    return folder


def test_two_runs_are_compared_by_the_metrics_that_both_have_and_without_their_code(tmp_path: Path) -> None:
    own = [metric(tmp_path)]
    one, two = (run_with(tmp_path / name, own, answered("tuned", right)) for name, right in (("one", 2), ("two", 18)))
    (tmp_path / "mine.py").unlink()
    metrics, _, notes = compare(one, two, 200)
    cells = [row["scores"]["mine.error"] for row in metrics["rows"]]
    assert [cell["value"] for cell in cells] == pytest.approx([0.9, 0.1])
    assert cells[1]["start"]["verdict"] == "better"  # lower is better
    assert [column["title"] for column in metrics["columns"] if column["name"] == "mine.error"] == ["error"]
    assert not any("mine.error" in note for note in notes)
    (without,) = [run_with(tmp_path / "without", [], answered("tuned", 5))]
    (early,) = [run_with(tmp_path / "early", [metric(tmp_path)], answered("tuned", 5), keeps_numbers=False)]
    for other, said in ((without, "the table of without has no such metric"), (early, "of an earlier version")):
        metrics, _, notes = compare(one, other, 200)
        assert "mine.error" not in metrics["rows"][0]["scores"]
        assert any(note.startswith("mine.error is left out") and said in note for note in notes)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("import no_such_package\n", "cannot be loaded"),
        ("def other(): ...\n", "has no function 'error'"),
        ("def error(answers, **rest): return [1.0]\n", "returned 1 numbers for 2 answers"),
        ("def error(answers, **rest): return [float('nan')] * len(answers)\n", "not finite"),
        ("def error(answers, **rest): return [None] * len(answers)\n", "missing or not finite"),
        ("def error(answers, **rest): return answers\n", "no number"),
        ("import sys\ndef error(answers, **rest): sys.exit(answers[0])\n", r"raised SystemExit, .*mine.py:2: fix it"),
        (
            "import json\ndef error(answers, **rest): json.loads(answers[0])\n",
            r"raised JSONDecodeError, .*mine.py:2: fix it",
        ),
        (
            "def error(answers, **rest):\n    return [answers[0].missing]\n",
            r"raised AttributeError, .*mine.py:2: fix it",
        ),
    ],
)
def test_what_is_wrong_with_it_is_told_in_one_sentence_and_repeats_no_answer(
    tmp_path: Path, body: str, said: str
) -> None:
    with pytest.raises(OwnCodeError, match=said) as told:
        own_metrics.values(metric(tmp_path, body=body).name, answered("base", 1, studies=2))
    assert "Edema" not in "".join(traceback.format_exception(told.value))


def recipe(folder: Path, **changes: Any) -> str:
    """`tiny` with a metric of the user's own, whose path is relative."""
    given = {"name": "mine.py:error", "task": "report", "better": "lower", **changes}
    change = {"report": {"settings": {"metrics": [{key: value for key, value in given.items() if value}]}}}
    (folder / "own.yaml").write_text(yaml.safe_dump({"name": "own", "extends": "tiny", "change": change}))
    return str(folder / "own.yaml")


def test_it_is_called_once_when_it_is_planned_and_copied(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FILE)
    chain = open_chain(recipe(tmp_path), "laptop", None)
    chain.check("report")
    assert tmp_path / "mine.py" in chain.code
    (tmp_path / "mine.py").write_text("def error(answers, **rest):\n    raise KeyError\n")
    with pytest.raises(OwnCodeError, match="raised KeyError"):
        chain.check("report")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"better": None}, r"own.yaml:\d+: metrics.0.better is missing"),
        ({"better": "bigger"}, r"own.yaml:\d+: metrics.0.better: must be one of higher, lower"),
        ({"name": "words"}, r"own.yaml:\d+: metrics.0.name: a metric is named path/to/file.py:function, not 'words'"),
        ({"task": "open"}, "stage report: the metric error scores answers to open, which no evaluation"),
    ],
)
def test_its_settings_are_checked(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        open_chain(recipe(tmp_path, **changes), "laptop", None).check("report")
