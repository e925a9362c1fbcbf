"""Trainable parameters of the real models, counted on the meta device from their published configurations."""

from typing import Any

import pytest

from diagcot.training.config.settings import FreezePolicy

QWEN2_VL_7B: dict[str, Any] = {
    "text_config": {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    },
    "vision_config": {"depth": 32, "embed_dim": 1280, "hidden_size": 3584, "mlp_ratio": 4, "num_heads": 16},
    "tie_word_embeddings": False,
}
QWEN2_5_VL_32B: dict[str, Any] = {
    "text_config": {
        "vocab_size": 152064,
        "hidden_size": 5120,
        "intermediate_size": 27648,
        "num_hidden_layers": 64,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    },
    "vision_config": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3456,
        "num_heads": 16,
        "out_hidden_size": 5120,
        "fullatt_block_indexes": [7, 15, 23, 31],
    },
    "tie_word_embeddings": False,
}

QWEN2_5_VL_7B: dict[str, Any] = {
    "text_config": QWEN2_VL_7B["text_config"],
    "vision_config": QWEN2_5_VL_32B["vision_config"] | {"intermediate_size": 3420, "out_hidden_size": 3584},
    "tie_word_embeddings": False,
}


def on_meta(family: str, config: dict[str, Any]) -> Any:
    from diagcot.training.distributed import library_setup

    library_setup.configure()
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(AutoConfig.for_model(family, **config))


@pytest.fixture(scope="module")
def qwen2_vl_7b() -> Any:
    return on_meta("qwen2_vl", QWEN2_VL_7B)


def test_merger_of_qwen2_vl_7b(qwen2_vl_7b: Any) -> None:
    from diagcot.training.models import freeze

    policy = FreezePolicy(trainable=("merger",), expect_trainable=44_575_744)
    assert freeze.freeze(qwen2_vl_7b, policy) == {"merger": 44_575_744}
    assert freeze.describe(qwen2_vl_7b)["parameters"] == 8_291_375_616


def test_language_model_and_merger_of_qwen2_vl_7b(qwen2_vl_7b: Any) -> None:
    from diagcot.training.models import freeze

    policy = FreezePolicy(trainable=("language_model", "merger"), expect_trainable=7_115_194_880)
    assert sum(freeze.freeze(qwen2_vl_7b, policy).values()) == 7_115_194_880
    assert not qwen2_vl_7b.lm_head.weight.requires_grad


def test_wrong_count_names_what_would_train(qwen2_vl_7b: Any) -> None:
    from diagcot.training.models import freeze

    with pytest.raises(ValueError, match=r"merger 44,575,744.*expects 7"):
        freeze.freeze(qwen2_vl_7b, FreezePolicy(trainable=("merger",), expect_trainable=7))


def test_component_that_is_not_there(qwen2_vl_7b: Any) -> None:
    from diagcot.training.models import freeze

    with pytest.raises(ValueError, match="has no lora"):
        freeze.freeze(qwen2_vl_7b, FreezePolicy(trainable=("lora",)))


def test_tied_embeddings_train_with_the_head_or_not_at_all() -> None:
    from diagcot.training.models import freeze

    text = QWEN2_VL_7B["text_config"] | {"num_hidden_layers": 1, "tie_word_embeddings": True}
    tied = on_meta("qwen2_vl", QWEN2_VL_7B | {"text_config": text, "tie_word_embeddings": True})
    for alone in (("language_model",), ("merger", "lm_head")):
        with pytest.raises(ValueError, match="name both"):
            freeze.freeze(tied, FreezePolicy(trainable=alone))
    assert freeze.freeze(tied, FreezePolicy(trainable=("merger",))).keys() == {"merger"}
    assert not tied.lm_head.weight.requires_grad
    both = freeze.freeze(tied, FreezePolicy(trainable=("language_model", "lm_head")))
    assert both.keys() == {"language_model"} and tied.lm_head.weight.requires_grad


@pytest.mark.parametrize(
    ("name", "component"),
    [
        ("model.visual.blocks.0.mlp.fc1.weight", "vision"),
        ("model.visual.deepstack_merger_list.1.norm.weight", "merger"),
        ("visual.merger.ln_q.weight", "merger"),
        ("model.language_model.embed_tokens.weight", "language_model"),
        ("lm_head.weight", "lm_head"),
        ("base_model.model.model.language_model.layers.0.mlp.up_proj.lora_A.default.weight", "lora"),
        ("base_model.model.model.language_model.layers.0.mlp.up_proj.base_layer.weight", "language_model"),
    ],
)
def test_component_of(name: str, component: str) -> None:
    from diagcot.training.models import freeze

    assert freeze.component_of(name) == component


def test_unknown_name_is_refused() -> None:
    from diagcot.training.models import freeze

    with pytest.raises(ValueError, match="no known component"):
        freeze.component_of("model.audio_tower.weight")
