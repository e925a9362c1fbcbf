"""The README's commands, typed one after the other in one checkout, are runs of their own."""

import pytest

from diagcot.cli.main import main
from diagcot.console.screens import demo
from launchers.chain import Chain


def test_each_demo_of_the_documents_has_a_name_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[str] = []
    monkeypatch.setattr(Chain, "obtain", lambda chain: None)
    monkeypatch.setattr(demo, "run", lambda chain: runs.append(chain.run) or 0)
    for options in ([], ["--recipe", "cx-mind-tiny"], ["--seed", "8"], ["--recipe", "cx-mind-tiny", "--seed", "8"]):
        assert main(["demo", *options]) == 0
    assert runs == ["demo", "cx-mind-tiny", "demo-8", "cx-mind-tiny-8"]
