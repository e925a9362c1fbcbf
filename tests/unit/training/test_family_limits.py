"""What a family of models does not do is refused by name while a run is planned."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from diagcot.jobs import ModelError, UserError
from diagcot.training import cost
from diagcot.training.config.settings import DeepSpeedSettings, Family, LoraSettings, ModelSettings, SftSettings
from diagcot.training.families import FAMILIES
from diagcot.training.models.pretrained import check_pixel_budget
from launchers import model_size
from launchers.chain import open_chain

PACKED = {"trainable": ["merger"], "deepspeed": {"steps": 1, "micro_batch_tokens": 4096}}


def test_settings_name_every_family() -> None:
    assert set(get_args(Family)) == set(FAMILIES)
    assert all(name == family.name for name, family in FAMILIES.items())


def check(family: str, settings: dict[str, Any]) -> None:
    """Check a stage of kind `sft` on a base of this family."""
    made = SftSettings.model_validate(settings)
    base = SimpleNamespace(name="base", settings=ModelSettings.model_validate({"family": family}), inputs={})
    stage: Any = SimpleNamespace(name="sft", settings=made, inputs={"model": ["base"]})
    chain: Any = SimpleNamespace(stage=lambda name: base)
    model_size.check_training(stage, chain, made.deepspeed, 1, 0, made.lora)


def test_packing_is_refused_where_visual_tokens_see_each_other_both_ways() -> None:
    check("qwen2_5_vl", PACKED)
    check("gemma3", PACKED | {"deepspeed": {"steps": 1}})
    with pytest.raises(UserError, match=r"stage sft: sequences of Gemma 3.* cannot be packed.*give micro_batch"):
        check("gemma3", PACKED)


def test_grpo_of_such_a_family_needs_a_gpu(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "name: gemma\nextends: families/internvl\nchange: {base: {settings: {family: gemma3}}}\n", encoding="utf-8"
    )
    chain = open_chain(str(recipe), "laptop", "trial")
    with pytest.raises(UserError, match=r"stage grpo: on a CPU vLLM .* as Gemma 3.* needs it.*Give the stage a GPU"):
        chain.check("grpo")


def test_an_adapter_on_projections_that_a_family_does_not_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(FAMILIES["gemma3"]), "lora_targets", ("q_proj", "v_proj"))
    settings = {"trainable": ["lora"], "lora": {}, "deepspeed": {"steps": 1}}
    with pytest.raises(UserError, match=r"no adapter on k_proj, .*lora\.targets may name q_proj, v_proj"):
        check("gemma3", settings)
    check("gemma3", settings | {"lora": {"targets": ["q_proj"]}})


def test_a_pixel_budget_is_for_families_that_have_one() -> None:
    given: dict[str, Any] = {"pretrained": Path("/model"), "max_pixels": 50_000}
    check_pixel_budget(ModelSettings(family="qwen3_vl", **given))
    check_pixel_budget(ModelSettings(family="gemma3", pretrained=Path("/model")))
    check_pixel_budget(ModelSettings(family="gemma3", max_pixels=50_000))  # of a tiny model
    with pytest.raises(ModelError, match=r"Gemma 3.* takes no max_pixels: remove the setting"):
        check_pixel_budget(ModelSettings(family="gemma3", **given))


def test_visual_tokens_follow_the_budget_or_the_family() -> None:
    qwen, gemma = (cost.shape_of(ModelSettings.model_validate({"family": name})) for name in ("qwen2_5_vl", "gemma3"))
    assert qwen.visual_tokens(112, None) == 16 and qwen.visual_tokens(512, 112**2) == 16
    assert gemma.visual_tokens(112, None) == gemma.visual_tokens(2000, None) == 16


def test_parts_of_other_families_are_named() -> None:
    text = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = {"model_type": "internvl", "text_config": {"model_type": "gpt_oss", "vocab_size": 9, **text}}
    with pytest.raises(ModelError, match=r"a/config\.json: its language model is a gpt_oss; supported are qwen2"):
        cost.parse_config(config, "a/config.json")
    config = {"model_type": "llava_onevision", "vision_config": {"model_type": "clip_vision_model"}}
    with pytest.raises(ModelError, match=r"its vision tower is a clip_vision_model"):
        cost.parse_config(config)
    with pytest.raises(ModelError, match=r"config\.json has no 'num_attention_heads'"):
        cost.parse_config({"model_type": "idefics3"})


def test_an_adapters_parameters_are_those_of_the_language_model() -> None:
    """4 layers of width 128 with 4 heads and 2 key-value heads of 32, and an MLP of 384; experts take none."""
    attention, mlp = (128 + 128) + 2 * (128 + 64) + (128 + 128), 2 * (128 + 384) + (384 + 128)
    for name, family in FAMILIES.items():
        shape = cost.shape_of(ModelSettings.model_validate({"family": name}))
        ends = attention + mlp * ("up_proj" in family.lora_targets)
        assert shape.lora(LoraSettings(rank=2)) == 4 * 2 * ends
        with_mlp = {"trainable": ["lora"], "lora": {}, "deepspeed": {"steps": 1}}
        if "up_proj" not in family.lora_targets:
            with pytest.raises(UserError, match=r"takes no adapter on gate_proj, up_proj, down_proj"):
                check(name, with_mlp)
            with_mlp["lora"] = {"targets": list(family.lora_targets)}
        check(name, with_mlp)


def test_a_token_passes_some_of_the_experts() -> None:
    """4 layers whose tokens pass 2 of 4 experts of width 192: their parameters count once for memory, half for operations."""
    dense, mixed = (
        cost.shape_of(ModelSettings.model_validate({"family": name})) for name in ("qwen3_vl", "qwen3_vl_moe")
    )
    expert = 3 * 128 * 192
    assert mixed.counts["language_model"] - dense.counts["language_model"] == 4 * (2 * expert + 4 * 128)
    assert (mixed.idle, mixed.intermediate, mixed.projections) == (4 * 2 * expert, dense.intermediate, 4 * 49_152)
    load, settings = cost.Workload(16, 100, 50, 10), DeepSpeedSettings(steps=1)
    made = [cost.estimate(shape, {"merger"}, None, settings, load, ranks=1) for shape in (dense, mixed)]
    assert made[0].sound == pytest.approx(made[1].sound, rel=0.01)
