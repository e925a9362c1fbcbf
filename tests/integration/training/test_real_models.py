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
MODELS = {"qwen2_vl": QWEN2_VL_7B, "qwen2_5_vl": QWEN2_5_VL_32B, "qwen3_vl": QWEN3_VL, "gemma3": GEMMA3_4B}


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
