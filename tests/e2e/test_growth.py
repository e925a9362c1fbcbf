"""A model that is put into the recipe of a finished run: real shards, models and servers, by the same command on the same run."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from diagcot.jobs.plans.plan import read
from tests.e2e.conftest import ROOT, cluster_file
from tests.e2e.test_chain import diagcot, table

pytestmark = pytest.mark.heavy
KEPT = ("phantoms", "shard", "evaluate", "retrieval", "report")
RANDOM = {"kind": "model", "number": "1", "inputs": {"shards": "shard"}, "settings": {"tiny": {"vocabulary": 800}}}


def recipe(path: Path, *models: str) -> Path:
    """recipes/tiny.yaml without training: models with random weights."""
    whole = yaml.safe_load((ROOT / "recipes" / "tiny.yaml").read_text())
    stages: dict[str, Any] = {stage["name"]: stage for stage in whole["stages"] if stage["name"] in KEPT}
    stages["phantoms"]["settings"]["studies"] = 120
    stages["shard"]["settings"]["sources"] = stages["shard"]["settings"]["sources"][:1]
    built = {name: RANDOM | {"name": name} for name in models}
    for name in ("evaluate", "retrieval"):
        stages[name]["inputs"]["models"] = list(models)
    stages["evaluate"]["settings"] |= {"samples_per_shard": 3, "max_tokens": {"report": 12, "grounding": 12}}
    stages["evaluate"]["settings"]["server"] |= {"data_parallel": 1}
    before = [stages[name] for name in ("phantoms", "shard")]
    whole["stages"] = [*before, *built.values(), *(stages[name] for name in KEPT[2:])]
    path.write_text(yaml.safe_dump(whole, sort_keys=False))
    return path


def test_a_model_that_is_added_is_evaluated_alone(tmp_path: Path) -> None:
    cluster = cluster_file("laptop", tmp_path, "local")

    def run(*models: str) -> None:
        asked = ("--recipe", recipe(tmp_path / "mine.yaml", *models), "--cluster", cluster, "--run", "grid")
        done = subprocess.run(
            diagcot("demo", *asked), cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def files(*folders: str) -> dict[str, tuple[bytes, int]]:
        paths = [path for folder in folders for path in (tmp_path / folder).rglob("*") if path.is_file()]
        return {str(path.relative_to(tmp_path)): (path.read_bytes(), path.stat().st_ino) for path in paths}

    run("model")
    run_dir = tmp_path / "logs" / "grid"
    kept = ("shards/grid", "models/grid/model", "logs/grid/evaluate/done", "logs/grid/evaluate/out", "logs/grid/shard")
    before, first = files(*kept), table(run_dir)
    run("model", "other")
    after, second = files(*kept), table(run_dir)
    assert len(before) > 20 and {name: after.get(name) for name in before} == before
    assert (first["models"], second["models"]) == (["model"], ["model", "other"])
    old, new = ({(row["dataset"], row["model"]): row["scores"] for row in one["rows"]} for one in (first, second))
    assert all(new[key][name]["value"] == cell["value"] for key in old for name, cell in old[key].items())
    plan = read(run_dir / "evaluate")
    assert len(plan.keys) == 8 and all(key.startswith("other.") for key in plan.keys[4:]) and not plan.missing()
    assert {path.name[:5] for path in (plan.path / "out").glob("*.log")} == {f"{k:05d}" for k in range(plan.tasks)}
    growth = json.loads((run_dir / "grown" / "1" / "growth.json").read_text())
    assert growth["joined"] == ["other"] and set(growth["stages"]) == {"evaluate", "retrieval", "report"}
    assert "other" in (run_dir / "report.html").read_text()
