"""Commands in messages: make's targets, or the verbs of the command that was typed."""

import argparse

import pytest

from diagcot.cli.parser import parse
from diagcot.console.commands import VARIABLE, typed

MESSAGES = {
    "watch it with: make watch RUN=a": "watch it with: /x/diagcot watch --run a",
    "`make retry STAGE=cot MEM=12 RUN='a b'`": "`/x/diagcot retry --stage cot --mem 12 --run 'a b'`",
    "make submit-stage0 RECIPE=r.yaml CLUSTER=c SEED=3": "/x/diagcot submit --stage 0 --recipe r.yaml --cluster c --seed 3",
    "`make submit-all`, or `make demo`": "`/x/diagcot submit --stage all`, or `/x/diagcot demo`",
    "run `make env`": "run `make env`",
}


@pytest.mark.parametrize(("message", "told"), MESSAGES.items())
def test_a_command_is_one_of_what_was_typed(message: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert typed(message) == message
    monkeypatch.setenv(VARIABLE, "/x/diagcot")
    assert typed(message) == told


def test_the_command_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "d")
    for message in (
        "make retry STAGE=cot MEM=12 TIME=60 CODE=new RUN=a",
        "make submit-stage1 RECIPE=r CLUSTER=c RUN=a",
    ):
        assert isinstance(parse(typed(message).split()[1:]), argparse.Namespace)
