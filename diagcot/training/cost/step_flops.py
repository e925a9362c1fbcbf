"""Model FLOPs of the passes that a training step really makes, counted from the module and its inputs."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from diagcot.training.cost.hardware import peak_flops
from diagcot.training.models.freeze import component_of, size_of

ALL_COMPONENTS = ("vision", "merger", "language_model", "lm_head")


def peak(device: torch.device, precision: str) -> float | None:
    """FLOP/s of the device at `precision`; None for a CPU and for a device that is not in the table."""
    if device.type != "cuda" or precision != "bf16":
        return None
    return peak_flops(torch.cuda.get_device_name(device))


class StepFlops:
    """FLOPs of one forward and backward pass over a batch.

    After PaLM (Chowdhery et al. 2022, appendix B): for each parameter and token 2 forward, 2 backward for the gradient of
    the inputs and 2 for that of the weights, 6 in all; attention 4, 4 and 4 for each layer, width and pair of tokens. Not
    counted is what is not computed: weight gradients of frozen parameters, and input gradients below all that trains. A
    vision parameter sees every patch, a merger parameter every visual token, the head the tokens whose logits are needed.
    Recomputation (gradient checkpointing) and attention in the vision tower are not counted, so the result is rather low.
    """

    def __init__(self, module: torch.nn.Module, runs: Sequence[str] = ALL_COMPONENTS) -> None:
        self._sizes = dict.fromkeys(ALL_COMPONENTS, 0)
        self._trained = dict.fromkeys(ALL_COMPONENTS, 0)
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
        self._runs = [name for name in ALL_COMPONENTS if name in runs]
        text = getattr(module, "vlm", module).config.text_config
        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        self._attention = 4.0 * text.num_hidden_layers * text.num_attention_heads * head

    def of(self, inputs: Mapping[str, Any], sharing: int = 1) -> float:
        """FLOPs over input_ids (rows, tokens), sequence_lengths (samples,), logits_to_keep, and of images image_patches and
        image_tokens (images,).

        sharing: ranks that share the pass; the result is this rank's part, and logits_to_keep its own.
        """
        lengths, kept = inputs["sequence_lengths"].double(), inputs["logits_to_keep"]
        of_images = (
            float(inputs[n].sum()) / sharing if n in inputs else 0.0 for n in ("image_patches", "image_tokens")
        )
        patches, tokens = of_images
        seen = {"vision": patches, "merger": tokens, "language_model": float(lengths.sum()) / sharing}
        seen["lm_head"] = float(len(inputs["input_ids"]) * kept if isinstance(kept, int) else len(kept))
        total, flows = 0.0, False  # flows: a gradient comes back through this component's inputs
        for name in self._runs:
            trains = self._trained[name] > 0
            through = flows or (trains and name != "lm_head")
            total += seen[name] * 2 * (self._sizes[name] * (1 + through) + self._trained[name])
            if name == "language_model":
                total += self._attention * float((lengths**2).sum()) / sharing * (3 if through else 1)
            flows = flows or trains
        return total

    def of_tower(self, patches: float) -> float:
        """FLOPs of a forward pass through what the passes do not run: a frozen vision tower, and a frozen merger."""
        seen = {"vision": patches, "merger": patches / 4}
        return sum(2 * self._sizes[name] * seen[name] for name in seen if name not in self._runs)
