"""Nothing green is empty: for every kind of stage, who tells that it read nothing or made nothing of use."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from diagcot.jobs import Unit, UserError, forecast
from diagcot.jobs.testing import context, run_unit
from launchers import registry
from launchers.chain import open_chain

NOTHING: dict[str, str] = {
    # A setting that would make nothing is refused by the plan.
    **dict.fromkeys(("phantoms", "drawings"), "plan"),
    # An input without a row, a study or a text stops the stage with the reason.
    **dict.fromkeys(("shard", "import", "texts", "align", "sft", "retrieval", "model", "merge"), "error"),
    # A finished stage counts what it must have some of: plan, status, report and exit code name what is missing.
    **dict.fromkeys(("questions", "synthetic-sft", "collect", "filter", "grpo", "evaluate", "aggregate"), "needed"),
    **dict.fromkeys(("study", "sweep"), "needed"),
    # It only reads what an earlier stage has counted, and that stage is named.
    **dict.fromkeys(("judge", "clinical", "green", "predictions"), "evaluate"),
    "traces": "filter",
}
"""Kind -> how its emptiness is told: by the plan, as an error, by its count `needed`, or by the stage that it reads."""


def test_every_kind_of_stage_has_a_row() -> None:
    assert set(NOTHING) == set(registry.modules())
    assert {how for how in NOTHING.values() if how in registry.modules()} <= {
        k for k, how in NOTHING.items() if how == "needed"
    }


@pytest.mark.parametrize(("kind", "settings"), [("phantoms", {"studies": 0}), ("drawings", {"images": 0})])
def test_settings_that_make_nothing_are_refused(kind: str, settings: dict[str, Any]) -> None:
    found = registry.find(kind)
    assert found is not None
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        found.settings.model_validate(settings)


@pytest.mark.parametrize("kind", ["import", "texts"])
def test_files_without_a_row_stop_the_stage_with_the_reason(kind: str, tmp_path: Path) -> None:
    """The other errors have their tests beside the kinds: shards, training, retrieval, foreign predictions, models."""
    (tmp_path / "rows.jsonl").write_text("")
    settings: dict[str, Any] = {"files": [str(tmp_path / "rows.jsonl")]}
    if kind == "import":
        settings = {"files": [{"path": str(tmp_path / "rows.jsonl")}], "name": "mine"}
    found = registry.find(kind)
    assert found is not None
    ctx = context(tmp_path, found.settings.model_validate(settings).model_dump(mode="json"), stage="it")
    with pytest.raises((UserError, ValueError), match="is a conversation"):
        run_unit(importlib.import_module(found.work), Unit("00000"), ctx)


def test_the_plan_names_what_was_asked_for_and_will_not_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real images, labels, a task, and a wording: each by name, before anything runs."""
    monkeypatch.delenv("IU_XRAY_DIR", raising=False)
    (tmp_path / "reports.csv").write_text("image,report\n")
    (tmp_path / "mine.yaml").write_text(
        "name: mine\ntitle: Mine\nurl: none\nlicence: none\nimages: ['{image}']\n"
        "tables: [{file: reports.csv, image: image, findings: report}]\n"
    )
    sources = [
        {"kind": "iu_xray", "path": "data/iu_xray", "images": "$IU_XRAY_DIR", "phantom_images": True},
        {"kind": str(tmp_path / "mine.yaml"), "path": str(tmp_path)},
    ]
    stages = [
        {"name": "iu", "kind": "shard", "settings": {"sources": sources[:1]}},
        {"name": "own", "kind": "shard", "settings": {"sources": sources[1:]}},
        {"name": "asked", "kind": "questions", "inputs": {"shards": "iu"},
         "settings": {"tasks": {"view": 1.0}, "wording": {"view": ["<image>Which view? {options} {steps}"]}}},
        {"name": "base", "kind": "model", "settings": {"pretrained": "recipes/toy-base"}},
        {"name": "answers", "kind": "evaluate", "inputs": {"models": "base", "shards": "own"},
         "settings": {"tasks": ["view", "classification", "report"]}},
    ]  # fmt: skip
    recipe = {"name": "x", "stages": [{"number": 0, **stage} for stage in stages]}
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    (tmp_path / "laptop.yaml").write_text(
        "name: mine\nexecutor: local\nsetup: [module load cuda]\nresource_profiles:\n"
        "  cpu: {mem_gb: 4}\n  small: {}\n  server: {}\n"
    )
    chain = open_chain(str(tmp_path / "x.yaml"), str(tmp_path / "laptop.yaml"), None)
    notes = "\n".join(chain.notes())
    for said in (
        "iu: iu_xray: every image is a phantom, because the variable in $IU_XRAY_DIR is not set",
        "has labels, so there will be no sample of task classification (`from_report: true` in a collection's entry",
        "has views, so there will be no sample of task view",
        "answers: the questions of stage asked have another `wording` of view",
    ):
        assert said in notes
    (told,) = forecast.without_effect(chain.plans, chain.cluster)
    assert told.startswith("setup, mem_gb of cluster mine have no effect: with executor: local")
