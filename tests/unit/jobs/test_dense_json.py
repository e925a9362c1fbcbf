"""JSON that is read in bounded memory: bombs are refused before they are parsed, and data of every density is read."""

import json
from pathlib import Path

import pytest

from diagcot.console.screens import metrics_table
from diagcot.cot.search.replies import UnreadableReplyError, read_json
from diagcot.jobs import UserError
from diagcot.jobs.state import documents, files, json_text, reading
from diagcot.tasks.samples import Sample

ROWS = {
    "questions": {
        "idx": 7, "subject_id": "10000032", "image_id": "02aa804e-bde0afdd-112c0b34",
        "question": "is there a nodule?",
        "template_arguments": {"object": {"0": "left lung"}, "attribute": {"0": "lung opacity"}, "category": {}, "gender": {}},
        "answer": ["yes"],
    },
    "boxes": {"id": 1, "image_id": 2, "category_id": 3, "bbox": [10, 20, 30, 40], "area": 12, "segmentation": [[1.5, 2.25]]},
    "labels": {"image": "00000001_000.png", "vector": [0.0132, 0.9871, 0.4417]},
    "short": {"id": 500, "text": "no"},
}  # fmt: skip
BOMBS = ("[%s]", '{"a": [%s]}', '{"a": {"b": [%s]}}')


@pytest.fixture
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_text, "JSON_PLENTY", 1 << 10)  # so that a short text is judged by its density


@pytest.mark.usefixtures("_plain")
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("separators", [(", ", ": "), (",", ":")])
def test_rows_of_data_sets_are_read_however_many_there_are(row: object, separators: tuple[str, str]) -> None:
    text = json.dumps([row] * 1000, separators=separators)
    assert json_text.json_fault(text) == json_text.json_fault(text.encode()) == ""
    assert list(json_text.json_elements(text)) == json_text.parse_json(text.encode()) == [row] * 1000


@pytest.mark.usefixtures("_plain")
@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("part", ["{}", "[]", "[0]", "[[]]"])
def test_values_that_take_far_more_than_their_text_are_refused(bomb: str, part: str, tmp_path: Path) -> None:
    text = bomb % ",".join([part] * 1000)
    for data in (text, text.encode()):
        with pytest.raises(ValueError, match="its values would take over"):
            json_text.parse_json(data)
    with pytest.raises(ValueError, match="its values would take over"):
        Sample.from_json(text)
    with pytest.raises(UnreadableReplyError, match="its values would take over"):
        read_json(text, repair=False)
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(UserError, match="is damaged: it is not JSON"):
        documents.read(tmp_path / "run.json", documents.RUN)


@pytest.mark.parametrize("text", ["[]", " [ ] ", "[1]", '[1, "a",{}\n]\n', "[[1],[2]]"])
def test_elements_are_those_of_the_list(text: str) -> None:
    assert list(json_text.json_elements(text)) == json.loads(text)


@pytest.mark.parametrize("text", ["", "[", "[1", "[1,", "[1,]", "[1 2]", "[1]x", "{}", "[,1]"])
def test_a_list_that_is_not_whole_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="char"):
        list(json_text.json_elements(text))


def test_a_file_of_a_run_that_is_longer_than_any_is_not_read_whole(tmp_path: Path) -> None:
    with (tmp_path / "run.json").open("wb") as file:
        file.truncate(64 << 30)
    with pytest.raises(UserError, match=r"run\.json is damaged: it has over 64 MB"):
        documents.read(tmp_path / "run.json", documents.RUN)
    with pytest.raises(UserError, match=r"run\.json is not a valid metrics file"):
        metrics_table.show(tmp_path / "run.json")
    assert files.read_json(tmp_path / "run.json") is None
    with pytest.raises(UserError, match=r"run\.json: it has over 64 MB"):
        reading.plain_text(tmp_path / "run.json")
