"""The published models on the meta device: their own counts are those of our formulas."""

from typing import Any

import pytest

from diagcot.training import cost
from diagcot.training.config.settings import FreezePolicy, LoraSettings
from tests.unit.training.test_cost import QWEN3_VL
from tests.unit.training.test_freeze import QWEN2_5_VL_32B, QWEN2_VL_7B, on_meta


@pytest.mark.parametrize(
    ("family", "config"), [("qwen2_vl", QWEN2_VL_7B), ("qwen2_5_vl", QWEN2_5_VL_32B), ("qwen3_vl", QWEN3_VL)]
)
def test_counts_are_the_models_own(family: str, config: dict[str, Any]) -> None:
    from diagcot.training.models import freeze

    for tied in (False, True) if family == "qwen3_vl" else (False,):
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
