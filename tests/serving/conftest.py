"""One real server of two replicas for all tests of this folder, on tiny models from random weights."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from diagcot.jobs.testing import context
from diagcot.serving import Server, ServerSettings, serve
from tests.serving import tiny

SETTINGS = ServerSettings(max_model_len=4096, max_num_seqs=16, startup_timeout_s=600)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two folders of one architecture, and two of one with tied embeddings."""
    root = tmp_path_factory.mktemp("models")
    return {
        "a": tiny.build(root / "a", seed=0),
        "b": tiny.build(root / "b", seed=1),
        "tied": tiny.build(root / "tied", seed=2, tied=True),
        "tied-too": tiny.build(root / "tied-too", seed=3, tied=True),
    }


@pytest.fixture(scope="session")
def server(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    both = SETTINGS.model_copy(update={"data_parallel": 2})
    with serve(models["a"], both, context(tmp_path_factory.mktemp("run"))) as running:
        yield running
