"""The launcher of `collect`: its inputs, and what a plan says of it."""

from types import SimpleNamespace
from typing import Any

import pytest

from diagcot.jobs import Unit, UserError
from launchers.cot import collect as launcher
from launchers.stage_kind import Stage
from tests import stages

UNITS = {"shard": [Unit("00000"), Unit("00001")], "asked": [Unit("00000"), Unit("00001")], "others": [Unit("00000")]}
CHAIN: Any = SimpleNamespace(units_of=UNITS.__getitem__)


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
