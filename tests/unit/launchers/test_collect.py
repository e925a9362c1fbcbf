"""The launcher of `collect`: its inputs, and what a plan says of it."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from diagcot.cot.search import schemas
from diagcot.jobs import Unit, UserError
from diagcot.jobs.cluster import Size
from launchers.cot import collect as launcher
from launchers.cot import filter as filter_launcher
from launchers.stage_kind import Stage
from tests import stages

UNITS = {"shard": [Unit("00000"), Unit("00001")], "asked": [Unit("00000"), Unit("00001")], "others": [Unit("00000")]}
MODELS = {name: stages.stage("model", {"pretrained": "x"}) for name in ("teacher", "t")}
MODELS["tiny"] = stages.stage("model", {"tiny": {}})
CHAIN: Any = SimpleNamespace(units_of=UNITS.__getitem__, stage=MODELS.__getitem__, resources=lambda name: Size(gpus=0))


def spec(settings: dict[str, Any], **inputs: list[str]) -> Stage[Any]:
    return stages.stage("collect", settings, **inputs)


def test_a_unit_is_a_shard() -> None:
    assert launcher.units(spec({}, shards=["shard"], model=["teacher"]), CHAIN) == UNITS["shard"]
    both = spec({"tasks": ["open"]}, shards=["shard"], model=["teacher"], samples=["asked"], verifier=["other"])
    assert launcher.units(both, CHAIN) == UNITS["shard"]


@pytest.mark.parametrize(
    ("settings", "inputs", "says"),
    [
        ({}, {"shards": ["shard"]}, "needs two inputs"),
        ({}, {"model": ["teacher"]}, "needs two inputs"),
        ({"tasks": ["closed"]}, {"shards": ["shard"], "model": ["teacher"]}, "needs the input samples"),
        ({"tasks": "open"}, {"shards": ["shard"], "model": ["t"], "samples": ["others"]}, "other shards"),
        ({}, {"shards": ["shard"], "model": ["teacher"], "samples": ["asked"]}, "name them in its tasks"),
        ({}, {"shards": ["shard"], "model": ["teacher"], "verifier": ["a", "b"]}, "one input verifier"),
    ],
)
def test_inputs_that_lack_or_do_not_fit_are_refused(settings: Any, inputs: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        launcher.units(spec(settings, **inputs), CHAIN)


def test_the_plan_says_who_verifies() -> None:
    alone = launcher.notes(spec({}, shards=["shard"], model=["teacher"]), CHAIN)
    assert len(alone) == 1 and "verifies its own conclusions" in alone[0]
    for settings, inputs in (
        ({}, {"verifier": ["other"]}),
        ({"preset": "as-released"}, {}),  # as the release did
        ({"tasks": ["grounding"]}, {}),  # by rule
    ):
        assert launcher.notes(spec(settings, shards=["shard"], model=["teacher"], **inputs), CHAIN) == []


def test_the_plan_says_where_replies_are_longer_than_their_limit() -> None:
    inputs = {"shards": ["shard"], "model": ["teacher"], "verifier": ["teacher"]}
    assert launcher.notes(spec({}, **inputs), CHAIN) == []  # the defaults agree
    short = {"search": {"max_tokens": 1024, "verdict_tokens": 40}}
    said = launcher.notes(spec(short, **inputs), CHAIN)
    assert [("max_tokens is 1024" in line, "verdict_tokens is 40" in line) for line in said] == [
        (True, False),
        (False, True),
    ]
    assert launcher.notes(spec(short, **inputs | {"model": ["tiny"]}), CHAIN) == []
    assert launcher.notes(spec({"preset": "as-released"}, **inputs), CHAIN) == []  # without schemas

    judged = {"traces": ["cot"], "model": ["teacher"]}
    assert filter_launcher.notes(stages.stage("filter", {}, **judged), CHAIN) == []
    (line,) = filter_launcher.notes(stages.stage("filter", {"max_tokens": 100}, **judged), CHAIN)
    assert "reason_chars allows judgements of about" in line
    assert filter_launcher.notes(stages.stage("filter", {"verdict": "word", "max_tokens": 20}, **judged), CHAIN) == []


def test_the_longest_reply_is_that_of_the_schema() -> None:
    schema = schemas.thinking(schemas.Limits(2, 30, 40), ("findings", "impression"))
    step = {"title": "x" * 80, "content": "x" * 30}
    longest = {"thinking": [step] * 2, "conclusion": {"findings": "x" * 40, "impression": "x" * 40}, "check": "x" * 30}
    assert abs(schemas.longest(schema) * 4 - len(json.dumps(longest, separators=(",", ":")))) < 20
