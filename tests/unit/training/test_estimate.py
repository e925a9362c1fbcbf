"""Counts by formula are those of the models; estimates beside what DiagCoT's runs took (method.md 3 and 4.3)."""

import json
from pathlib import Path
from typing import Any

import pytest

from diagcot.console.state import cost
from diagcot.training.config.settings import DeepSpeedSettings, LoraSettings, ModelSettings, TinySettings
from diagcot.training.cost import estimate, shape
from launchers.chain import open_chain
from tests.unit.training.test_freeze import QWEN2_5_VL_32B, QWEN2_VL_7B, on_meta

QWEN3_VL: dict[str, Any] = {
    "text_config": {
        "vocab_size": 1000, "hidden_size": 256, "intermediate_size": 640, "num_hidden_layers": 3, "head_dim": 64,
        "num_attention_heads": 4, "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [24, 20, 20]},
    },
    "vision_config": {
        "depth": 5, "hidden_size": 96, "intermediate_size": 200, "num_heads": 4, "out_hidden_size": 256,
        "num_position_embeddings": 64, "deepstack_visual_indexes": [1, 3],
    },
}  # fmt: skip
SEVEN = shape.read({"model_type": "qwen2_vl", **QWEN2_VL_7B})
THIRTY_TWO = shape.read({"model_type": "qwen2_5_vl", **QWEN2_5_VL_32B})


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
        assert shape.read({"model_type": family, **config}).counts == freeze.counts(model.named_parameters())


def test_counts_of_the_paper() -> None:
    assert SEVEN.counts["merger"] == 44_575_744 and sum(SEVEN.counts.values()) == 8_291_375_616
    assert SEVEN.counts["merger"] + SEVEN.counts["language_model"] == 7_115_194_880
    assert THIRTY_TWO.lora(LoraSettings()) == 67_108_864
    flat = {"model_type": "qwen2_vl", **QWEN2_VL_7B["text_config"], "vision_config": {}}  # as first published
    assert shape.read(flat) == SEVEN


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_a_tiny_model_has_the_counts_of_its_settings(family: Any) -> None:
    from diagcot.training.models import freeze, tiny

    class Tokenizer:
        def __len__(self) -> int:
            return 800

        def convert_tokens_to_ids(self, token: str) -> int:
            return 1

    import torch
    from transformers import AutoModelForImageTextToText

    settings = ModelSettings(family=family, tiny=TinySettings(vocabulary=800))
    with torch.device("meta"):
        made = AutoModelForImageTextToText.from_config(tiny.configuration(family, settings.tiny, Tokenizer()))
    assert shape.of(settings).counts == freeze.counts(made.named_parameters())


# name, shape, trainable, LoRA, samples, tokens of a sample, learned ones of them, hours of 2 A800, utilisation found
RUNS = [
    ("align", SEVEN, {"merger"}, None, 223_049, 927, 160, 48.1, 0.059),
    ("teacher", THIRTY_TWO, {"lora"}, LoraSettings(), 1_742 * 128, 950, 160, 94.9, 0.129),
    ("cot-sft", SEVEN, {"language_model", "merger"}, None, 2 * 9_095, 1_510, 700, 11.3, 0.047),
]


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run[0])
def test_published_runs_lie_where_the_estimate_says(run: Any) -> None:
    """Their utilisation, by our count of operations, is that of the last column."""
    _, model, trainable, lora, samples, tokens, learned, hours, found = run
    load = estimate.Load(752, tokens - 752, learned, samples)
    settings = DeepSpeedSettings(steps=1, gradient_checkpointing=True, stage=3, micro_batch=4)
    made = estimate.estimate(model, trainable, lora, settings, load, ranks=2)
    assert made.sound is not None and made.modest is not None
    taken = 2 * hours
    assert made.sound * estimate.SOUND / taken == pytest.approx(found, abs=0.002)
    assert made.modest / taken == pytest.approx({"align": 0.84, "teacher": 1.84, "cot-sft": 0.67}[run[0]], abs=0.01)
    assert made.sound < taken
    assert made.memory < 80e9  # they ran on GPUs of 80 GB


def test_memory_follows_what_divides_it() -> None:
    load = estimate.Load(752, 175, 160)

    def needed(ranks: int = 8, trainable: tuple[str, ...] = ("language_model", "merger"), **changes: Any) -> float:
        settings = DeepSpeedSettings(steps=1, **{"micro_batch": 2, "gradient_checkpointing": True} | changes)
        return estimate.estimate(SEVEN, trainable, None, settings, load, ranks).memory

    assert needed() == pytest.approx(
        16.6e9 + 7.1e9 * 14 / 8 + estimate.BASE, rel=0.25
    )  # weights whole, the rest shared
    assert needed(stage=3) < needed() - 10e9  # the weights are shared too
    assert needed(stage=3, offload=True) < needed(stage=3) - 10e9
    assert needed(ranks=16) < needed() < needed(micro_batch=8) < needed(micro_batch=8, gradient_checkpointing=False)
    assert needed(trainable=("merger",)) < 30e9
    assert needed(ranks=1, precision="fp32") > 2 * needed(ranks=2) - 20e9


def test_a_recipe_is_estimated_before_and_compared_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published alignment: 206,716,352 tokens (method.md 3.1)."""
    for name, family, config in (
        ("Qwen2-VL-7B-Instruct", "qwen2_vl", QWEN2_VL_7B),
        ("Qwen2.5-VL-32B-Instruct", "qwen2_5_vl", QWEN2_5_VL_32B),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"model_type": family, **config}))
    monkeypatch.setenv("MODELS_DIR", str(tmp_path))
    chain = open_chain("diagcot-7b", "example", None)
    found = chain.estimates()
    assert set(found) == {"align", "teacher-lora", "cot-sft", "grpo"}
    assert found["align"]["tokens"] == pytest.approx(206_716_352, rel=0.001)
    assert found["cot-sft"]["tokens"] == pytest.approx(2 * 9_095 * 1_510, rel=0.002)
    assert [found[name]["trained"] for name in ("align", "teacher-lora", "cot-sft")] == [
        44_575_744, 67_108_864, 7_115_194_880,
    ]  # fmt: skip
    assert json.loads(chain.pipeline.keep["estimates.json"]) == found
    lines = list(cost.planned(found))
    assert "align: 8.29 billion parameters, 44.6 million of them trained; about 9 GB on a GPU; 16.2 to 80.8" in lines[0]
    monkeypatch.delenv("MODELS_DIR")
    assert open_chain("diagcot-7b", "example", None).estimates() == {}  # no model to look at, no estimate

    (tmp_path / "estimates.json").write_text(json.dumps(found))
    (tmp_path / "align").mkdir()
    (tmp_path / "align" / "summary.json").write_text(json.dumps({"counts": {"gpu_memory_gb": 11.04}}))
    assert list(cost.compared(tmp_path, {"align": 31.26, "shard": 2.0})) == [
        "align took 31.3 GPU-hours; estimated: 16.2 to 80.8 GPU-hours for 206.8 million tokens; 11 GB on a GPU,"
        " estimated 9 GB"
    ]
