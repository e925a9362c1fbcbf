"""Costs of training: counts are those of the models, bytes are those of hand arithmetic, and hours lie around those that
DiagCoT's published runs took (arXiv:2509.06409)."""

import json
from pathlib import Path
from typing import Any

import pytest

from diagcot.console.state import cost as cost_lines
from diagcot.training import cost
from diagcot.training.config.settings import DeepSpeedSettings, LoraSettings, ModelSettings, TinySettings
from diagcot.training.families import FAMILIES
from launchers.chain import open_chain
from tests.unit.training.test_freeze import QWEN2_5_VL_7B, QWEN2_5_VL_32B, QWEN2_VL_7B

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
SEVEN = cost.parse_config({"model_type": "qwen2_vl", **QWEN2_VL_7B})
THIRTY_TWO = cost.parse_config({"model_type": "qwen2_5_vl", **QWEN2_5_VL_32B})


def test_counts_of_the_paper() -> None:
    assert SEVEN.counts["merger"] == 44_575_744 and sum(SEVEN.counts.values()) == 8_291_375_616
    assert SEVEN.counts["merger"] + SEVEN.counts["language_model"] == 7_115_194_880
    assert THIRTY_TWO.lora(LoraSettings()) == 67_108_864
    flat = {"model_type": "qwen2_vl", **QWEN2_VL_7B["text_config"], "vision_config": {}}  # as first published
    assert cost.parse_config(flat) == SEVEN


@pytest.mark.parametrize("family", FAMILIES)
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
        made = AutoModelForImageTextToText.from_config(tiny.configuration(settings, Tokenizer()))
    assert cost.shape_of(settings).counts == freeze.counts(made.named_parameters())


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
    load = cost.Workload(752, tokens - 752, learned, samples)
    settings = DeepSpeedSettings(steps=1, gradient_checkpointing=True, stage=3, micro_batch=4)
    made = cost.estimate(model, trainable, lora, settings, load, ranks=2)
    assert made.sound is not None and made.modest is not None
    taken = 2 * hours
    assert made.sound * cost.HIGH_UTILISATION / taken == pytest.approx(found, abs=0.002)
    assert made.modest / taken == pytest.approx({"align": 0.84, "teacher": 1.84, "cot-sft": 0.67}[run[0]], abs=0.01)
    assert made.sound < taken
    assert made.memory < 80e9  # they ran on GPUs of 80 GB


def test_memory_follows_what_divides_it() -> None:
    load = cost.Workload(752, 175, 160)

    def needed(ranks: int = 8, trainable: tuple[str, ...] = ("language_model", "merger"), **changes: Any) -> float:
        settings = DeepSpeedSettings(steps=1, **{"micro_batch": 2, "gradient_checkpointing": True} | changes)
        return cost.estimate(SEVEN, trainable, None, settings, load, ranks).memory

    assert needed() == pytest.approx(
        16.6e9 + 7.1e9 * 14 / 8 + cost.BASE_BYTES, rel=0.25
    )  # weights whole, the rest shared
    assert needed(stage=3) < needed() - 10e9  # the weights are shared too
    assert needed(stage=3, offload=True) < needed(stage=3) - 10e9
    assert needed(ranks=16) < needed() < needed(micro_batch=8) < needed(micro_batch=8, gradient_checkpointing=False)
    assert needed(trainable=("merger",)) < 30e9
    assert needed(ranks=1, precision="fp32") > 2 * needed(ranks=2) - 20e9


def memory(settings: DeepSpeedSettings, ranks: int = 8, adapter: int = 0, **load: Any) -> cost.GpuMemory:
    trainable = set() if adapter else {"language_model", "merger"}
    return cost.gpu_memory(SEVEN, trainable, adapter, settings, cost.Workload(752, 1124, 1024, **load), ranks)


def test_variants_of_an_adapter_change_what_is_held() -> None:
    plain, dora = (SEVEN.lora(LoraSettings(rank=8, use_dora=value)) for value in (False, True))
    assert dora - plain == 28 * (3584 + 2 * 512 + 3584 + 2 * 18944 + 3584)  # the rows of a layer's projections
    load = cost.Workload(752, 1124, 1024)

    def weights(**changes: Any) -> float:
        settings = DeepSpeedSettings(steps=1, gradient_checkpointing=True)
        found = cost.estimate(SEVEN, (), LoraSettings(rank=8, **changes), settings, load, 8)
        return found.budget["training"]["weights"]

    packed = 28 * (2 * 3584 * 3584 + 2 * 3584 * 512 + 3 * 3584 * 18944)
    assert weights() - weights(load_in_4bit=True) == pytest.approx(packed * (2 - 4.127 / 8), rel=1e-3)


BF16 = DeepSpeedSettings(steps=1, gradient_checkpointing=True, micro_batch=1)
ZERO3 = BF16.model_copy(update={"stage": 3})


def test_memory_by_hand() -> None:
    """8,291,375,616 parameters of which 7,115,194,880 train, on 8 GPUs, one sequence of 752 + 1,124 tokens."""
    found = memory(BF16)
    assert found.weights == 8_291_375_616 * 2 and found.reference == 0
    assert found.gradients == 7_115_194_880 * 2 / 8
    assert found.optimizer == 7_115_194_880 * 12 / 8
    assert found.logits == 256 * 152_064 * 8
    # hidden 3584, 4 key and value heads of 128, intermediate 18944; 28 layers keep their input, one is computed again
    # with two gradients of the MLP's width
    language = 1876 * (28 * 3584 + 6 * 3584 + 2 * 4 * 128 + 5 * 18944) * 2
    vision = 4 * 752 * (6 * 1280 + 3 * 5120) * 2
    assert found.activations == language + vision
    assert found.gathered == 0
    assert found.total == sum(
        (found.weights, found.gradients, found.optimizer, found.logits, found.activations, cost.BASE_BYTES)
    )


def test_ranks_that_share_rows_hold_a_part_of_the_text() -> None:
    packed = BF16.model_copy(update={"micro_batch_tokens": 8 * 1876})
    one, four = (memory(packed.model_copy(update={"sequence_parallel": ranks})) for ranks in (1, 4))
    of_images = 8 * 4 * 752 * (6 * 1280 + 3 * 5120) * 2  # patches: each rank embeds all of them
    assert four.activations - of_images == pytest.approx((one.activations - of_images) / 4)
    assert four.weights == one.weights


def test_a_reference_is_divided_among_the_gpus_whatever_divides_the_policy() -> None:
    for ranks in (8, 64):
        for settings in (BF16, ZERO3):
            found, alone = memory(settings, ranks, reference=True), memory(settings, ranks)
            assert found.reference == 8_291_375_616 * 2 / ranks and found.weights == alone.weights
            assert found.gathered == 2 * 152_064 * 3584 * 2  # its embeddings and the layer after them
            assert alone.gathered == (found.gathered if settings.stage == 3 else 0)
    fp32 = BF16.model_copy(update={"precision": "fp32"})
    alone = memory(fp32, ranks=1, reference=True)  # whole on the only one
    assert (alone.reference, alone.gathered) == (8_291_375_616 * 4, 0)


def test_a_budget_has_what_is_held_at_each_moment() -> None:
    trained, awake = memory(ZERO3, reference=True), cost.Engine(48e9)
    assert cost.budget(trained, None) == {"training": trained.parts}
    found = cost.budget(trained, awake)
    assert found["training"] == trained.parts | {"sleeping_engine": cost.ASLEEP_BYTES}
    assert found["rollouts"] == {
        name: getattr(trained, name) for name in ("weights", "reference", "gradients", "optimizer", "tower", "base")
    } | {"awake_engine": 48e9}
    ahead = cost.budget(trained, cost.Engine(48e9, sleeps=False))  # it rolls out while the policy trains
    assert ahead["training"] == trained.parts | {"awake_engine": 48e9}


def test_an_adapter_is_what_trains() -> None:
    adapter = SEVEN.lora(LoraSettings())
    found = memory(BF16, adapter=adapter)
    assert found.weights == (8_291_375_616 + adapter) * 2
    assert (found.gradients, found.optimizer) == (adapter * 2 / 8, adapter * 12 / 8)


@pytest.mark.parametrize(
    ("change", "reference", "passes"),
    [({"kl_coef": 0.0}, 0, 1), ({"kl_coef": 0.05}, 1, 2), ({"deepspeed": {"global_batch": 32}}, 1, 1)],
)
def test_the_estimate_of_grpo_counts_the_reference_model(
    change: dict[str, Any], reference: int, passes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """32 rollouts a step, four updates of 8, or one of 32, for which the policy is not scored beforehand."""
    models(tmp_path, monkeypatch)
    extension = {"name": "mine", "extends": "diagcot-7b", "change": {"grpo": {"settings": change}}}
    (tmp_path / "mine.yaml").write_text(json.dumps(extension))
    chain = open_chain(str(tmp_path / "mine.yaml"), "example", None)
    found = chain.estimates()["grpo"]
    settings, trainable = chain.stage("grpo").settings.deepspeed, {"language_model", "lm_head"}
    load = cost.Workload(752, 1124, 1024, 400 * 32, passes, bool(reference))
    by_hand = cost.gpu_memory(SEVEN, trainable, 0, settings, load, 8)
    budget = cost.budget(by_hand, cost.Engine(0.6 * 80e9))
    assert found["budget"] == budget and by_hand.reference == reference * by_hand.weights
    assert found["memory"] == sum(budget["rollouts"].values()) > sum(budget["training"].values())
    assert (
        by_hand.logits == 256 * 152_064 * 8 + 152_064 * 3584 * 6
    )  # a chunk; the trained head's gradient in fp32 and bf16
    flops = cost.sequence_flops(SEVEN, trainable, found["trained"], load)
    assert found["sound"] == pytest.approx(400 * 32 * flops / 312e12 / 3600 / 0.35)


def models(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Configurations of the recipe's models, without weights."""
    for name, family, config in (
        ("Qwen2-VL-7B-Instruct", "qwen2_vl", QWEN2_VL_7B),
        ("Qwen2.5-VL-32B-Instruct", "qwen2_5_vl", QWEN2_5_VL_32B),
        ("Qwen2.5-VL-7B-Instruct", "qwen2_5_vl", QWEN2_5_VL_7B),
    ):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps({"model_type": family, **config}))
    monkeypatch.setenv("MODELS_DIR", str(folder))


def test_a_recipe_is_estimated_before_and_compared_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published alignment: 206,716,352 tokens."""
    models(tmp_path, monkeypatch)
    chain = open_chain("diagcot-7b", "example", None)
    found = chain.estimates()
    assert set(found) == {"align", "teacher-lora", "cot-sft", "grpo"}
    assert found["align"]["tokens"] == pytest.approx(206_716_352, rel=0.001)
    assert found["cot-sft"]["tokens"] == pytest.approx(2 * 9_095 * 1_510, rel=0.002)
    assert [found[name]["trained"] for name in ("align", "teacher-lora", "cot-sft")] == [
        44_575_744, 67_108_864, 7_115_194_880,
    ]  # fmt: skip
    assert json.loads(chain.pipeline.keep["estimates.json"]) == found
    lines = list(cost_lines.planned(found))
    begin = (
        "align: 8.29 billion parameters, 44.6 million of them trained; about 22 GB per GPU with ZeRO-2; 16.2 to 80.8"
    )
    assert lines[0].startswith(begin)
    assert lines[1] == "align: ZeRO-3 would take 10 GB and gather the weights in every pass"
    assert "teacher-lora: ZeRO-2 would take 79 GB, too much for a GPU of 80 GB" in lines
    assert [line for line in lines if line.startswith("grpo: ") and " of a GPU " in line] == [
        "grpo: 31 GB of a GPU while it trains: policy 2.1, reference 2.1, gradients 1.9, optimizer 11.4, gathered layers 2.2,"
        " activations 1.0, logits 3.6, vision tower 1.4, CUDA and NCCL 3.0, sleeping engine 2.0",
        "grpo: 70 GB of a GPU while it rolls out: policy 2.1, reference 2.1, gradients 1.9, optimizer 11.4, vision tower 1.4,"
        " CUDA and NCCL 3.0,"
        " awake engine 48.0",
    ]
    monkeypatch.delenv("MODELS_DIR")
    assert open_chain("diagcot-7b", "example", None).estimates() == {}  # no model to look at, no estimate

    (tmp_path / "estimates.json").write_text(json.dumps(found))
    (tmp_path / "align").mkdir()
    (tmp_path / "align" / "summary.json").write_text(json.dumps({"state": "done", "counts": {"gpu_memory_gb": 11.04}}))
    assert list(cost_lines.compared(tmp_path, {"align": 31.26, "shard": 2.0})) == [
        "align took 31.3 GPU-hours; estimated: 16.2 to 80.8 GPU-hours for 206.8 million tokens; 11 GB per GPU,"
        " estimated 22 GB"
    ]


def test_a_plan_warns_of_a_gpu_that_would_be_too_full_and_of_weights_that_are_divided_in_vain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models(tmp_path, monkeypatch)
    change = {"grpo": {"settings": {"deepspeed": {"stage": 2}}}, "align": {"settings": {"deepspeed": {"stage": 3}}}}
    (tmp_path / "mine.yaml").write_text(json.dumps({"name": "mine", "extends": "diagcot-7b", "change": change}))
    lines = list(cost_lines.planned(open_chain(str(tmp_path / "mine.yaml"), "example", None).estimates()))
    (warning,) = [line for line in lines if line.startswith("!")]
    assert (
        warning.startswith("! grpo: 83 GB of a GPU while it rolls out: policy 16.6,")
        and "more than the 80 GB" in warning
    )
    fits = "align: ZeRO-2 would take 22 GB, which fits a GPU of 80 GB, and gather no weights: `deepspeed: {stage: 2}`"
    assert fits in lines


RECIPES = Path(__file__).resolve().parents[3] / "recipes"


@pytest.mark.parametrize("recipe", [*sorted(path.stem for path in RECIPES.glob("diagcot-*.yaml")), "cx-mind-7b"])
def test_the_recipes_divide_weights_only_where_they_must(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every stage of the shipped recipes on the example cluster fits its GPUs, and no simpler ZeRO stage would."""
    models(tmp_path, monkeypatch)
    for stage, row in open_chain(recipe, "example", None).estimates().items():
        assert row["memory"] <= cost.GPU_BYTES, stage
        assert row["zero"] == 2 or row["other_zero_memory"] > 0.9 * cost.GPU_BYTES, stage
