"""Settings that contradict each other are refused when a recipe is planned, with the line of the key."""

import json
from pathlib import Path
from typing import Any

import pytest

from diagcot.jobs import UserError
from launchers import contradictions, registry
from launchers.chain import ROOT, chain_on, open_chain
from launchers.composition import compose

HEAD = """\
name: mine
stages:
  - {name: phantoms, kind: phantoms, number: 0, settings: {studies: 8}}
  - {name: shard, kind: shard, number: 0, inputs: {tree: phantoms}, settings: {sources: [{kind: mimic_cxr, input: tree}]}}
  - {name: base, kind: model, number: 1, inputs: {shards: shard}}
"""
STEPS = {"steps": 10, "global_batch": 8}
LAST = {"steps": 10, "global_batch": 8, "warmup_steps": 9}
SMALL = {"max_model_len": 512}
NEEDED: dict[str, dict[str, Any]] = {
    "sft": {"trainable": ["merger"], "deepspeed": STEPS},
    "align": {"deepspeed": STEPS},
}
"""What settings of a kind must hold at least."""
ADDRESS = {"endpoint": "http://localhost:1", "endpoint_model": "m"}

# (kind, settings that are refused, part of the message, settings that are accepted)
PAIRS: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    ("sft", {"deepspeed": STEPS | {"warmup_steps": 10}}, "never reach", {"deepspeed": LAST}),
    ("sft", {"deepspeed": STEPS | {"warmup_steps": 100}}, "never reach", {"deepspeed": LAST}),
    ("align", {"deepspeed": STEPS | {"warmup_steps": 100}}, "never reach", {"deepspeed": LAST}),
    ("grpo", {"deepspeed": STEPS | {"warmup_steps": 100}}, "never reach", {"deepspeed": LAST}),
    ("sft", {"deepspeed": STEPS | {"epochs": 1}}, "either epochs or steps", {"deepspeed": STEPS}),
    ("sft", {"validation": 0, "validate_every": 5}, "nothing to validate", {"validation": 0}),
    ("sft", {"samples_weight": 0, "tasks": {"report": 0}}, "nothing to train on", {"samples_weight": 0}),
    ("align", {"validation": 0, "validate_every": 5}, "nothing to validate", {"validation": 0}),
    ("grpo", {"importance_cap": 2.0, "temperature": 1.0, "top_p": 0.99}, "top_p 1", {"importance_cap": None}),
    ("grpo", {"importance_cap": 2.0, "temperature": 0.9, "top_p": 1.0}, "temperature 1", {"top_p": 0.99}),
    ("grpo", {"max_staleness": 1}, "set importance_cap", {}),
    ("grpo", {"max_tokens": 512, "server": SMALL}, "no room for a prompt", {"max_tokens": 256, "server": SMALL}),
    ("grpo", {"overlong": 2000}, "more than max_tokens", {"overlong": 100}),
    ("grpo", {"best": "reward"}, "needs validation.prompts", {"best": "reward", "validation": {"prompts": 4}}),
    ("grpo", {"validation": {"every": 5}}, "needs validation.prompts", {"validation": {"every": 5, "prompts": 4}}),
    ("grpo", {"warn_gap": 0.2}, "end before it warns", {"warn_gap": 0.15}),
    (
        "grpo",
        {"augment": 2},
        "the task is report",
        {"augment": 2, "task": "grounding", "reward": {"name": "grounding"}},
    ),
    ("grpo", {"carry_gate": True}, "has neither", {"carry_gate": True, "reward": {"name": "closed"}}),
    (
        "grpo",
        {"step_timeout_s": 60, "rewards": {"open": {"name": "open", "score_timeout_s": 60}}},
        "would end the stage",
        {"step_timeout_s": 121},
    ),
    ("grpo", {"reasoning": "none", "format_instruction": True}, "without tags", {"reasoning": "none"}),
    (
        "grpo",
        {"reward_models": {"judge": {"max_tokens": 512, "server": SMALL}}},
        "no room for a prompt",
        {"reward_models": {"judge": {"max_tokens": 128, "server": SMALL}}},
    ),
    ("collect", {"server": SMALL}, "search.max_tokens 1536 leaves no room", {"server": {"max_model_len": 4096}}),
    ("collect", {"verifier": {"max_model_len": 256}}, "search.verdict_tokens 256", {"verifier": SMALL}),
    ("filter", {"server": SMALL}, "max_tokens 512 leaves no room", {"judge": False, "server": SMALL}),
    ("filter", {"min_words": 50, "max_words": 20}, "no trace would be kept", {"min_words": 20, "max_words": 20}),
    ("evaluate", {"server": SMALL}, "max_tokens 1024 leaves no room", {"tasks": ["grounding"], "server": {}}),
    ("evaluate", {"max_tokens": {"open": 99}}, "names open", {"tasks": ["open"], "max_tokens": {"open": 99}}),
    ("judge", {"max_tokens": 600, "server": SMALL}, "no room for a prompt", {"server": SMALL}),
    ("green", {"server": SMALL}, "no room for a prompt", {"max_tokens": 128, "server": SMALL}),
    ("judge", {"server": ADDRESS | {"pipeline_parallel": 2}}, "has no effect", {"server": ADDRESS}),
    ("judge", {"server": {"endpoint_sampling": "server"}}, "need `endpoint`", {"server": ADDRESS}),
]


def settings_of(tmp_path: Path, kind: str, given: dict[str, Any]) -> object:
    """The settings of a stage of that kind, as the plan of a recipe reads them."""
    recipe = tmp_path / "mine.yaml"
    settings = json.dumps(NEEDED.get(kind, {}) | given)
    recipe.write_text(f"{HEAD}  - name: stage\n    kind: {kind}\n    number: eval\n    settings:\n      {settings}\n")
    return open_chain(str(recipe), "laptop", "mine").stage("stage").settings


@pytest.mark.parametrize(("kind", "refused", "said", "accepted"), PAIRS)
def test_a_pair_is_refused_with_its_line_and_a_consistent_one_is_not(
    tmp_path: Path, kind: str, refused: dict[str, Any], said: str, accepted: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match=r"mine\.yaml:(9|10): ") as error:
        settings_of(tmp_path, kind, refused)
    assert said in str(error.value)
    settings_of(tmp_path, kind, accepted)


def test_every_row_of_the_table_is_tested() -> None:
    met = set()
    for kind, refused, _, _ in PAIRS:
        model = registry.find(kind).settings
        try:
            settings = model.model_validate(NEEDED.get(kind, {}) | refused)
        except ValueError:
            continue  # the model refuses it by itself
        parts = [part for _, part in contradictions.parts(settings)]
        met |= {
            row for row in contradictions.TABLE for part in parts if isinstance(part, row.model) and row.found(part)
        }
    assert [row for row in contradictions.TABLE if row not in met] == []


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("**/*.yaml")), ids=lambda path: path.stem)
def test_no_recipe_of_ours_holds_a_contradiction(path: Path) -> None:
    if path.is_relative_to(ROOT / "recipes" / "study"):
        name = path.relative_to(ROOT / "recipes" / "study").parts[0].removesuffix(".yaml")
        chain = chain_on(*compose(name, (1,), ROOT), "laptop", "mine", ROOT)
    else:
        chain = open_chain(str(path), "laptop", "mine")
    assert all(stage.settings for _, stage in chain.stages)
