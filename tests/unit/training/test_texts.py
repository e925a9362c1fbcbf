"""Text conversations of three forms become samples; what is none is counted and never shown."""

import json
from pathlib import Path
from typing import Any

import pytest

from diagcot.data.errors import DataError
from diagcot.jobs import Unit, UserError
from diagcot.jobs.testing import context, run_unit
from diagcot.tasks.samples import read_samples
from diagcot.training.kinds import texts

ASKED, SAID = "what is a pneumothorax ?", "air in the pleural space ."
TALK = (("user", ASKED), ("assistant", SAID))
GOOD: list[tuple[dict[str, Any], tuple[tuple[str, str], ...]]] = [
    ({"conversations": [{"from": "human", "value": ASKED}, {"from": "gpt", "value": SAID}]}, TALK),
    (
        {"messages": [{"role": "system", "content": "Be brief."}, *({"role": r, "content": t} for r, t in TALK)]},
        (("system", "Be brief."), *TALK),
    ),
    ({"instruction": "Explain.", "input": "edema", "output": "x"}, (("user", "Explain.\nedema"), ("assistant", "x"))),
    ({"instruction": "more", "output": "y", "history": [[ASKED, SAID]]}, (*TALK, ("user", "more"), ("assistant", "y"))),
]  # fmt: skip
BAD = [
    {"text": "no conversation"},
    ["no object"],
    {"messages": [{"role": "user", "content": "no answer"}]},
    {"messages": [{"role": "tool", "content": "x"}, {"role": "assistant", "content": "y"}]},
    {"messages": [{"role": "user", "content": "<image> see"}, {"role": "assistant", "content": "y"}]},
    {"conversations": [{"from": "gpt", "value": "x"}, {"from": "human", "value": "y"}]},
    {"instruction": "empty", "output": " "},
]


@pytest.mark.parametrize(("row", "turns"), GOOD)
def test_forms(row: dict[str, Any], turns: tuple[tuple[str, str], ...]) -> None:
    assert texts.to_sample(row).messages == turns


def test_files_become_samples(tmp_path: Path) -> None:
    rows = [json.dumps(row) for row, _ in GOOD]
    (tmp_path / "a.jsonl").write_text("\n".join([rows[0], "{broken", *map(json.dumps, BAD), rows[0], "", rows[1]]))
    (tmp_path / "b.json").write_text(f"[{rows[2]}, {rows[3]}]")
    ctx = context(tmp_path, {"files": [str(tmp_path / "*.json*")]})
    made = run_unit(texts, Unit("texts"), ctx)
    assert made and made.counts == {"samples": 4, "skipped": len(BAD) + 1, "repeated": 1}
    (shown,) = (json.loads(path.read_text()) for path in (ctx.stage_dir / "progress").iterdir())
    assert shown["figures"] == made.counts
    assert [sample.messages for sample in read_samples(ctx.output / "texts.jsonl")] == [turns for _, turns in GOOD]
    strict = context(tmp_path, {"files": [str(tmp_path / "a.jsonl")], "on_bad_row": "fail"}, stage="strict")
    with pytest.raises(DataError, match=r"a\.jsonl:2: not an object"):
        run_unit(texts, Unit("texts"), strict)


def test_missing_files_are_named(tmp_path: Path) -> None:
    settings = texts.TextsSettings(files=["$NO_SUCH_VARIABLE/x.jsonl", str(tmp_path / "gone.jsonl")])
    with pytest.raises(UserError, match=r"NO_SUCH_VARIABLE.*is not set; .*gone\.jsonl does not exist"):
        settings.paths()
