"""The stages filter and traces on real shards of phantoms, with a judge that answers by script."""

import json
import re
import stat
from pathlib import Path
from typing import Any

import pytest

from diagcot.cot.filtration import filter as filtration
from diagcot.cot.review import page, traces
from diagcot.cot.review.statistics import Statistics
from diagcot.cot.synthetic import conversations
from diagcot.jobs import UserError
from diagcot.jobs.testing import context, run_unit
from diagcot.shards import Shard
from diagcot.tasks.diagnosis import report_samples
from diagcot.tasks.prompt_set import DEFAULT
from diagcot.tasks.samples import read_samples
from tests.fakes.serving import prompts_seen, starts, write_script
from tests.integration.cot.test_stages import SERVER, UNIT, rows, run_folder, scripted, shards, stage  # noqa: F401
from tests.unit.cot.cot_traces import closed, trace

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>' onmouseover='alert(3)"


@pytest.fixture
def collected(run_folder: Path) -> list[dict[str, Any]]:  # noqa: F811
    """The traces of unit 00000, as a search would have left them: the primer's reading of every training report."""
    shard = Shard(run_folder / "shards/test/shard/00000.h5")
    found = []
    for sample in report_samples(shard, "test/shard/00000.h5", "train"):
        study = shard.study(shard.study_of(sample.images[0].row))
        images = [{"shard": image.shard, "row": image.row} for image in sample.images]
        about = {"id": sample.id, "study": sample.study, "images": images, "meta": sample.meta}
        texts = {
            "reference": sample.answer,
            "guide": sample.answer,
            "answer": sample.answer,
            "conclusion": sample.answer,
        }
        reasoning = conversations.Reading.of(study.findings, study.impression).reasoning
        found.append(trace(**about, **texts, reasoning=reasoning))
    write(run_folder, found)
    return found


def write(root: Path, found: list[dict[str, Any]]) -> None:
    folder = root / "shards/test/cot"
    folder.mkdir(exist_ok=True)
    (folder / "00000.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))


def filtered(root: Path, name: str = "filter", **settings: Any) -> tuple[dict[str, int], dict[str, dict[str, Any]]]:
    """The counts of a filter stage, and its verdicts by id."""
    ctx = stage(root, name, {"server": SERVER, **settings}, traces="cot", model=".")
    result = run_unit(filtration, UNIT, ctx)
    assert result is not None
    return result.counts, {row["id"]: row for row in rows(ctx.output / "verdicts" / "00000.jsonl")}


def test_the_rules_say_why_they_drop_and_the_judge_is_asked_about_the_rest(run_folder, monkeypatch, collected):  # noqa: F811
    write_script(run_folder, monkeypatch, usage=[10, 5])
    collected[0]["error"] = "init: cut at 8 tokens"
    collected[1]["reasoning"] = "too short"
    collected[2]["answer"] = "findings : there is a large left pneumothorax and a fracture . impression : fracture ."
    collected[3]["answer"] = "findings : the lungs are clear ."
    collected[4]["forced"] = True
    write(run_folder, collected)
    counts, verdicts = filtered(run_folder)
    assert [verdicts[row["id"]]["rule"] for row in collected[:5]] == [
        "search_failed", "reasoning_too_short", "labels_differ", "section_missing", None,
    ]  # fmt: skip
    assert len(prompts_seen(run_folder)) == counts["calls"] == counts["kept"] == len(collected) - 4
    assert counts["traces"] == len(collected) and counts["kept_forced"] == 1
    assert counts["completion_tokens"] == 5 * counts["calls"] and counts["prompt_tokens"] == 10 * counts["calls"]
    samples = list(read_samples(run_folder / "shards/test/filter/00000.jsonl"))
    assert len(samples) == counts["kept"] and [s.id for s in samples] == sorted(s.id for s in samples)
    forced = {f"{collected[4]['id']}:cot"}
    assert {sample.id for sample in samples if sample.meta["forced"]} == forced
    for sample in samples:
        assert sample.prompt == DEFAULT.render("report") and sample.images[0].shard == "test/shard/00000.h5"
        assert sample.answer.startswith("<think>This is a frontal image") and sample.answer.endswith(" .</answer>")


def test_a_judge_that_says_no_or_nothing_readable_keeps_nothing(run_folder, monkeypatch, collected):  # noqa: F811
    write_script(run_folder, monkeypatch, verdict=False)
    counts, verdicts = filtered(run_folder)
    assert counts["kept"] == 0 and counts["dropped_judge"] == counts["traces"] == counts["judge_location_no"]
    write_script(run_folder, monkeypatch, refuse={"Reasoning under review": [400] * 999})
    counts, verdicts = filtered(run_folder, "filter2")
    assert counts["kept"] == 0 and counts["dropped_unreadable"] == counts["traces"]
    assert {row["error"] for row in verdicts.values()} == {"HTTP 400: refused by script"}
    write_script(run_folder, monkeypatch, verdict=False)
    counts, _ = filtered(run_folder, "filter3", criteria=0)
    assert counts["kept"] == counts["traces"] == counts["judge_location_no"]  # heard, not obeyed


def test_repeated_judgements_decide_by_majority_and_tell_how_far_they_agree(run_folder, monkeypatch, collected):  # noqa: F811
    write_script(run_folder, monkeypatch, scores=[5, 2, 4])
    counts, verdicts = filtered(run_folder, repeats=3)
    assert counts["kept"] == counts["calls"] == counts["traces"]  # one request for three judgements
    for row in verdicts.values():
        assert [one["keep"] for one in row["judgements"]] == [True, False, True]
        assert row["agreement"]["keep"] == row["agreement"]["location"] == pytest.approx(1 / 3)
    assert (counts["votes"], counts["votes_keep"]) == (3 * counts["traces"], 2 * counts["traces"])
    assert (counts["pairs"], counts["pairs_agreeing"]) == (3 * counts["traces"], counts["traces"])
    write_script(run_folder, monkeypatch, scores=[5, 2, 3])
    assert filtered(run_folder, "filter2", repeats=3)[0]["kept"] == 0


def test_without_a_judge_the_rules_decide_and_no_server_starts(run_folder, monkeypatch, collected):  # noqa: F811
    write_script(run_folder, monkeypatch, die_at_start=True)
    counts, _ = filtered(run_folder, judge=False)
    assert counts["kept"] == counts["traces"] > 0 == counts["calls"]


def test_as_released_one_word_decides(run_folder, monkeypatch, collected):  # noqa: F811
    write_script(run_folder, monkeypatch, text="False. The side differs.")
    counts, verdicts = filtered(run_folder, preset="as-released")
    assert counts["kept"] == 0 and counts["dropped_judge"] == counts["traces"] == counts["calls"]
    assert all(seen.startswith("Reference report: ") for seen in prompts_seen(run_folder)) and starts(run_folder) == 1
    assert all(row["agreement"] is None and not row["error"] for row in verdicts.values())


def reviewed(root: Path, seed: int = 7, **settings: Any) -> tuple[dict[str, Any], str]:
    """The numbers and the page of stage traces."""
    inputs = {"traces": [str(root / "shards/test/cot")], "verdicts": [str(root / "shards/test/filter")]}
    ctx = context(root, settings, stage="traces", output=root / "logs/test", inputs=inputs, seed=seed)
    run_unit(traces, UNIT, ctx)
    (ctx.stage_dir / "done/00000.json").unlink()
    page = root / "logs/test/traces.html"
    assert stat.S_IMODE(page.stat().st_mode) == stat.S_IMODE(page.with_suffix(".json").stat().st_mode) == 0o600
    return json.loads(page.with_suffix(".json").read_text()), page.read_text()


def test_the_statistics_add_up(run_folder, monkeypatch, collected):  # noqa: F811
    write_script(run_folder, monkeypatch, scores=[5, 2, 4])
    collected[0] |= {"error": "init: cut at 8 tokens", "verified": False, "verdicts": []}
    collected[1] |= {"forced": True, "verified": False}
    collected[2]["verdicts"] = [
        {"step": "init", "verdict": False, "reason": "no"},
        {"step": "rethink:correction", "verdict": True, "reason": "yes"},
    ]
    write(run_folder, [*collected, closed(id="d/s9/q", images=collected[0]["images"])])
    counts, _ = filtered(run_folder, repeats=3)
    told, _ = reviewed(run_folder)
    total = len(collected) + 1
    assert (told["traces"], told["kept"]) == (total, counts["kept"]) == (total, total - 1)
    assert told["dropped"] == {"search_failed": 1} and told["forced"] == {"traces": 1, "kept": 1}
    assert told["verified"] == {"traces": total - 2, "kept": total - 2}
    assert told["tasks"]["binary"] == {"traces": 1, "kept": 1, "forced": 0}
    assert {name: row["traces"] for name, row in told["found_by"].items()} == {
        "failed": 1, "label": 1, "correction": 1, "init": total - 3,
    }  # fmt: skip
    for row in told["criteria"]:
        assert row["scores"] == [0, total - 1, 0, total - 1, total - 1] and row["mean"] == pytest.approx(11 / 3)
        assert row["raw"] == pytest.approx(1 / 3) and row["kappa"] == pytest.approx(-0.5) and row["failed"] == 0
    assert told["per_kept"]["calls"] == pytest.approx((4 * total + counts["calls"]) / counts["kept"])
    assert told["words"]["dropped"] is None and told["words"]["kept"]["least"] >= 10


def test_the_page_shows_a_fixed_choice_and_takes_no_text_for_markup(run_folder, collected):  # noqa: F811
    for row in collected:
        row |= {
            "conclusion": HOSTILE,
            "check": HOSTILE,
            "steps": [[HOSTILE, HOSTILE]],
            "failed": [{"attempt": 0, "conclusion": HOSTILE}],
        }
        row["verdicts"] = [{"step": HOSTILE, "verdict": True, "reason": HOSTILE}]
        row["reasoning"] += HOSTILE
    for row in collected[:6]:
        row |= {"answer": f"findings : {HOSTILE} .", "task": "open", "question": HOSTILE, "guide": HOSTILE}
    write(run_folder, collected)
    counts, verdicts = filtered(run_folder, judge=False)
    said = {"keep": True, "scores": {"location": 5}, "reasons": {"location": HOSTILE}, "held": [], "error": HOSTILE}
    told = [row | {"judgements": [said], "detail": HOSTILE, "error": HOSTILE} for row in verdicts.values()]
    (run_folder / "shards/test/filter/verdicts/00000.jsonl").write_text("".join(json.dumps(row) + "\n" for row in told))
    assert counts["kept"] >= 4 and counts["traces"] - counts["kept"] == 6
    _, page = reviewed(run_folder, kept=4, dropped=3)
    assert page.count('class="card trace"') == 7 == page.count("data:image/jpeg;base64,")
    assert "<script" not in page and "<img src=x" not in page and page.count("&lt;script&gt;alert(1)") > 20
    tags = re.findall(r"<(\w+)([^>]*)>", page)
    assert not [tag for tag, attributes in tags if "onerror" in attributes or "onmouseover" in attributes]
    assert not re.search(r"(?:src|href)=\"(?!data:)|url\(|@import|https?://", page)  # nothing is fetched
    assert "default-src 'none'" in page and "prefers-color-scheme: dark" in page
    shown = re.findall(r'<div class="id">([^<]*)</div>', page)
    again, other = (
        re.findall(r'<div class="id">([^<]*)</div>', reviewed(run_folder, s, kept=4, dropped=3)[1]) for s in (7, 8)
    )
    assert shown == again and set(shown) != set(other)


def test_untrue_kept_traces_fail_the_stage_by_name_and_are_marked(run_folder, collected):  # noqa: F811
    filtered(run_folder, judge=False)
    told, _ = reviewed(run_folder)
    truth = told["truth"]
    assert all(row["true"] == row["kept_true"] == row["traces"] for row in truth["phantoms"].values())
    assert truth["verdicts"]["rules"]["accepted_untrue"] == truth["verdicts"]["rules"]["refused_true"] == 0
    for row in collected[:9]:  # another's reasoning, which only the rules would find
        row["reasoning"] = "\n".join(
            one["reasoning"] for one in collected if one["reference"] != row["reference"] and one is not row
        )
        row["failed"] = [{"attempt": 0, "conclusion": row["reference"]}]
    write(run_folder, collected)
    filtered(run_folder, judge=False, rules=False)
    with pytest.raises(UserError, match=r"stage traces: .* kept traces of \w+ phantoms are untrue \(label"):
        reviewed(run_folder)
    told = json.loads((run_folder / "logs/test/traces.json").read_text())
    assert sum(row["kept"] - row["kept_true"] for row in told["truth"]["phantoms"].values()) == 9
    assert told["truth"]["verdicts"]["verifier"]["refused_true"] == 9
    assert "untrue: " in (run_folder / "logs/test/traces.html").read_text()
    told, _ = reviewed(run_folder, least_true=0.0)
    assert told["truth"]["verdicts"]["rules"]["accepted_untrue"] == 9


def test_a_film_that_is_gone_leaves_its_trace_on_the_page(run_folder, collected):  # noqa: F811
    filtered(run_folder, judge=False)
    for row in collected:
        row["images"] = [{"shard": "test/shard/gone.h5", "row": 0}]
    write(run_folder, collected)
    _, page = reviewed(run_folder, kept=2)
    assert page.count("this image is no longer in its shard") == 2


def test_a_stage_without_traces_has_a_page_too():
    told = {"run": "r", "stage": "traces", "time": 0.0, **Statistics().figures()}
    assert "0 of 0 traces" in page.html(told, [], Statistics().lengths)
