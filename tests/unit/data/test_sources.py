"""Collections as sources of a recipe: chosen by name or file, settled at submission, built into shards."""

import json
from pathlib import Path
from typing import Any

import pytest

from diagcot.data.readers import registry
from diagcot.jobs import Unit, UserError
from diagcot.jobs.settings import load
from diagcot.jobs.state.counts import added
from diagcot.jobs.testing import context, run_unit
from diagcot.shards import Shard, build
from diagcot.shards.settings import BuildSettings, Source, check, unsplit
from tests.unit.data.test_collections import MINE, MS_PATH, needs_nih, put, write_image
from tests.unit.data.test_collections import SHARED as DATA

SHARES = {"held_out": {"validate": 0.1, "test": 0.1}}


def built(root: Path, *sources: dict[str, Any], **more: Any) -> tuple[Shard, dict[str, int], list[dict[str, Any]]]:
    ctx = context(root, {"sources": list(sources), "shards": 1, "image_size": 64, **more}, stage="shard")
    result = run_unit(build, Unit("00000"), ctx)
    assert result is not None
    path = ctx.stage_dir / "events.jsonl"
    events = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return Shard(ctx.output / "00000.h5"), dict(result.counts), events


@needs_nih
def test_nihs_images_with_labels_and_boxes_become_a_shard_without_a_report(tmp_path: Path) -> None:
    shard, counts, _ = built(tmp_path, {"kind": "nih_cxr14", "path": str(DATA / "nih_cxr14"), **SHARES})
    assert (counts["studies"], counts["images"], counts["bad_images"]) == (33, 33, 0)
    found = {study.id: study for study in map(shard.study, range(len(shard)))}
    study = found["00026911_000.png"]
    assert (study.dataset, study.findings, study.tags) == ("nih_cxr14", "", ("Effusion", "Infiltration", "Mass"))
    assert study.labels["Pleural Effusion"] == 1
    assert [box.label for box in study.images[0].boxes] == ["Infiltration"]
    assert sum(len(image.boxes) for s in found.values() for image in s.images) == 12


@needs_nih
def test_an_entry_is_carried_in_the_settings_and_no_place_in_the_shard(tmp_path: Path) -> None:
    entry = tmp_path / "mine.yaml"
    text = (registry.FOLDER / "nih_cxr14.yaml").read_text().replace("name: nih_cxr14", "name: mine")
    put(entry, text)
    source = Source(kind=str(entry), path=str(DATA / "nih_cxr14"), held_out={"test": 0.1})
    assert source.kind == "mine"
    entry.unlink()  # the jobs run later, and elsewhere
    kept = source.model_dump(mode="json")
    assert Source(**kept) == source
    shard, counts, _ = built(tmp_path, kept)
    assert counts["studies"] == 33 and shard.study(0).dataset == "mine"
    (provenance,) = json.loads(shard.attrs["sources"])
    assert provenance["entry"]["chexpert"]["Effusion"] == "Pleural Effusion"
    assert str(tmp_path) not in str(shard.attrs)


def test_phrases_and_order_reach_the_shard(tmp_path: Path) -> None:
    put(tmp_path / "MS_CXR_Local_Alignment_v1.1.0.csv",
        "category_name,label_text,path,x,y,w,h,image_width,image_height,dicom_id,split",
        f"Pneumonia,left base,{MS_PATH},1,2,5,6,40,20,{Path(MS_PATH).stem},val")  # fmt: skip
    write_image(tmp_path / MS_PATH)
    put(
        tmp_path / "clinic.yaml",
        MINE.replace("visit: visit", "").replace("    view: view", "    view: view\n    order: day"),
    )
    row = {"id": "a", "who": "p", "visit": "v", "view": "pa", "found": [], "box": None, "day": 7,
           "text": "FINDINGS: Clear.\n\nIMPRESSION: Normal."}  # fmt: skip
    put(tmp_path / "images.jsonl", json.dumps(row))
    write_image(tmp_path / "png" / "a.png")
    sources: list[dict[str, Any]] = [
        {"kind": "ms_cxr", "path": str(tmp_path)},
        {"kind": str(tmp_path / "clinic.yaml"), "path": str(tmp_path), **SHARES},
    ]
    shard, _, _ = built(tmp_path, *sources)
    (first, second) = map(shard.study, range(2))
    assert first.images[0].boxes[0].phrase == "left base"
    assert second.order == "000000000007"


def test_what_is_wrong_in_a_collection_is_reported_in_events(tmp_path: Path) -> None:
    put(tmp_path / "clinic.yaml", MINE)
    row = {"id": "a", "who": "p", "visit": "v", "view": "pa", "found": [], "box": None,
           "text": "FINDINGS: Clear.\n\nIMPRESSION: Normal."}  # fmt: skip
    lost = {**row, "id": "b", "visit": "w"}
    bad = {**row, "id": "c", "visit": "x", "box": [3, 3, 1, 1]}
    put(tmp_path / "images.jsonl", *map(json.dumps, (row, lost, bad)))
    write_image(tmp_path / "png" / "a.png")
    source = {"kind": str(tmp_path / "clinic.yaml"), "path": str(tmp_path), "max_lost": 1, **SHARES}
    _, counts, events = built(tmp_path, source)
    assert (counts["studies"], counts["bad_images"], counts["bad_reports"]) == (1, 1, 1)
    told = {event["event"]: event for event in events}
    assert "b.png" in told["bad_image"]["what"] and "does not exist" in told["bad_image"]["what"]
    assert told["bad_report"]["report"].endswith("images.jsonl:3")
    with pytest.raises(UserError, match=r"images\.jsonl:3: a box"):
        built(tmp_path / "again", source, on_bad_report="fail")


def test_each_fault_is_reported_once_whatever_the_number_of_shards(tmp_path: Path) -> None:
    put(tmp_path / "clinic.yaml", MINE)
    rows = [{"id": f"f{n}", "who": f"p{n}", "visit": f"v{n}", "view": "pa", "found": [], "box": [2, 2, 3, 3],
             "text": "FINDINGS: Clear.\n\nIMPRESSION: Normal."} for n in range(8)]  # fmt: skip
    put(tmp_path / "images.jsonl", *map(json.dumps, [*rows, {**rows[0], "id": "x", "box": [3, 3, 1, 1]}]))
    for n in range(8):
        write_image(tmp_path / "png" / f"f{n}.png")
    sources = [{"kind": str(tmp_path / "clinic.yaml"), "path": str(tmp_path), "max_lost": 1, **SHARES}]
    ctx = context(tmp_path, {"sources": sources, "shards": 3, "image_size": 64}, stage="shard")
    results = [run_unit(build, Unit(f"{part:05d}"), ctx) for part in range(3)]
    events = [json.loads(line) for line in (ctx.stage_dir / "events.jsonl").read_text().splitlines()]
    told = [event["report"] if event["event"] == "bad_report" else event["image"] for event in events]
    assert sorted(told) == sorted([*(f"clinic/v{n}/f{n}" for n in range(8)), f"{tmp_path / 'images.jsonl'}:9"])
    assert sum(result.counts["bad_reports"] for result in results if result) == 1
    account = added(result.counts for result in results if result)["sources"]["clinic"]
    assert account["lost"] == {
        "boxes": {"a box lies outside its image": 8},
        "rows": {"a box from … … to … … has no area": 1},
    }


def test_a_recipe_that_names_no_collection_is_reported_by_line(tmp_path: Path) -> None:
    put(
        tmp_path / "stage.yaml",
        "shards: 1",
        "sources:",
        "  - {kind: mimic_cxr, path: a}",
        "  - path: b",
        "    kind: nih_cxr41",
    )
    with pytest.raises(
        UserError, match=r"stage\.yaml:5: .*no collection has the name 'nih_cxr41'; did you mean 'nih_cxr14'"
    ):
        load(tmp_path / "stage.yaml", BuildSettings)
    put(tmp_path / "stage.yaml", "sources:", f"  - kind: {tmp_path / 'mine.yaml'}", "    path: b")
    with pytest.raises(UserError, match=r"stage\.yaml:2: .*mine\.yaml: cannot be read"):
        load(tmp_path / "stage.yaml", BuildSettings)
    put(tmp_path / "mine.yaml", "name: mine", "titel: x")
    with pytest.raises(UserError, match=r"mine\.yaml:2: unknown key 'titel'; did you mean 'title'"):
        load(tmp_path / "stage.yaml", BuildSettings)


def test_what_is_missing_of_every_source_is_reported_before_submission(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    sources = [
        {"kind": "padchest", "path": str(tmp_path)},
        {"kind": "ms_cxr", "path": str(tmp_path), "images": str(tmp_path / "nowhere")},
        {"kind": "chexpert", "path": "$NO_SUCH_VARIABLE"},
        {"kind": "mimic_cxr", "path": str(tmp_path), "tables": str(tmp_path)},
    ]
    with pytest.raises(UserError) as error:
        check(BuildSettings(sources=sources))  # type: ignore[arg-type]
    for word in ("PADCHEST_chest", "bimcv", "nowhere", "MS_CXR_Local", "$NO_SUCH_VARIABLE", "metadata.csv.gz"):
        assert word in str(error.value)


def test_the_plan_names_missing_tables_of_splits(tmp_path: Path) -> None:
    put(tmp_path / "Data_Entry_2017.csv", "Image Index,Finding Labels,Follow-up #,Patient ID,View Position")
    (tmp_path / "images").mkdir()
    source: dict[str, Any] = {"kind": "nih_cxr14", "path": str(tmp_path)}
    (line,) = unsplit(Source(**source))
    assert line.startswith("train_val_list.txt, test_list.txt: not there; ") and "`held_out`" in line
    assert not list(unsplit(Source(**source, held_out={"test": 0.1})))
    put(tmp_path / "train_val_list.txt", "a")
    put(tmp_path / "test_list.txt", "b")
    assert not list(unsplit(Source(**source)))
    assert not list(unsplit(Source(kind="chexpert", path=str(tmp_path))))
    assert not list(unsplit(Source(kind="rsna_pneumonia", path=str(tmp_path))))
