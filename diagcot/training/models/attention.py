"""Attention of training: each sequence by itself, without padding and without a mask.

Sequences are causal and, where they lie in rows of their own, padded on the right: no token sees padding, so no mask is
needed. Packed sequences lie one after the other in one row. FlashAttention then takes their bounds (its variable-length
function, which transformers calls); elsewhere torch's fused attention runs over one sequence after the other. That is
what a block-diagonal mask computes, without the products between sequences and without a mask of all pairs of tokens.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from diagcot.training.distributed import library_setup, process_group

library_setup.configure()

import torch  # noqa: E402
from torch.nn import functional  # noqa: E402
from transformers import AttentionInterface, vision_utils  # noqa: E402
from transformers.integrations.sdpa_attention import sdpa_attention_forward  # noqa: E402
from transformers.utils.generic import is_flash_attention_requested  # noqa: E402

BY_SEQUENCE = "by_sequence"


def implementation(precision: str) -> str:
    """FlashAttention where the package is installed and the precision allows it, else `by_sequence`."""
    flash = torch.cuda.is_available() and precision == "bf16" and find_spec("flash_attn")
    return "flash_attention_2" if flash else BY_SEQUENCE


def bounds(lengths: torch.Tensor) -> dict[str, Any]:
    """Arguments of a forward pass over one row of packed sequences. lengths (sequences,): their tokens, in host memory."""
    ends = functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    longest = int(lengths.max())
    return {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}


def placed(network: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs of a pass with all that the network's attention would else compute from values on the device."""
    device = next(inputs[name] for name in ("input_ids", "inputs_embeds") if name in inputs).device
    names = [name for name in ("cu_seq_lens_q", "cu_seq_lens_k") if name in inputs]
    if names and is_flash_attention_requested(network.config):
        inputs = inputs | {name: process_group.moved(inputs[name], device) for name in names}
    return inputs | of_images(network, inputs, device)


def of_images(network: Any, inputs: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Arguments of a pass about its images: what a vision tower would else compute from `image_grid_thw` (images, 3).

    The grids lie in host memory, so nobody waits for the device. Bounds stay there, too, but for FlashAttention. Empty without
    pixels, and for a network that takes features in place of pixels.
    """
    if "pixel_values" not in inputs or hasattr(visual_of(network), "takes_features"):
        return {}
    visual, grids = visual_of(network), inputs["image_grid_thw"]
    merge = int(visual.spatial_merge_size)
    found: dict[str, Any] = {"position_ids": vision_utils.get_vision_position_ids(grids, merge)}
    limits = {"seqlen": vision_utils.get_vision_cu_seqlens(grids)}
    if hasattr(visual, "window_size"):
        found["window_index"], limits["window_seqlen"] = vision_utils.get_vision_window_index(
            grids, merge, visual.window_size, visual.patch_size
        )
    if hasattr(visual, "num_grid_per_side"):
        found["interp_indices"], found["interp_weights"] = vision_utils.get_vision_interpolation_indices_and_weights(
            grids, visual.num_grid_per_side, visual.interpolation_mode, visual.interpolation_align_corners, merge
        )
    found = {name: process_group.moved(value, device) for name, value in found.items()}
    for name, ends in limits.items():
        found[f"cu_{name}s"] = ends
        if is_flash_attention_requested(visual.config):
            found |= {f"cu_{name}s": process_group.moved(ends, device), f"max_{name}": int(ends.diff().max())}
    return {f"image_{name}": value for name, value in found.items()}


def visual_of(network: Any) -> Any:
    """The vision part of a vision-language model, with or without an adapter or an aligner around it."""
    network = getattr(network, "vlm", network)
    network = network.get_base_model() if hasattr(network, "get_base_model") else network
    return network.model.visual


def by_sequence(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    cu_seq_lens_q: torch.Tensor | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """torch's fused attention over rows, or over the sequences of one row whose bounds are given.

    query, key, value: (rows, heads, tokens, width). attention_mask: has no part in it. cu_seq_lens_q: (sequences + 1,), in
    host memory. Returns (rows, tokens, heads, width).
    """
    if cu_seq_lens_q is None:
        rows, _ = sdpa_attention_forward(module, query, key, value, None, **options)
        return rows, None
    lengths = cu_seq_lens_q.diff().tolist()
    parts = zip(*(tensor.split(lengths, 2) for tensor in (query, key, value)), strict=True)
    return torch.cat([sdpa_attention_forward(module, *part, None, **options)[0] for part in parts], 1), None


AttentionInterface.register(BY_SEQUENCE, by_sequence)
