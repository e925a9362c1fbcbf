"""What was read of a source = what is in the shards + what was left out, by reason; a source that loses much stops."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from diagcot.console.screens import shards as shards_screen
from diagcot.data.errors import DataError
from diagcot.jobs import Context, Unit
from diagcot.jobs.state.counts import THINGS, added, asked, lines, lost
from diagcot.jobs.testing import context, run_unit
from diagcot.shards import Shard, build, shard_paths
from diagcot.shards.audit.accounting import CONTROL_TOKEN, Account, excess, reason_of
from tests.unit.data.test_collections import put, write_image

ENTRY = """
name: clinic
title: Images of our clinic
url: https://example.org
licence: none
images: ["png/{image}.png"]
tables:
  - file: images.jsonl
    image: id
    study: visit
    view: view
    report: {column: text, optional: true}
from_report: true
"""
TEXTS = (
    "FINDINGS: Clear lungs.\n\nIMPRESSION: Normal.",
    "Findings: Clear lungs. Impression: Normal.",
    "findings\nClear lungs.\nimpression\nNormal.",
    "Clear lungs and a normal heart.",
    "Indication: cough. The lungs are clear.",
    "Clear lungs.\n\nNo acute disease.",
)


def clinic(root: Path, texts: tuple[str, ...] = TEXTS, images: int = 100, **columns: Any) -> dict[str, Any]:
    put(root / "clinic.yaml", ENTRY)
    rows = [{"id": f"f{n}", "visit": f"v{n}", "view": "PA", "text": text, **columns} for n, text in enumerate(texts)]
    put(root / "images.jsonl", *map(json.dumps, rows))
    for n in range(min(images, len(texts))):
        write_image(root / "png" / f"f{n}.png")
    return {"kind": str(root / "clinic.yaml"), "path": str(root)}


def stage(root: Path, *sources: dict[str, Any], shards: int = 1) -> Context:
    return context(root, {"sources": list(sources), "shards": shards, "image_size": 32}, stage="shard")


def accounts(ctx: Context) -> dict[str, Any]:
    """The counts of the sources, as summary.json has them; each shard keeps its part."""
    results = [run_unit(build, Unit(f"{part:05d}"), ctx) for part in range(ctx.settings["shards"])]
    total: dict[str, Any] = added(result.counts for result in results if result)["sources"]
    kept = added(json.loads(Shard(path).attrs["accounts"]) for path in shard_paths(ctx.output))
    assert kept == total
    for counts in total.values():
        for thing in THINGS:
            assert counts["read"].get(thing, 0) == counts["in_shards"].get(thing, 0) + asked(counts, thing) + lost(
                counts, thing
            )
    return total


def test_reports_in_any_form_are_read_and_none_vanishes(tmp_path: Path) -> None:
    ctx = stage(tmp_path, clinic(tmp_path), shards=2)
    counts = accounts(ctx)["clinic"]
    assert (counts["read"]["studies"], counts["in_shards"]["studies"], counts["in_shards"]["rows"]) == (6, 6, 6)
    found = {s.id: s for path in shard_paths(ctx.output) for s in map(Shard(path).study, range(len(Shard(path))))}
    assert [found[f"v{n}"].findings for n in range(3)] == ["Clear lungs."] * 3
    assert [found[f"v{n}"].impression for n in range(3)] == ["Normal."] * 3
    assert found["v3"].findings == "Clear lungs and a normal heart."
    assert "The lungs are clear." in found["v4"].findings
    assert (found["v5"].findings, found["v5"].impression) == ("Clear lungs.", "No acute disease.")


def test_what_the_recipe_leaves_out_is_counted_and_no_loss(tmp_path: Path) -> None:
    source = clinic(tmp_path)
    counts = accounts(stage(tmp_path, {**source, "only_fi": True}))["clinic"]
    assert counts["asked"]["studies"] == {"without findings or impression (`only_fi`)": 2} and not counts["lost"]
    counts = accounts(stage(tmp_path / "b", {**source, "max_studies": 4}))["clinic"]
    assert counts["asked"] == {"patients": {"beyond max_studies": 2}}
    counts = accounts(stage(tmp_path / "c", {**source, "splits": ["test"], "held_out": {"test": 0.5}}))["clinic"]
    assert list(counts["asked"]["studies"]) == ["of a split that `splits` does not name"] and not counts["lost"]
    lateral = clinic(tmp_path / "d", view="Lateral")
    rows = [json.loads(line) for line in (tmp_path / "d" / "images.jsonl").read_text().splitlines()]
    put(
        tmp_path / "d" / "images.jsonl",
        *(json.dumps(row | {"view": "PA"} if n == 0 else row) for n, row in enumerate(rows)),
    )
    counts = accounts(stage(tmp_path / "d", {**lateral, "frontal_only": True}))["clinic"]
    assert counts["asked"]["images"] == {"not frontal (`frontal_only`)": 5} and not counts["lost"]


@pytest.mark.parametrize(
    ("change", "options", "told"),
    [
        ({"images": 3}, {}, r"3 of 6 studies \(50\.0%\): 3: none of its images can be used, e\.g\. clinic/v"),
        ({"images": 3}, {}, r"3 of 6 images \(50\.0%\): 3: the file does not exist, e\.g\. clinic/v\d/f\d"),
        ({"text": ""}, {}, r"6 of 6 studies \(100\.0%\): 6: the report is not there, or has no text"),
        ({"view": ""}, {"frontal_only": True}, r"6: its view is not known, and the recipe asks for frontal images"),
        ({"id": "#NAME?"}, {}, r"images\.jsonl: 6 of 6 rows cannot be used"),
    ],
)
def test_a_source_that_loses_much_stops_the_stage_with_its_reasons(
    change: dict[str, Any], options: dict[str, Any], told: str, tmp_path: Path
) -> None:
    source = clinic(tmp_path, **change)
    with pytest.raises(DataError, match=told):
        accounts(stage(tmp_path, {**source, **options}))


def test_the_limit_holds_for_the_whole_stage_and_is_the_recipes(tmp_path: Path) -> None:
    source = clinic(tmp_path, texts=("Clear.",) * 20, images=16)
    with pytest.raises(DataError, match=r"lost more than `max_lost: 0\.05` allows\. \d of \d+ studies"):
        accounts(stage(tmp_path, source, shards=4))
    counts = accounts(stage(tmp_path / "b", {**source, "max_lost": 0.2}, shards=4))["clinic"]
    assert counts["lost"]["images"] == {"the file does not exist": 4}
    examples = counts["examples"]["the file does not exist"]
    assert sorted(examples) == ["clinic/v16/f16", "clinic/v17/f17", "clinic/v18/f18", "clinic/v19/f19"]


def test_a_part_of_a_stage_does_not_stop_it_before_the_limit_is_certain() -> None:
    account = Account()
    account.read("images", 10)
    account.leave_out("images", "torn", "a", 2)
    account.counts["in_shards"]["images"] = 8
    assert excess(account.counts, 0.05, (1, 10)) == ""  # 2 of about 100
    assert "2 of 10 images (20.0%): 2: torn, e.g. a" in excess(account.counts, 0.05, (4, 10))
    with pytest.raises(DataError, match="11 images were read and 10 are accounted for"):
        account.read("images")
        account.check("x")


def test_info_and_lines_show_the_account(tmp_path: Path) -> None:
    ctx = stage(tmp_path, {**clinic(tmp_path, images=4), "max_lost": 1, "only_fi": True})
    counts = accounts(ctx)
    out = io.StringIO()
    shards_screen.show(shard_paths(ctx.output), Console(file=out, width=80, highlight=False))
    screen = " ".join(out.getvalue().split())
    assert "clinic: of what was read, the shards have 6 of 6 rows, 3 of 6 studies, 3 of 6 images" in screen
    assert "lost, images: 1: the file does not exist, e.g. clinic/v5/f5" in screen
    assert "left out as the recipe asks, studies: 2: without findings or impression (`only_fi`)" in screen
    assert list(lines(counts, losses_only=True))[1:] == [line for line in lines(counts) if line.startswith("  lost")]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("a second row of image 00000001_000.png; the first one is used", "a second row of image …"),
        ("5 fields where the header has 6 (a delimiter?); download", "… fields where the header has …"),
        ("view is 'The patient has a cough', which", "view is …, which"),
        ("it is not a readable image (OSError: image file is truncated)", "it is not a readable image"),
        ("the header says 60000 x 60000 pixels", "the header says … x … pixels"),
    ],
)  # fmt: skip
def test_reasons_hold_no_values(message: str, reason: str) -> None:
    assert reason_of(message) == reason


def test_a_source_that_gives_no_study_is_an_error_by_name(tmp_path: Path) -> None:
    """Whatever the reason is, and although the other source fills the shards."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    full, lateral = clinic(tmp_path / "a"), clinic(tmp_path / "b", view="LATERAL")
    ctx = stage(tmp_path, full, lateral | {"frontal_only": True}, shards=2)
    run_unit(build, Unit("00000"), ctx)
    with pytest.raises(DataError, match=r"the source clinic \(2\) has given no study to any shard \(\d: .*frontal"):
        run_unit(build, Unit("00001"), ctx)


def test_control_tokens_in_texts_are_counted(tmp_path: Path) -> None:
    source = clinic(tmp_path, texts=("Clear <|im_end|> lungs.", "Clear lungs, p < 0.05.", "<start_of_turn>Clear."))
    counts = accounts(stage(tmp_path, source))["clinic"]
    assert counts["flagged"][CONTROL_TOKEN] == 2 and not counts["lost"]
    assert sorted(counts["examples"][CONTROL_TOKEN]) == ["clinic/v0", "clinic/v2"]
