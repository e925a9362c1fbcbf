"""A recipe of the whole chain, smaller than tiny, and folders of its own for each chain."""

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
STEPS = {"align": 12, "teacher-lora": 12, "cot-sft": 12, "grpo": 2}
MODELS = ["base", "teacher", "cot-sft", "grpo"]


@pytest.fixture(scope="session")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """recipes/tiny.yaml with less of everything and without its control: the same kinds of stages and edges."""
    recipe = yaml.safe_load((ROOT / "recipes" / "tiny.yaml").read_text())
    stages = {stage["name"]: stage for stage in recipe["stages"]}
    stages["phantoms"]["settings"]["studies"] = 160
    for source in stages["shard"]["settings"]["sources"]:
        if source["kind"] == "iu_xray":
            source["max_studies"] = 40
    for name, steps in STEPS.items():
        stages[name]["settings"]["deepspeed"].update(steps=steps, warmup_steps=0, save_every=max(1, steps // 3))
    stages["cot"]["settings"]["samples_per_shard"] = 4
    stages["traces"]["settings"] = {"least_true": 0.0}  # a few traces say nothing about a share
    # So little trained, it may not have learned the layout.
    stages["grpo"]["settings"].update(precheck_groups=0, prompts_per_step=4, validation={"prompts": 8})
    stages["evaluate"]["settings"]["samples_per_shard"] = 6
    # Each model that answers has a server to wait for, and two servers take twice the time to start.
    for stage in stages.values():
        if "server" in stage.get("settings", {}):
            stage["settings"]["server"] |= {"data_parallel": 1}
    recipe["stages"].remove(stages["plain-sft"])
    stages["evaluate"]["inputs"]["models"] = MODELS
    recipe["name"] = "micro"
    path = tmp_path_factory.mktemp("recipe") / "micro.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


def cluster_file(name: str, root: Path, executor: str) -> Path:
    """The project's own cluster file with its folders under `root`."""
    found = yaml.safe_load((ROOT / "slurm" / "clusters" / f"{name}.yaml").read_text())
    found["roots"] = {kind: str(root / kind) for kind in ("logs", "shards", "models")}
    assert found["executor"] == executor
    path = root / f"{name}.yaml"
    path.write_text(yaml.safe_dump(found))
    return path
