"""A downloaded model is checked before anything is submitted, and linked, not copied."""

import json
from pathlib import Path
from typing import Any

import pytest

from diagcot.jobs import UserError
from diagcot.training.config.grpo_settings import GrpoSettings
from diagcot.training.config.settings import AlignSettings, DeepSpeedSettings, ModelSettings, SftSettings
from diagcot.training.models.pretrained import weights_of
from tests.training import images


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no model"):
        weights_of(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_vl"}')
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "model-1.safetensors").touch()
    with pytest.raises(UserError, match=r"lacks model-2\.safetensors"):
        weights_of(tmp_path)


def test_adopted_model_is_linked_and_loads(tmp_path: Path) -> None:
    from diagcot.training.models import model, tiny

    texts = [text for sample in images.samples(8) for _, text in sample.messages]
    tiny.build(ModelSettings(), texts, tmp_path / "source")
    settings = ModelSettings(pretrained=tmp_path / "source", min_pixels=28 * 28, max_pixels=56 * 56)
    model.adopt(settings, tmp_path / "mine")
    assert (tmp_path / "mine" / "model.safetensors").is_symlink()
    assert model.load_processor(tmp_path / "mine").image_processor.size["longest_edge"] == 56 * 56
    assert model.load(tmp_path / "mine").config.model_type == "qwen2_5_vl"
    with pytest.raises(UserError, match="family: qwen3_vl"):
        model.adopt(settings.model_copy(update={"family": "qwen3_vl"}), tmp_path / "other")


def test_batches_must_divide_among_ranks() -> None:
    settings = DeepSpeedSettings(steps=1, micro_batch=4, global_batch=32)
    settings.check_batches(2)
    with pytest.raises(ValueError, match="not a multiple"):
        settings.check_batches(3)
    with pytest.raises(ValueError, match="not a multiple"):
        settings.check_batches(16)
    settings.model_copy(update={"micro_batch_tokens": 4096}).check_batches(16)
    with pytest.raises(ValueError, match="either epochs or steps"):
        DeepSpeedSettings()


def test_ranks_that_share_rows_must_fit() -> None:
    shared = {"steps": 1, "global_batch": 8, "micro_batch_tokens": 4096, "sequence_parallel": 4}
    settings = DeepSpeedSettings.model_validate(shared)
    settings.check_batches(32)  # eight groups, a sample for each
    with pytest.raises(ValueError, match="sequence_parallel 4 does not divide the 6 ranks"):
        settings.check_batches(6)
    with pytest.raises(ValueError, match="global_batch 8 is not a multiple of micro_batch 1 x 16 ranks"):
        settings.check_batches(64)
    with pytest.raises(ValueError, match="give micro_batch_tokens"):
        DeepSpeedSettings.model_validate(shared | {"micro_batch_tokens": None})
    for kind, refuse in (("align", AlignSettings), ("grpo", GrpoSettings)):
        with pytest.raises(ValueError, match=f"sequence_parallel is for kind sft; {kind}"):
            refuse.model_validate({"deepspeed": shared})


def test_an_adapter_trains_alone_or_beside_other_components() -> None:
    length = {"deepspeed": {"steps": 1}}
    with pytest.raises(ValueError, match="belong together"):
        SftSettings.model_validate({"trainable": ["merger"], "lora": {}, **length})
    with pytest.raises(ValueError, match="language model stays frozen"):
        SftSettings.model_validate({"trainable": ["language_model", "lora"], "lora": {}, **length})
    assert SftSettings.model_validate({"trainable": ["lora", "merger"], "lora": {}, **length}).lora
    with pytest.raises(ValueError, match="dropout must be 0"):
        GrpoSettings.model_validate({"trainable": ["lora"], "lora": {"dropout": 0.1}})


@pytest.mark.parametrize(
    ("trainable", "kl_coef", "own"),
    [(["lora"], 0.05, False), (["lora", "merger"], 0.05, True), (["language_model"], 0.05, True), (["lora"], 0, False)],
)
def test_a_reference_is_a_model_of_its_own_unless_it_is_the_base_of_the_adapter(
    trainable: list[str], kl_coef: float, own: bool
) -> None:
    adapter: dict[str, Any] = {"lora": {}} if "lora" in trainable else {}
    settings = GrpoSettings.model_validate({"trainable": trainable, "kl_coef": kl_coef, **adapter})
    assert settings.own_reference == own


def test_flash_attention_where_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    from diagcot.training.families import FAMILIES
    from diagcot.training.models import attention

    qwen, gemma = FAMILIES["qwen2_5_vl"], FAMILIES["gemma3"]
    there, card = {"flash_attn"}, [True]
    monkeypatch.setattr(attention.torch.cuda, "is_available", lambda: card[0])
    monkeypatch.setattr(attention, "find_spec", lambda name: name in there or None)
    assert [attention.implementation(qwen, precision) for precision in ("bf16", "fp32")] == [
        "flash_attention_2",
        "by_sequence",
    ]
    assert attention.implementation(gemma, "bf16") == "sdpa"  # FlashAttention takes no mask
    there.clear()
    assert attention.implementation(qwen, "bf16") == "by_sequence"
    card[0] = False
    assert attention.implementation(qwen, "bf16") == "by_sequence"


def test_the_contrastive_loss_keeps_reports_as_they_are() -> None:
    settings = {"trainable": ["merger", "language_model"], "deepspeed": {"steps": 1}}
    AlignSettings.model_validate(settings)
    with pytest.raises(ValueError, match="embeds reports once"):
        AlignSettings.model_validate({**settings, "loss": "combined"})
    with pytest.raises(ValueError, match="equally many pairs"):
        AlignSettings.model_validate({"deepspeed": {"steps": 1, "micro_batch_tokens": 99}, "loss": "contrastive"})
