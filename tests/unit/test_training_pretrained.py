"""A downloaded model is checked before anything is submitted, and linked, not copied."""

import json
from pathlib import Path

import pytest

from diagcot.jobs.errors import UserError
from diagcot.training.pretrained import weights_of
from diagcot.training.settings import DeepSpeedSettings, ModelSettings, SftSettings
from tests.training import films


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
    from diagcot.training import model

    texts = [text for sample in films.samples(8) for _, text in sample.messages]
    model.build(ModelSettings(), texts, tmp_path / "source")
    settings = ModelSettings(pretrained=tmp_path / "source", min_pixels=28 * 28, max_pixels=56 * 56)
    model.adopt(settings, tmp_path / "mine")
    assert (tmp_path / "mine" / "model.safetensors").is_symlink()
    assert model.processor_of(tmp_path / "mine").image_processor.size["longest_edge"] == 56 * 56
    assert model.load(tmp_path / "mine").config.model_type == "qwen2_5_vl"
    with pytest.raises(UserError, match="family: qwen3_vl"):
        model.adopt(settings.model_copy(update={"family": "qwen3_vl"}), tmp_path / "other")


def test_batches_must_divide_among_ranks() -> None:
    settings = DeepSpeedSettings(steps=1, micro_batch=4, global_batch=32)
    assert settings.accumulation(2) == 4
    with pytest.raises(ValueError, match="no multiple"):
        settings.accumulation(3)
    with pytest.raises(ValueError, match="either epochs or steps"):
        DeepSpeedSettings()


def test_lora_excludes_full_training() -> None:
    length = {"deepspeed": {"steps": 1}}
    with pytest.raises(ValueError, match="belong together"):
        SftSettings.model_validate({"trainable": ["merger"], "lora": {}, **length})
    with pytest.raises(ValueError, match="base model stays frozen"):
        SftSettings.model_validate({"trainable": ["merger", "lora"], "lora": {}, **length})
