"""The search on a real vLLM: every conversation of every task, held to its schema, from a model of random weights."""

import json
from pathlib import Path
from typing import Any

import pytest

from diagcot.cot.search import collect
from diagcot.cot.search.collection import Collection, Servers
from diagcot.cot.synthetic import questions
from diagcot.data.phantom import build as phantoms
from diagcot.jobs import Unit
from diagcot.jobs.testing import context, run_unit
from diagcot.serving import Server
from diagcot.shards import build

pytestmark = pytest.mark.heavy

UNIT = Unit("00000")
SEARCH = {
    "attempts": 1,
    "parse_retries": 1,
    "temperature": 1.0,
    "max_tokens": 500,
    "verdict_tokens": 60,
    "reply": {"steps": 1, "step_chars": 20, "section_chars": 40},
}


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("collect")
    shards = root / "shards" / "test"
    settings: dict[str, Any] = {"studies": 24, "size": 56}
    run_unit(phantoms, Unit("tree"), context(root, settings, stage="phantoms"))
    settings = {"sources": [{"kind": "mimic_cxr", "input": "phantoms"}], "shards": 1, "image_size": 56}
    run_unit(build, UNIT, context(root, settings, stage="shard", inputs={"phantoms": [str(shards / "phantoms")]}))
    run_unit(questions, UNIT, context(root, {}, stage="questions", inputs={"shards": [str(shards / "shard")]}))
    return root


def test_every_conversation_of_every_task_is_answered_as_its_schema_says(server: Server, run_folder: Path) -> None:
    shards = run_folder / "shards" / "test"
    settings = {
        "tasks": ["report", "classification", "grounding", "closed", "open"],
        "samples_per_shard": 1,
        "max_reference_chars": 300,
        "search": SEARCH,
        "server": server.settings.model_dump(mode="json"),
    }
    inputs = {"shards": [str(shards / "shard")], "samples": [str(shards / "questions")]}
    ctx = context(run_folder, settings, stage="cot", inputs=inputs)
    result = collect.run(UNIT, Collection(Servers(server, server), ctx), ctx)
    assert result is not None
    found = [json.loads(line) for line in next(iter(result.outputs.values())).read_text().splitlines()]
    assert len(found) == 5 and {row["form"] for row in found} == {"think", "interleaved"}
    for row in found:
        assert "HTTP" not in (row["error"] or ""), row["error"]
        if row["form"] == "think":
            assert row["forced"] and row["steps"] and row["conclusion"] and row["by"] in ("", "label")
            assert row["error"] in (None, "rewrite: cut at 500 tokens")  # prose from random weights may have no end
            assert [one["step"].partition(":")[0] for one in row["verdicts"]] == ["init", "rethink", "rethink"]
        else:
            # Random marks may be right: every reply could be read, and the rules said yes or why not.
            assert 1 <= row["calls"] == len(row["verdicts"]) <= 1 + 2 and bool(row["pairs"]) is (row["error"] is None)
    stats = server.stats
    assert stats.requests == sum(row["calls"] for row in found) and stats.completion_tokens > 0
    assert ctx.stage_dir.joinpath("progress/0.json").exists()
