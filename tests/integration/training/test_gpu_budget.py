"""The budget of a GPU in GRPO against the real modules and optimiser on the meta device, which has sizes and no data."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from diagcot.training import cost
from diagcot.training.config.settings import DeepSpeedSettings
from diagcot.training.losses import logprobs
from diagcot.training.models import freeze, lora
from launchers.chain import Chain, open_chain
from tests.integration.training.test_loss_memory import Live
from tests.unit.training.test_cost import models
from tests.unit.training.test_freeze import QWEN2_5_VL_7B, QWEN2_5_VL_32B, QWEN2_VL_7B, on_meta

ROOT = Path(__file__).resolve().parents[3]
RANKS = 8
LARGE = {
    "model": {"settings": {"family": "qwen2_5_vl", "pretrained": "$MODELS_DIR/Qwen2.5-VL-32B-Instruct"}},
    "grpo": {
        "settings": {"trainable": ["lora"], "lora": {}, "server": {"tensor_parallel": 8, "gpu_memory_utilization": 0.6}}
    },
}
CASES = {
    "diagcot-7b": ("grpo", "qwen2_vl", QWEN2_VL_7B, {}),
    "cx-mind-7b": ("grpo-closed", "qwen2_5_vl", QWEN2_5_VL_7B, {}),
    "32b": ("grpo", "qwen2_5_vl", QWEN2_5_VL_32B, LARGE),
}


def chain_of(case: str, folder: Path) -> Chain:
    """The recipe on one node of 8 GPUs of 80 GB; 32b is diagcot-7b with a larger policy and an adapter."""
    example = (ROOT / "slurm/clusters/example.yaml").read_text()
    one = "  grpo: {nodes: 1}\n  grpo-closed: {nodes: 1}\n  grpo-open: {nodes: 1}"
    (folder / "one.yaml").write_text(example.replace("  grpo: {nodes: 1}", one))
    name = case if (ROOT / "recipes" / f"{case}.yaml").is_file() else "diagcot-7b"
    recipe = {"name": "mine", "extends": name, "change": CASES[case][3]}
    (folder / "mine.yaml").write_text(json.dumps(recipe))
    return open_chain(str(folder / "mine.yaml"), str(folder / "one.yaml"), None)


def part(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What a rank holds of a tensor that ZeRO divides: each parameter is padded to a multiple of the ranks."""
    return torch.empty(-(-tensor.numel() // RANKS), dtype=dtype, device="meta")


def size(tensors: Any) -> int:
    return sum(tensor.nbytes for tensor in tensors)


@pytest.mark.parametrize("case", CASES)
def test_states_are_those_of_the_real_model_and_optimiser(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models(tmp_path, monkeypatch)
    stage, family, config, _ = CASES[case]
    chain = chain_of(case, tmp_path)
    settings, row = chain.stage(stage).settings, chain.estimates()[stage]
    assert chain.resources(stage).ranks == RANKS and settings.deepspeed.stage == 3
    network = on_meta(family, config)
    base = [part(parameter, torch.bfloat16) for parameter in network.parameters()]
    if settings.lora:
        network = lora.add_adapter(network, settings.lora)
    freeze.freeze(network, settings)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    masters = [part(parameter, torch.float32).requires_grad_() for parameter in trained]
    optimizer = torch.optim.AdamW(masters, foreach=True)
    for master in masters:
        master.grad = torch.empty_like(master)
    optimizer.step()
    moments = [value for state in optimizer.state.values() for name, value in state.items() if name != "step"]
    words = network.get_input_embeddings().weight
    layer = network.get_base_model() if settings.lora else network
    layers = size(layer.model.language_model.layers[0].parameters()) // words.element_size() * 2
    real = {
        "weights": size(part(parameter, torch.bfloat16) for parameter in network.parameters()),
        "gradients": size(part(parameter, torch.bfloat16) for parameter in trained),
        "optimizer": size(masters) + size(moments),
    } | ({"reference": size(base)} if settings.own_reference else {})
    if "vision" not in settings.trainable:
        real["tower"] = size(layer.model.visual.parameters()) // words.element_size() * 2
    assert ("tower" in real) == (case != "cx-mind-7b")
    assert settings.own_reference == (settings.lora is None)
    for name, expected in real.items():
        assert row["budget"]["rollouts"][name] == pytest.approx(expected, rel=0.001), name
    gathered = words.numel() * 2 + layers  # the embeddings and the first layer
    assert gathered <= row["budget"]["training"]["gathered"] <= 1.5 * gathered
    rest = {"base": cost.BASE_BYTES, "awake_engine": settings.server.gpu_memory_utilization * cost.GPU_BYTES}
    assert sum(row["budget"]["rollouts"].values()) == pytest.approx(sum(real.values()) + sum(rest.values()), rel=0.001)
    assert row["memory"] <= cost.GPU_BYTES


def test_a_policy_of_32b_that_trains_whole_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models(tmp_path, monkeypatch)
    whole = {"trainable": ["language_model", "lm_head"], "lora": None}
    monkeypatch.setitem(CASES, "32b", (*CASES["32b"][:3], {**LARGE, "grpo": {"settings": whole}}))
    parts = chain_of("32b", tmp_path).estimates()["grpo"]["budget"]["rollouts"]
    assert parts["optimizer"] > 45e9 and sum(parts.values()) > 1.3 * cost.GPU_BYTES


class KeepsNoMatrix(torch.autograd.Function):
    """What FlashAttention keeps for its backward pass: query, key, value, output, and a number for each query."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        output = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, output, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])


class Text(torch.nn.Module):
    """Language model and output head of a vision-language model."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def get_output_embeddings(self) -> Any:
        return self.network.lm_head

    def forward(self, inputs_embeds: torch.Tensor, position_ids: torch.Tensor, logits_to_keep: int) -> Any:
        from transformers.modeling_outputs import CausalLMOutput

        hidden = self.network.model.language_model(
            inputs_embeds=inputs_embeds, position_ids=position_ids, use_cache=False
        ).last_hidden_state
        return CausalLMOutput(logits=self.network.lm_head(hidden[:, -logits_to_keep:]))


@pytest.mark.parametrize("checkpointing", [True, False], ids=["checkpointing", "plain"])
@pytest.mark.parametrize(("family", "whole"), [("qwen2_vl", QWEN2_VL_7B), ("qwen2_5_vl", QWEN2_5_VL_32B)])
def test_activations_and_logits_are_those_of_a_real_pass(
    family: str, whole: dict[str, Any], checkpointing: bool
) -> None:
    """Forward and backward pass of the published widths, with fewer layers, over a sequence of diagcot-7b's rollouts."""
    from transformers import AttentionInterface, AttentionMaskInterface

    def attention(
        module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **_: Any
    ) -> tuple[torch.Tensor, None]:
        return KeepsNoMatrix.apply(query, key, value).transpose(1, 2).contiguous(), None

    AttentionInterface.register("keeps_no_matrix", attention)
    AttentionMaskInterface.register("keeps_no_matrix", lambda *_, **__: None)
    layers = 6
    config = whole | {"text_config": whole["text_config"] | {"num_hidden_layers": layers}}
    network = on_meta(family, config).to(torch.bfloat16).train().requires_grad_(False)
    network.set_attn_implementation("keeps_no_matrix")
    if checkpointing:
        network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    tokens, learned, hidden = 1876, 1024, config["text_config"]["hidden_size"]
    live = Live()
    live.sizes |= {parameter.untyped_storage()._cdata: 0 for parameter in network.parameters()}
    with live, torch.device("meta"):
        embedded = torch.empty(1, tokens, hidden, dtype=torch.bfloat16).requires_grad_()
        inputs = {"inputs_embeds": embedded, "position_ids": torch.zeros(3, 1, tokens, dtype=torch.long)}
        targets = torch.zeros(1, learned, dtype=torch.long)
        sampled, _ = logprobs.forward(Text(network), {**inputs, "logits_to_keep": learned + 1}, targets)
        sampled.sum().backward()
    settings = DeepSpeedSettings(steps=1, gradient_checkpointing=checkpointing)
    shape, load = cost.parse_config({"model_type": family, **config}), cost.Workload(0, tokens, learned)
    found = cost.gpu_memory(shape, set(), 0, settings, load, RANKS)
    assert live.peak <= found.activations + found.logits <= 1.4 * live.peak
