"""A real vLLM under a hostile environment answers as one under a clean environment."""

import pytest

from diagcot.jobs.testing import context
from diagcot.serving import Request, serve
from tests.integration.environment import hostile
from tests.serving.conftest import SETTINGS

pytestmark = pytest.mark.heavy


def test_a_hostile_environment_changes_no_answer(models, server, tmp_path, monkeypatch):
    asked = [Request(str(n), (("user", f"what is {n}?"),), max_tokens=8, logprobs=1, seed=n) for n in range(6)]
    clean = dict(server.complete(asked))
    for name, value in hostile.environment().items():
        monkeypatch.setenv(name, value)
    with serve(models["a"], SETTINGS, context(tmp_path)) as other:
        found = dict(other.complete(asked))
    for key, reply in clean.items():
        assert reply.error is None and found[key].texts == reply.texts
        assert found[key].logprobs[0] == pytest.approx(reply.logprobs[0], abs=1e-4)
