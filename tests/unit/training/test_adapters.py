"""Variants of LoRA: what servers get is what peft computes, and QLoRA packs the language model's projections alone."""

import importlib.metadata
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from diagcot.jobs import UserError
from diagcot.training.config.grpo_settings import GrpoSettings
from diagcot.training.config.settings import LoraSettings, ModelSettings, SftSettings
from diagcot.training.cost import shape_of
from tests.training import images

SMALL = {"hidden": 64, "layers": 2, "intermediate": 64, "vision_hidden": 32, "vocabulary": 400}
VARIANTS: list[dict[str, Any]] = [{}, {"use_rslora": True}, {"use_dora": True}]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diagcot.training.models import tiny

    folder = tmp_path_factory.mktemp("adapters") / "base"
    texts = [text for sample in images.samples(8) for _, text in sample.messages]
    tiny.build(ModelSettings.model_validate({"tiny": SMALL}), texts, folder)
    return folder


@pytest.mark.parametrize("changes", VARIANTS, ids=["lora", "rslora", "dora"])
def test_servers_get_the_sum_that_peft_computes(base: Path, changes: dict[str, Any]) -> None:
    import torch

    from diagcot.training.models import lora, model

    torch.manual_seed(3)
    settings = LoraSettings(rank=4, alpha=16, **changes)
    network = lora.add_adapter(model.load(base), settings)
    own = {name: parameter for name, parameter in network.named_parameters() if "lora_" in name}
    for name, parameter in own.items():
        parameter.data += torch.randn_like(parameter) * (0.1 if "magnitude" not in name else 0.5)
    assert sum(parameter.numel() for parameter in own.values()) == shape_of(
        ModelSettings.model_validate({"tiny": SMALL})
    ).lora(settings)
    weights = {weight.name: weight for weight in lora.served_weights(network)}
    ours = lora.merged(network)
    assert ours is not None and {name: tuple(value.shape) for name, value in ours.items()} == {
        name: weight.shape for name, weight in weights.items()
    }
    theirs = network.merge_and_unload().state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, atol=1e-6, rtol=1e-5)


def test_rslora_scales_by_the_root_of_the_rank(base: Path) -> None:
    from diagcot.training.models import lora, model

    network = lora.add_adapter(model.load(base), LoraSettings(rank=4, alpha=16, use_rslora=True))
    assert {layer.scaling["default"] for layer in lora._layers(network).values()} == {8.0}


def test_qlora_packs_the_projections_of_the_language_model_alone(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By transformers' own configuration and rules; the package itself packs on GPUs."""
    from torch import nn
    from transformers.quantizers.auto import AutoHfQuantizer
    from transformers.quantizers.quantizers_utils import should_convert_module

    from diagcot.training.families import FAMILIES
    from diagcot.training.models import model

    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.50.2" if name == "bitsandbytes" else real(name))
    config = model.quantization(FAMILIES["qwen2_5_vl"])
    assert config.quantization_method() == "nf4" and config.bnb_4bit_use_double_quant
    network = model.load(base)
    kept = AutoHfQuantizer.from_config(config).get_modules_to_not_convert(
        network, config.llm_int8_skip_modules, network._keep_in_fp32_modules
    )
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    packed = {name for name in linear if should_convert_module(name, kept)}
    assert packed == {name for name in linear if ".language_model.layers." in name} and len(packed) == 2 * 7


def test_what_bitsandbytes_packs_trains_and_is_served_as_it_is(base: Path) -> None:
    pytest.importorskip("bitsandbytes")
    import torch

    from diagcot.training.data.collator import Collator
    from diagcot.training.losses import language
    from diagcot.training.models import freeze, lora, model

    network = lora.add_adapter(model.load(base, "bf16", four_bits=True), LoraSettings(rank=4))
    for name, parameter in network.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(0, 0.1)
    collator = Collator(model.load_processor(base), base, 4096, source=images.DrawnImages())
    batch = collator(images.samples(2))
    inputs = language.model_inputs(batch)
    language.summed_loss(network, inputs, batch["labels"]).backward()
    assert all(parameter.grad is not None for name, parameter in network.named_parameters() if "lora_B" in name)
    plain = model.load(base, "bf16")
    adapter = sum(parameter.numel() for name, parameter in network.named_parameters() if "lora_" in name)
    assert freeze.describe(network)["parameters"] == freeze.describe(plain)["parameters"] + adapter
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    served = {weight.name: weight for weight in lora.served_weights(network)}
    assert served.keys() == before.keys()
    for name, weight in served.items():
        assert (weight.shape, weight.dtype) == (tuple(before[name].shape), torch.bfloat16), name
    plain.load_state_dict(lora.merged(network))
    with torch.no_grad():
        ours, theirs = (some.eval()(**inputs).logits.float() for some in (plain, network))
    assert float((ours - theirs).abs().max()) < 0.05 * float(theirs.abs().max())


def test_an_export_gathers_nothing_of_the_frozen_base(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where ZeRO-3 divides a model of 32B, gathering it all would move 67 GB for an adapter of 134 MB."""
    import contextlib
    from types import SimpleNamespace

    import deepspeed

    from diagcot.training.config.settings import FreezePolicy
    from diagcot.training.distributed import engine
    from diagcot.training.models import freeze, lora, model

    network = lora.add_adapter(model.load(base), LoraSettings(rank=4))
    freeze.freeze(network, FreezePolicy(trainable=("lora", "merger")))
    gathered: list[Any] = []

    def gather(parameters: list[Any], enabled: bool) -> Any:
        assert enabled
        gathered.extend(parameters)
        return contextlib.nullcontext()

    monkeypatch.setattr(deepspeed.zero, "GatheredParameters", gather)
    monkeypatch.setattr(engine.dist, "get_rank", lambda: 0)
    divided: Any = SimpleNamespace(module=network, zero_optimization_stage=lambda: 3)
    state = engine.trained_weights(divided)
    trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert state is not None and state.keys() == trained.keys() and 2 * 7 * 2 < len(trained) < 40
    assert {id(parameter) for parameter in gathered} == {id(parameter) for parameter in trained.values()}


@pytest.mark.parametrize("name", ["use_dora", "load_in_4bit"])
def test_adapters_that_read_whole_weights_need_zero_2(name: str) -> None:
    lora = {"rank": 4, name: True}
    common = {"trainable": ["lora"], "lora": lora}
    SftSettings.model_validate({**common, "deepspeed": {"steps": 1, "stage": 2}})
    with pytest.raises(ValidationError, match=rf"lora.{name} reads whole weights .* use stage 2"):
        SftSettings.model_validate({**common, "deepspeed": {"steps": 1, "stage": 3}})
    with pytest.raises(ValidationError, match=rf"lora.{name} reads whole weights"):
        GrpoSettings.model_validate({**common, "deepspeed": {"steps": 1, "global_batch": 8, "stage": 3}})


def test_a_rounded_policy_has_no_unrounded_reference() -> None:
    settings = {"lora": {"load_in_4bit": True}, "deepspeed": {"steps": 1, "global_batch": 8}}
    GrpoSettings.model_validate({**settings, "trainable": ["lora"]})
    GrpoSettings.model_validate({**settings, "trainable": ["lora", "merger"], "kl_coef": 0})
    with pytest.raises(ValidationError, match="load_in_4bit needs trainable"):
        GrpoSettings.model_validate({**settings, "trainable": ["lora", "merger"]})


@pytest.mark.parametrize(
    ("changes", "gpus", "said"),
    [
        (
            {"deepspeed": {"trackers": ["mlflow"]}},
            1,
            r"trackers names mlflow, which .* `pip install diagcot\[trackers\]`",
        ),
        ({"trainable": ["lora"], "lora": {"load_in_4bit": True}}, 0, "needs a GPU"),
        ({"trainable": ["lora"], "lora": {"load_in_4bit": True}}, 1, "needs the package bitsandbytes"),
    ],
)
def test_what_is_not_installed_is_refused_at_plan(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], gpus: int, said: str
) -> None:
    from types import SimpleNamespace

    from launchers import model_size

    monkeypatch.setattr(model_size, "find_spec", lambda name: None)
    deepspeed = {"steps": 1, **changes.pop("deepspeed", {})}
    settings = SftSettings.model_validate({"trainable": ["merger"], **changes, "deepspeed": deepspeed})
    stage: Any = SimpleNamespace(name="sft", settings=settings, inputs={})
    with pytest.raises(UserError, match=rf"stage sft: .*{said}"):
        model_size.check_training(stage, SimpleNamespace(), settings.deepspeed, 1, gpus, settings.lora)
