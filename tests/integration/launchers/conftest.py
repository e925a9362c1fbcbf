"""Small runs in this process, whose folders and state are their own."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from launchers.chain import Chain, open_chain

FIRST = """\
name: first
seed: 3
stages:
  - {name: phantoms, kind: phantoms, number: 0, settings: {studies: 12, size: 64, views: [PA]}}
  - name: shard
    kind: shard
    number: 0
    inputs: {phantoms: phantoms}
    settings: {sources: [{kind: mimic_cxr, input: phantoms}], shards: 2, image_size: 64}
"""
SECOND = """\
name: second
stages:
  - {name: films, from: first/shard}
  - {name: texts, kind: questions, number: 0, inputs: {shards: films}, elementwise: shards, settings: {tasks: {binary: [0, 1]}}}
"""
Start = Callable[[str], Chain]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    roots = {name: str(tmp_path / name) for name in ("logs", "shards", "models")}
    profiles = {name: dict[str, int]() for name in ("cpu", "small", "server", "train", "grpo")}
    (tmp_path / "here.yaml").write_text(
        json.dumps({"name": "here", "executor": "debug", "roots": roots, "resource_profiles": profiles})
    )

    def run(recipe: str) -> Chain:
        name = recipe.split()[1]
        (tmp_path / f"{name}.yaml").write_text(recipe)
        chain = open_chain(str(tmp_path / f"{name}.yaml"), str(tmp_path / "here.yaml"), None)
        chain.submit("all")
        return chain

    return run
