"""Files of predictions may come from others: columns of another type, or no rows, are named and quoted nowhere."""

import dataclasses
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from diagcot.cli import main as cli
from diagcot.evaluation import aggregate, predictions, rexrank
from diagcot.evaluation.clinical.scores import ClinicalScores
from diagcot.evaluation.scores.own_numbers import numbers
from diagcot.jobs import UserError
from diagcot.tasks.predictions import Prediction
from tests.unit.evaluation.evaluated_run import write_shard
from tests.unit.evaluation.test_doubles import NOTHING, ONE, TABLES, about, given

SECRET = "Zaphod's heart"
ROW = Prediction(
    *("a/1/x", "a/1", "report", "a", "base", "one", "one", "two", "stop"),
    phantom=True,
    images=[{"shard": "a.h5", "row": 0}],
    about={"view": "PA", predictions.IMAGES: ["ab"]},
)  # fmt: skip
COLUMNS = [field.name for field in dataclasses.fields(Prediction)]
NEEDED = [name for name in COLUMNS if name not in ("split", "question", "scores", "about")]


def table(path: Path, rows: list[Prediction]) -> Path:
    path.parent.mkdir(exist_ok=True)
    return predictions.write_parquet(path, rows)


def with_column(path: Path, name: str, kind: str) -> None:
    """Write a table of two predictions, one of whose columns is of another kind, or gone."""
    import pyarrow as pa
    from pyarrow import parquet

    columns = {
        "null": pa.nulls(2),
        "number": pa.array([4.5, 5.5]),
        "bytes": pa.array([SECRET.encode()] * 2),
        "list": pa.array([[SECRET]] * 2),
        "object": pa.array([{SECRET: SECRET}] * 2),
        "map": pa.array([[(SECRET, SECRET)]] * 2, pa.map_(pa.string(), pa.string())),
        "map of numbers": pa.array([[(4, 0.5)]] * 2, pa.map_(pa.int64(), pa.float64())),
    }
    whole = parquet.read_table(table(path, [ROW, replace(ROW, id="a/2/x")]))
    place = whole.column_names.index(name)
    made = whole.remove_column(place) if kind == "gone" else whole.set_column(place, name, columns[kind])
    parquet.write_table(made, path)


@pytest.mark.parametrize("kind", ["null", "number", "bytes", "list", "object", "map", "map of numbers"])
@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_of_another_type_in_a_table_is_named(tmp_path: Path, name: str, kind: str) -> None:
    with_column(tmp_path / "all.parquet", name, kind)
    with pytest.raises(UserError, match=rf"all\.parquet: row 1 .*column `{name}` has another type") as caught:
        list(predictions.read_parquet(tmp_path / "all.parquet"))
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("name", NEEDED)
def test_a_column_that_is_gone_is_named(tmp_path: Path, name: str) -> None:
    with_column(tmp_path / "all.parquet", name, "gone")
    with pytest.raises(UserError, match=rf"all\.parquet: row 1 .*column `{name}` is missing"):
        list(predictions.read_parquet(tmp_path / "all.parquet"))
    (tmp_path / "all.jsonl").write_text(json.dumps({k: v for k, v in ROW.row().items() if k != name}) + "\n")
    with pytest.raises(UserError, match=rf"all\.jsonl:1 .*column `{name}` is missing"):
        list(predictions.read([tmp_path / "all.jsonl"]))


OTHERS = [None, 4.5, [SECRET], {SECRET: SECRET}, [[SECRET]], {SECRET: [SECRET]}]


@pytest.mark.parametrize("name", COLUMNS)
def test_a_value_of_another_type_in_json_lines_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / "all.jsonl"
    for value in [*OTHERS, *([] if isinstance(getattr(ROW, name), str) else [SECRET])]:
        if name == "about" and isinstance(value, dict):
            continue  # entries that nobody reads
        path.write_text("".join(json.dumps(row) + "\n" for row in (ROW.row(), ROW.row() | {name: value})))
        with pytest.raises(UserError, match=rf"all\.jsonl:2 .*column `{name}` has another type") as caught:
            list(predictions.read([path]))
        assert SECRET not in str(caught.value)


ENTRIES: dict[str, list[Any]] = {
    "label": [5, None], "labels": [5, {SECRET: "1"}, {SECRET: None}, [SECRET]], "options": [SECRET, [5], {SECRET: 1}],
    "option": [5, [SECRET]], "view": [5], "report_rank": [SECRET, 1.5, None], "image_rank": [[1]],
    "references": [5, SECRET, [None], [[SECRET]]], "brought": [5, [SECRET]], "image_digests": [5, SECRET, [5]],
    "own_metrics": [5, {SECRET: SECRET}, {SECRET: None}, {SECRET: float("nan")}, {SECRET: 10**400}],
}  # fmt: skip


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_of_about_of_another_shape_is_named(tmp_path: Path, name: str) -> None:
    lines, whole = tmp_path / "all.jsonl", tmp_path / "all.parquet"
    for value in ENTRIES[name]:
        rows = [ROW, replace(ROW, about=ROW.about | {name: value})]
        lines.write_text("".join(json.dumps(row.row()) + "\n" for row in rows))
        table(whole, rows)
        for reader, place in (
            (lambda: predictions.read([lines]), "jsonl:2"),
            (lambda: predictions.read_parquet(whole), "row 2"),
        ):
            with pytest.raises(UserError, match=rf"{place} .*`{name}` in column `about` has another type") as caught:
                list(reader())
            assert SECRET not in str(caught.value)


def test_an_own_number_may_have_any_size(tmp_path: Path) -> None:
    row = replace(ROW, about={predictions.NUMBERS: {"perplexity": 1e40, "count": 7}})
    assert [numbers(one) for one in predictions.read_parquet(table(tmp_path / "all.parquet", [row]))] == [
        {"perplexity": 1e40, "count": 7}
    ]


WRONG_CONTENT: dict[str, tuple[dict[str, Any], str]] = {
    "a closed question without options": ({"task": "binary"}, "`options` is missing"),
    "a classification without labels": ({"task": "classification"}, "`labels` is missing"),
    "a retrieval without ranks": ({"task": "retrieval"}, "`report_rank` is missing"),
    "a task that nobody knows": ({"task": SECRET}, "column `task` names no task"),
    "an image of another folder": ({"images": [{"shard": f"../{SECRET}.h5", "row": 0}]}, "names an image outside"),
    "a row before the first": ({"images": [{"shard": "a.h5", "row": -1}]}, "names an image outside"),
    "a column more": ({SECRET: 1}, "it has a column that no prediction has"),
    "half a character": ({"answer": "\ud800"}, "UnicodeEncodeError"),
}  # fmt: skip


@pytest.mark.parametrize(("changed", "said"), WRONG_CONTENT.values(), ids=WRONG_CONTENT)
def test_content_that_no_stage_writes_is_named(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    path = tmp_path / "all.jsonl"
    path.write_text(json.dumps(ROW.row() | changed) + "\n")
    with pytest.raises(UserError, match=f"all.jsonl:1 is not a prediction .*{said}") as caught:
        list(predictions.read([path]))
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("name", TABLES)
def test_a_stage_names_file_line_and_column(tmp_path: Path, name: str) -> None:
    ctx = given(tmp_path, "predictions", {ONE: [ROW, ROW.row() | {"answer": [SECRET]}]})
    with pytest.raises(UserError, match=rf"{ONE}:2 is not a prediction \(column `answer` has another type\)"):
        TABLES[name](ctx)


SAID: dict[str, tuple[str, Any]] = {
    "scores as a text": ("scores", SECRET), "a score as a text": ("scores", {"bertscore": SECRET}),
    "no scores": ("other", 1), "a verdict": ("same", SECRET), "one verdict": ("same", [True]), "verdicts": ("same", [1, 2]),
}  # fmt: skip


@pytest.mark.parametrize(("column", "value"), SAID.values(), ids=SAID)
def test_what_is_said_of_a_prediction_has_its_type(tmp_path: Path, column: str, value: Any) -> None:
    role, said = ("verdicts", "same") if column == "same" else ("clinical", "scores")
    ctx = given(tmp_path, role, {ONE: [about(**{column: value})], "all.missing.json": NOTHING})
    with pytest.raises(UserError, match=rf"{ONE}:1 is damaged: column `{said}` has another type") as caught:
        aggregate._judged(ctx) if role == "verdicts" else ClinicalScores.read(ctx)
    assert SECRET not in str(caught.value)


def runs(folder: Path, rows: list[Prediction]) -> list[str]:
    """Arguments that compare a run of one prediction with a run of these."""
    for name, mine in (("one", [ROW]), ("two", rows)):
        table(folder / name / "predictions.parquet", mine)
        (folder / name / "run.json").write_text("{}")
        (folder / name / "stages").write_text("")
    return ["compare", "one", "two", "--logs", str(folder)]


@pytest.mark.parametrize("rows", [[], [replace(ROW, split="validate")]], ids=["no row", "no row of the test split"])
def test_runs_without_answers_are_not_compared(
    tmp_path: Path, rows: list[Prediction], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diagcot.cli.reading.require_evaluation", lambda folder: None)
    assert cli.main(runs(tmp_path, rows)) == 1
    assert "two/predictions.parquet holds no answer of the test split" in capsys.readouterr().err


def test_compare_and_export_name_the_column(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diagcot.cli.reading.require_evaluation", lambda folder: None)
    asked = runs(tmp_path, [ROW])
    with_column(tmp_path / "two" / "predictions.parquet", "answer", "bytes")
    export = ["export", "rexrank", str(tmp_path / "two"), "--out", str(tmp_path / "out.json"), "--model", "base"]
    for arguments in (asked, export):
        assert cli.main(arguments) == 1
        assert "two/predictions.parquet: row 1 is not a prediction (column `answer` has" in capsys.readouterr().err


def test_a_row_that_a_shard_does_not_have_is_named(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "a.h5", 1, size=32)
    rows = [replace(ROW, images=[{"shard": "a.h5", "row": shard.images}])]
    with pytest.raises(UserError, match=r"a/1/x is about row 2 of .*a\.h5, which has 2 images"):
        list(predictions.with_images(rows, tmp_path))


@pytest.mark.parametrize(
    ("images", "said"), [([], "has no image"), ([{"shard": "a.h5", "row": 9}], "is about row 9 of")]
)
def test_an_answer_without_its_image_is_not_exported(
    tmp_path: Path, images: list[dict[str, Any]], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shard(tmp_path / "a.h5", 1, size=32)
    table(tmp_path / rexrank.TABLE, [replace(ROW, images=images)])
    monkeypatch.setattr(rexrank, "_shards_root", lambda run: tmp_path)
    with pytest.raises(UserError, match=f"a/1/x {said}"):
        rexrank.write(tmp_path, "base", tmp_path / "out.json")
