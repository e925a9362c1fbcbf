"""Answers of models that ran elsewhere: matched to the samples of an evaluation, counted, and marked in the table."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from diagcot.cli import main as cli
from diagcot.console.screens import metrics_table
from diagcot.data.errors import DataError
from diagcot.data.readers import registry
from diagcot.data.study import IU_XRAY, MIMIC_CXR
from diagcot.evaluation import foreign, predictions
from diagcot.evaluation.report import report
from diagcot.evaluation.report.published import PUBLISHED
from diagcot.evaluation.scores.columns import BY_NAME
from diagcot.evaluation.scores.table import table
from diagcot.evaluation.scores.text_tools import TextTools
from diagcot.evaluation.settings import PredictionsSettings
from diagcot.exchange import answers
from diagcot.jobs import Result, Unit, UserError
from diagcot.jobs.testing import context, run_unit
from diagcot.tasks.predictions import Prediction
from launchers.chain import open_chain
from tests.unit.evaluation.evaluated_run import write_predictions, write_run, write_shard

ORIGIN = "its release of 2025"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    shard = write_shard(root / "shards" / "test" / "shard" / "00000.h5", 6, size=48)
    write_predictions(root / "shards" / "test" / "evaluate", shard, root / "shards")
    return root


def asked(root: Path, task: str = "report") -> list[Prediction]:
    return list(predictions.read([root / "shards" / "test" / "evaluate" / f"base.{task}.00000.jsonl"]))


def brought(
    root: Path, tmp_path: Path, file: Path, task: str = "report", **changes: Any
) -> tuple[list[Prediction], Result]:
    model = {"model": "other", "path": str(file), "origin": ORIGIN, "task": task}
    settings = {"models": [model | {key: changes.pop(key) for key in ("columns",) if key in changes}]} | changes
    inputs = {"predictions": [str(root / "shards" / "test" / "evaluate")]}
    ctx = context(tmp_path, settings, stage="foreign", inputs=inputs, shards_root=root / "shards")
    unit = Unit(f"other.{task}", {"model": "other", "task": task, "asked": [f"base.{task}.00000"]})
    result = run_unit(foreign, unit, ctx)
    return list(predictions.read([ctx.output / f"{unit.key}.jsonl"])), result


def studies(root: Path) -> list[str]:
    return sorted({row.study.removeprefix("mimic_cxr/") for row in asked(root)})


def rexrank(root: Path, path: Path) -> None:
    path.write_text(
        json.dumps({s: {"report": "the reference", "model_prediction": f"Findings: {s}."} for s in studies(root)})
    )


def table_of_reports(root: Path, path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8-sig") as out:
        csv.writer(out).writerows(
            [("study_id", "report"), *((f"s{study}", f"Findings: {study}.") for study in studies(root))]
        )


def lines(root: Path, path: Path) -> None:
    rows = [{"id": row.id, "output": f"Findings: {row.study.partition('/')[2]}."} for row in asked(root)]
    path.write_text("\n".join(map(json.dumps, rows)))


@pytest.mark.parametrize(("write", "name"), [(rexrank, "p.json"), (table_of_reports, "p.csv"), (lines, "p.jsonl")])
def test_every_sample_of_the_evaluation_has_its_answer(write: Any, name: str, root: Path, tmp_path: Path) -> None:
    write(root, tmp_path / name)
    found, result = brought(root, tmp_path, tmp_path / name)
    samples = asked(root)
    assert [(row.id, row.reference, row.images) for row in found] == [
        (row.id, row.reference, row.images) for row in samples
    ]
    assert all(row.answer == f"Findings: {row.study.partition('/')[2]}." for row in found)
    assert {(row.model, row.finish, row.about["brought"]) for row in found} == {("other", "stop", ORIGIN)}
    assert result.counts == {"samples": len(samples), "missing": 0, "unknown": 0, "repeated": 0, "unusable": 0}


def test_missing_and_unknown_studies_are_counted_and_limited(root: Path, tmp_path: Path) -> None:
    known = studies(root)
    rows = [{"study": study, "text": "x"} for study in known[1:]] + [
        {"study": "nobody", "text": "y"},
        {"text": "z"},
        {"study": "1"},
    ]
    file = tmp_path / "p.jsonl"
    file.write_text("\n".join(map(json.dumps, [*rows, rows[0]])))
    with pytest.raises(
        UserError, match=r"2 of 12 samples have no answer.*1 rows name no sample, e\.g\. p\.jsonl:6; 2 rows cannot"
    ):
        brought(root, tmp_path, file)
    found, result = brought(root, tmp_path, file, max_missing=0.2)
    assert result.counts == {"samples": 12, "missing": 2, "unknown": 1, "repeated": 2, "unusable": 2}
    assert sorted({row.study for row in found if row.finish == "error"}) == [f"mimic_cxr/{known[0]}"]
    with pytest.raises(UserError, match="12 of 12 samples"):
        brought(root, tmp_path, file, columns={"study": "nothing"}, max_missing=0.2)


def test_two_answers_to_a_sample_are_refused(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text("\n".join(json.dumps({"study": studies(root)[0], "text": text}) for text in "ab"))
    with pytest.raises(UserError, match=r"p\.jsonl:2 and p\.jsonl:1 give mimic_cxr/.* two answers"):
        brought(root, tmp_path, file, max_missing=1)


def read_answers(path: Path) -> tuple[list[str], list[str]]:
    """The texts of a file, and what is said of its other rows."""
    found = list(answers.read(path, {}))
    return [row.text for row in found if not isinstance(row, str)], [row for row in found if isinstance(row, str)]


NULL = {"study": "2", "report": "the reference", "model_prediction": None}
LACKING = {"study": "2", "report": "the reference"}


@pytest.mark.parametrize("second", [NULL, LACKING, LACKING | {"model_prediction": "  "}])
def test_a_reference_is_never_taken_for_an_answer(second: dict[str, Any], tmp_path: Path) -> None:
    first = {"study": "1", "report": "the reference", "model_prediction": "an answer"}
    texts = {
        "p.json": json.dumps({row["study"]: row for row in (first, second)}),
        "q.json": json.dumps([first, second]),
        "p.jsonl": "\n".join(map(json.dumps, (first, second))),
        "p.csv": "study,report,model_prediction\n1,the reference,an answer\n2,the reference,\n",
        "p.tsv": "study\treport\tmodel_prediction\n1\tthe reference\tan answer\n2\tthe reference\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        found, others = read_answers(tmp_path / name)
        assert found == ["an answer"] and len(others) == 1, name
        assert "has no answer (column model_prediction)" in others[0]


def test_blank_answers_are_none(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text('study_id,report\n1,\n2," "\n3,clear\n')
    found, others = read_answers(tmp_path / "p.csv")
    assert found == ["clear"] and [row.split(":")[1] for row in others] == ["2", "3"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("p.json", '{"1": "one", "1": "three"}', "a key stands twice"),
        ("p.json", '[{"study": "1", "text": "one", "text": "three"}]', "a key stands twice"),
        ("p.json", '{"1": {"report": "a", "report": "three"}}', "a key stands twice"),
        ("p.csv", "study_id,report,report\n1,one,three\n", "names one column twice"),
        ("p.csv", 'study_id,report\n1,"one\n2,two\n3,three\n', "a quote is not closed"),
    ],
)
def test_what_would_be_lost_in_silence_is_refused(name: str, text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=said) as error:
        read_answers(tmp_path / name)
    assert name in str(error.value) and "three" not in str(error.value)


def test_what_would_be_cut_off_is_counted(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("study_id,report\n1,no effusion, no pneumothorax\n2,clear\n")
    (tmp_path / "p.jsonl").write_text('{"study": "1", "text": "a", "text": "b"}\n{"study": "2", "text": "clear"}\n')
    assert read_answers(tmp_path / "p.csv")[0] == ["clear"] and "more fields" in read_answers(tmp_path / "p.csv")[1][0]
    assert read_answers(tmp_path / "p.jsonl")[0] == ["clear"] and len(read_answers(tmp_path / "p.jsonl")[1]) == 1


def test_a_study_with_several_questions_needs_the_ids_of_samples(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    study = next(row.study for row in asked(root, "grounding"))
    file.write_text(f"study_id,answer\n{study},none\n")
    with pytest.raises(UserError, match=r"samples of different studies or questions.*column `id`"):
        brought(root, tmp_path, file, task="grounding", max_missing=1)


def test_the_table_marks_what_was_brought(root: Path, tmp_path: Path) -> None:
    samples = asked(root, "grounding")
    file = tmp_path / "p.jsonl"
    file.write_text("\n".join(json.dumps({"id": row.id, "answer": row.reference}) for row in samples))
    found, _ = brought(root, tmp_path, file, task="grounding")
    metrics = table([*samples, *found], ["base", "other"], TextTools(), 100)
    assert metrics["brought"] == {"other": ORIGIN}
    ours, theirs = metrics["rows"]
    assert (ours["model"], theirs["model"]) == ("base", "other")
    iou = theirs["scores"]["iou"]
    assert (iou["value"], iou["low"], iou["high"]) == (1.0, None, None)  # draws that do not differ bound nothing
    assert "start" not in theirs["scores"]["iou"]  # it starts from no model of the run
    named = table([*samples, *found], ["base", "other"], TextTools(), 100, starts={"other": "base"})
    assert named["rows"][1]["scores"]["iou"]["start"]["model"] == "base"
    text = report.table(metrics)
    assert (
        "| other† |" in text
        and "| base |" in text
        and f"† other: answers of a model that ran elsewhere ({ORIGIN})" in text
    )
    whole = metrics | {"run": "r", "time": 0.0, "verdicts": [], "warnings": []}
    assert "other†" in report.html(whole, [], [], {}) and ORIGIN in report.html(whole, [], [], {})
    assert report._published(metrics) == []  # the published boxes are of another collection
    elsewhere = {**metrics, "rows": [row | {"dataset": "rsna_pneumonia"} for row in metrics["rows"]]}
    assert [ours for _, ours in report._published(elsewhere)] == [
        [("base", ours["scores"]["iou_as_released"]["value"])]
    ]  # beside a published value stands no model that ran elsewhere
    screen = metrics_table.text.console(width=120)
    with screen.capture() as shown:
        screen.print(metrics_table.render(whole, screen))
    assert "other†" in shown.get() or "other+" in shown.get()


def test_reports_go_out_in_the_file_of_rexrank_and_come_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = write_run(tmp_path, studies=4, size=48)
    rows = list(predictions.read(sorted((tmp_path / "shards/demo/evaluate").glob("*.report.*.jsonl"))))
    predictions.write_parquet(logs / "predictions.parquet", rows)
    out = tmp_path / "rexrank.json"
    asked = ["export", "rexrank", str(logs), "--out", str(out), "--model"]
    assert cli.main([*asked, "nobody"]) == 1 and "has no reports of 'nobody'" in capsys.readouterr().err
    assert cli.main([*asked, "grpo"]) == 0 and "on 4 studies" in capsys.readouterr().out
    assert out.stat().st_mode & 0o77 == 0
    frontal = {row.study: row.answer for row in rows if row.model == "grpo" and row.id.endswith("-PA")}
    content = json.loads(out.read_text())
    assert {f"mimic_cxr/{name}": entry["model_prediction"] for name, entry in content.items()} == frontal
    assert all(entry["report"] == f"Findings: {entry['section_findings']} Impression: {entry['section_impression']}"
               for entry in content.values())  # fmt: skip
    found = [answer for answer in answers.read(out, {}) if isinstance(answer, answers.ForeignAnswer)]
    assert [(answer.names, answer.text) for answer in found] == [
        ((k,), v["model_prediction"]) for k, v in content.items()
    ]
    assert cli.main([*asked, "grpo"]) == 1 and "choose another path" in capsys.readouterr().err


def recipe(tmp_path: Path, **model: str) -> Path:
    """The recipe of the demo with a stage of predictions."""
    (tmp_path / "answers.csv").write_text("study_id,report\n")
    row = {"model": "other", "path": str(tmp_path / "answers.csv"), "origin": "a paper"} | model
    stage = {
        "name": "foreign",
        "kind": "predictions",
        "number": "eval",
        "inputs": {"predictions": "evaluate"},
        "settings": {"models": [row]},
    }
    read = {"name": "read", "kind": "clinical", "number": "eval", "inputs": {"predictions": "foreign"}}
    text = {
        "extends": "tiny",
        "name": "with-others",
        "add": [stage, read],
        "change": {"report": {"inputs": {"predictions": ["evaluate", "foreign"]}}},
    }
    (tmp_path / "with-others.yaml").write_text(json.dumps(text))
    return tmp_path / "with-others.yaml"


def test_a_recipe_names_foreign_models(tmp_path: Path) -> None:
    chain = open_chain(str(recipe(tmp_path)), "laptop", None)
    (unit,) = chain.units_of("foreign")
    assert unit.params["asked"] and all(key.startswith("base.report.") for key in unit.params["asked"])
    (aggregated,) = chain.units_of("report")
    assert [unit.key for unit in chain.units_of("read")] == ["other.report"]
    assert aggregated.params["models"][-1] == "other" and "other" not in aggregated.params["starts"]
    chain.check("foreign")
    with pytest.raises(UserError, match="a stage has the name grpo"):
        open_chain(str(recipe(tmp_path, model="grpo")), "laptop", None).units_of("foreign")
    with pytest.raises(UserError, match="does not ask for open"):
        open_chain(str(recipe(tmp_path, task="open")), "laptop", None).units_of("foreign")
    with pytest.raises(UserError, match=r"gone\.csv is no file"):
        open_chain(str(recipe(tmp_path, path="/gone.csv")), "laptop", None).check("foreign")


def test_two_files_of_one_model_and_task_are_refused() -> None:
    row = {"model": "other", "path": "x.csv", "origin": "a paper"}
    with pytest.raises(ValueError, match="two files for the task report"):
        PredictionsSettings.model_validate({"models": [row, row]})


def test_published_values_are_of_collections_and_columns_that_there_are() -> None:
    """DiagCoT's AUC comes from hard decisions, so that our balanced accuracy stands beside it and not our AUC."""
    names = {entry.name for entry in registry.entries()} | {MIMIC_CXR, IU_XRAY}
    assert {one.collection for one in PUBLISHED} <= names and {one.column for one in PUBLISHED} <= set(BY_NAME)
    assert [one.column for one in PUBLISHED if "AUC" in one.what] == ["balanced_accuracy"]
