"""Model FLOPs of a training step, and what share of the GPUs' peak they are (MFU)."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from diagcot.training.models.freeze import component_of, size_of

WHOLE = ("vision", "merger", "language_model", "lm_head")

PEAKS = (
    (r"\bB200\b", 2250e12),
    (r"\bH100 PCIe\b", 756e12),
    (r"\bH100 NVL\b", 835e12),
    (r"\b(H100|H200|H800|GH200)\b", 989e12),
    (r"\bH20\b", 148e12),
    (r"\b(A100|A800)\b", 312e12),
    (r"\bA30\b", 165e12),
    (r"\bA40\b", 150e12),
    (r"\bL40S\b", 362e12),
    (r"\bL4\b", 121e12),
)
"""bf16 tensor FLOP/s without sparsity, of NVIDIA's data sheets, by the device's name."""


def peak(device: torch.device, precision: str) -> float | None:
    """FLOP/s of the device at `precision`; None for one that the table does not hold, and for a CPU."""
    if device.type != "cuda" or precision != "bf16":
        return None
    return peak_of(torch.cuda.get_device_name(device))


def peak_of(name: str) -> float | None:
    """bf16 FLOP/s of the GPU of that name, None for one that is not in the table."""
    return next((flops for pattern, flops in PEAKS if re.search(pattern, name)), None)


class Work:
    """FLOPs of one forward and backward pass over a batch.

    After PaLM (Chowdhery et al. 2022, appendix B): 2 a parameter and token forward, 2 backward for the gradient of the
    inputs and 2 for that of the weights, 6 in all; attention 4, 4 and 4 a layer, width and pair of tokens. Left out is
    what is not computed: weight gradients of frozen parameters, and input gradients below all that trains. A vision
    parameter sees every patch, a merger parameter every fourth, the head the tokens whose logits are asked for.
    Recomputation (gradient checkpointing) and attention in the vision tower are not counted: rather too little.
    """

    def __init__(self, module: torch.nn.Module, runs: Sequence[str] = WHOLE) -> None:
        self._sizes = dict.fromkeys(WHOLE, 0)
        self._trained = dict.fromkeys(WHOLE, 0)
        embedding = embedding_trained = 0
        for name, parameter in module.named_parameters():
            try:
                component = component_of(name)
            except ValueError:
                continue  # alignment's temperature is no layer
            component = "language_model" if component == "lora" else component
            size, trained = size_of(parameter), size_of(parameter) if parameter.requires_grad else 0
            if "embed_tokens" in name:  # a look-up; where it is tied, also the head
                embedding, embedding_trained = size, trained
                continue
            self._sizes[component] += size
            self._trained[component] += trained
        if not self._sizes["lm_head"]:
            self._sizes["lm_head"], self._trained["lm_head"] = embedding, embedding_trained
        self._runs = [name for name in WHOLE if name in runs]
        text = getattr(module, "vlm", module).config.text_config
        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        self._attention = 4.0 * text.num_hidden_layers * text.num_attention_heads * head

    def of(self, inputs: Mapping[str, Any]) -> float:
        """FLOPs over attention_mask (samples, tokens), image_grid_thw (images, 3) and logits_to_keep, if there."""
        mask = inputs["attention_mask"]
        lengths = mask.sum(1).double()
        patches = float(inputs["image_grid_thw"].prod(1).sum()) if "image_grid_thw" in inputs else 0.0
        kept = inputs.get("logits_to_keep") or mask.shape[1]
        seen = {"vision": patches, "merger": patches / 4, "language_model": float(lengths.sum())}
        seen["lm_head"] = float(len(mask) * kept)
        total, flows = 0.0, False  # flows: a gradient comes back through this component's inputs
        for name in self._runs:
            trains = self._trained[name] > 0
            through = flows or (trains and name != "lm_head")
            total += seen[name] * 2 * (self._sizes[name] * (1 + through) + self._trained[name])
            if name == "language_model":
                total += self._attention * float((lengths**2).sum()) * (3 if through else 1)
            flows = flows or trains
        return total
