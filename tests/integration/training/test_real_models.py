"""The published models on the meta device: their own counts are those of our formulas."""

from typing import Any

import pytest

from diagcot.training import cost
from diagcot.training.config.settings import FreezePolicy, LoraSettings
from tests.unit.training.test_cost import QWEN3_VL
from tests.unit.training.test_freeze import QWEN2_5_VL_32B, QWEN2_VL_7B, on_meta

GEMMA3_4B: dict[str, Any] = {  # sizes that are not there are those of transformers
    "text_config": {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "sliding_window": 1024},
    "vision_config": {
        "hidden_size": 1152, "image_size": 896, "intermediate_size": 4304, "num_attention_heads": 16,
        "num_hidden_layers": 27, "patch_size": 14, "vision_use_head": False,
    },
    "mm_tokens_per_image": 256,
}  # fmt: skip
QWEN2_5_05B: dict[str, Any] = {
    "model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
    "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151674,
}  # fmt: skip
INTERNVL3_1B: dict[str, Any] = {
    "text_config": QWEN2_5_05B,
    "vision_config": {"attention_bias": True, "use_mean_pooling": True},
    "tie_word_embeddings": False,
}
LLAVA_ONEVISION_05B: dict[str, Any] = {"text_config": QWEN2_5_05B, "tie_word_embeddings": False}
SMOLVLM_256M: dict[str, Any] = {
    "text_config": {
        "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49280,
    },
    "vision_config": {
        "hidden_size": 768, "image_size": 512, "intermediate_size": 3072, "num_attention_heads": 12,
        "num_hidden_layers": 12, "patch_size": 16,
    },
    "scale_factor": 4,
}  # fmt: skip
MODELS = {
    "qwen2_vl": QWEN2_VL_7B,
    "qwen2_5_vl": QWEN2_5_VL_32B,
    "qwen3_vl": QWEN3_VL,
    "gemma3": GEMMA3_4B,
    "internvl": INTERNVL3_1B,
    "llava_onevision": LLAVA_ONEVISION_05B,
    "idefics3": SMOLVLM_256M,
}


def test_counts_of_gemma_3_4b() -> None:
    assert sum(cost.parse_config({"model_type": "gemma3", **GEMMA3_4B}).counts.values()) == 4_300_079_472


@pytest.mark.parametrize(("family", "config"), MODELS.items())
def test_counts_are_the_models_own(family: str, config: dict[str, Any]) -> None:
    from diagcot.training.models import freeze

    for tied in (False, True) if family in ("qwen3_vl", "gemma3") else (False,):
        config = config | {"tie_word_embeddings": tied}
        model = on_meta(family, config)
        if tied:
            model.tie_weights()
        assert cost.parse_config({"model_type": family, **config}).counts == freeze.counts(model.named_parameters())


def test_lora_of_qwen2_5_vl_32b() -> None:
    from diagcot.training.models import freeze, lora

    network = lora.add_adapter(on_meta("qwen2_5_vl", QWEN2_5_VL_32B), LoraSettings(rank=8, alpha=16))
    policy = FreezePolicy(trainable=("lora",), expect_trainable=67_108_864)
    assert freeze.freeze(network, policy) == {"lora": 67_108_864}
    assert freeze.describe(network)["parameters"] == 33_519_827_200
