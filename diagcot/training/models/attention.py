"""Attention of training: each sequence by itself, without padding and without a mask.

Sequences are causal and, where they lie in rows of their own, padded on the right: no token sees padding, so no mask is
needed. Packed sequences lie one after the other in one row. FlashAttention then takes their bounds (its variable-length
function, which transformers calls); elsewhere torch's fused attention runs over one sequence after the other, and over
neighbours of one length together. That is what a block-diagonal mask computes, without the products between sequences and
without a mask of all pairs of tokens.

Answers to one prompt may lie behind it one after the other: each then sees the prompt and itself, so that the prompt is computed
once for all of them.

The windows of Qwen2.5-VL's vision tower are such sequences. An image has at most four lengths of them (whole windows, those at
the right and at the lower edge, and the corner), so they are put in the order of their lengths: four calls in a layer.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from diagcot.training.distributed import library_setup, process_group
from diagcot.training.families import FAMILIES, Family

library_setup.configure()

import torch  # noqa: E402
from torch.nn import functional  # noqa: E402
from transformers import AttentionInterface, vision_utils  # noqa: E402
from transformers.integrations.sdpa_attention import sdpa_attention_forward  # noqa: E402
from transformers.utils.generic import is_flash_attention_requested  # noqa: E402

PromptGroup = tuple[int, tuple[int, ...]]
"""Tokens of a prompt, and of each answer behind it."""
BY_SEQUENCE = "by_sequence"
# transformers gives the bounds of all windows to an attention with `flash` in its name, and calls any other once a window.
_OF_TOWER = "by_sequence_in_place_of_flash"


def implementation(family: Family, precision: str) -> str:
    """FlashAttention where the package is installed and the precision allows it, else `by_sequence`; torch's own with the
    model's masks for a family whose visual tokens see later ones.
    """
    if not family.causal:
        return "sdpa"
    flash = torch.cuda.is_available() and precision == "bf16" and find_spec("flash_attn")
    return "flash_attention_2" if flash else BY_SEQUENCE


def shares_prompts(network: Any) -> bool:
    """Whether the network's attention lets answers lie behind one prompt (`by_sequence`); FlashAttention's does not."""
    return bool(language_of(network).config._attn_implementation == BY_SEQUENCE)


def bounds(lengths: torch.Tensor) -> dict[str, Any]:
    """Arguments of a forward pass over one row of packed sequences. lengths (sequences,): their tokens, in host memory."""
    ends = functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    longest = int(lengths.max())
    return {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}


def placed(network: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs of a pass with all that the network's attention would else compute from values on the device."""
    device = next(inputs[name] for name in ("input_ids", "inputs_embeds") if name in inputs).device
    names = [name for name in ("cu_seq_lens_q", "cu_seq_lens_k") if name in inputs]
    if names and is_flash_attention_requested(language_of(network).config):
        inputs = inputs | {name: process_group.moved(inputs[name], device) for name in names}
    return inputs | of_images(network, inputs, device)


def of_images(network: Any, inputs: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Arguments of a pass about its images, see `of_tower`; `image_grid_thw` (images, 3) lies in host memory.

    Empty without pixels, for families without grids, and for a network that takes features in place of pixels.
    """
    if not {"pixel_values", "image_grid_thw"} <= inputs.keys() or hasattr(
        visual := visual_of(network), "takes_features"
    ):
        return {}
    return {f"image_{name}": value for name, value in of_tower(visual, inputs["image_grid_thw"], device).items()}


def of_tower(visual: Any, grids: torch.Tensor, device: torch.device) -> dict[str, Any]:
    """What a vision tower would else compute on `device` from the grids (images, 3) of its images, in host memory.

    Nobody waits for the device. Bounds stay in host memory, but for FlashAttention.
    """
    merge = int(visual.spatial_merge_size)
    found: dict[str, Any] = {"position_ids": vision_utils.get_vision_position_ids(grids, merge)}
    limits = {"seqlen": vision_utils.get_vision_cu_seqlens(grids)}
    if hasattr(visual, "window_size"):
        found["window_index"], limits["window_seqlen"] = _windows(visual, grids)
    if hasattr(visual, "num_grid_per_side"):
        found["interp_indices"], found["interp_weights"] = vision_utils.get_vision_interpolation_indices_and_weights(
            grids, visual.num_grid_per_side, visual.interpolation_mode, visual.interpolation_align_corners, merge
        )
    found = {name: process_group.moved(value, device) for name, value in found.items()}
    for name, ends in limits.items():
        found[f"max_{name}"] = int(ends.diff().max())
        on_host = visual.config._attn_implementation in (BY_SEQUENCE, _OF_TOWER)
        found[f"cu_{name}s"] = ends if on_host else process_group.moved(ends, device)
    return found


def _windows(visual: Any, grids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Visual tokens (tokens,) in the order of their windows, and the windows' bounds (windows + 1,) in patches.

    transformers' windows, those of an image in the order of their lengths.
    """
    merge = int(visual.spatial_merge_size)
    tokens, ends = vision_utils.get_vision_window_index(grids, merge, visual.window_size, visual.patch_size)
    starts, lengths = ends[:-1].long(), ends.diff().long()
    images = torch.bucketize(starts, grids.prod(1).cumsum(0), right=True)
    order = torch.argsort(images * (int(lengths.max()) + 1) - lengths, stable=True)
    parts = tokens.split((lengths // merge**2).tolist())
    ends = functional.pad(lengths[order].cumsum(0), (1, 0)).to(torch.int32)
    return torch.cat([parts[window] for window in order.tolist()]), ends


def with_bounds(network: Any) -> None:
    """Let a vision tower of Qwen whose attention is `by_sequence` call it once a layer, with the bounds of all windows."""
    visual = getattr(_inside(network), "visual", None)
    if visual is not None and visual.config._attn_implementation == BY_SEQUENCE:
        visual.config._attn_implementation = _OF_TOWER


def visual_of(network: Any) -> Any:
    """The vision part of a vision-language model, with or without an adapter or an aligner around it."""
    return _inside(network).visual


def language_of(network: Any) -> Any:
    """The language model without its head, see `visual_of`."""
    inside = _inside(network)
    return getattr(inside, FAMILIES[inside.config.model_type].language)


def _inside(network: Any) -> Any:
    network = getattr(network, "vlm", network)
    network = network.get_base_model() if hasattr(network, "get_base_model") else network
    return network.model


def by_sequence(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    cu_seq_lens_q: torch.Tensor | None = None,
    exchange: Callable[..., torch.Tensor] | None = None,
    prompt_groups: Sequence[PromptGroup] | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """torch's fused attention over rows, or over the sequences of one row whose bounds are given.

    query, key, value: (rows, heads, tokens, width). attention_mask: has no part in it. cu_seq_lens_q: (sequences + 1,), in
    host memory. exchange: where several ranks share a row (`diagcot.training.supervised.sequence_parallel`). prompt_groups: in
    place of bounds, prompts of the row with their answers behind them. Returns (rows, tokens, heads, width).
    """
    if prompt_groups is not None and module.is_causal:  # transformers passes it on to the vision tower, too
        sizes = [prompt + sum(answers) for prompt, answers in prompt_groups]
        parts = zip(*(tensor.split(sizes, 2) for tensor in (query, key, value)), strict=True)
        made = [_group(module, *group, part, options) for group, part in zip(prompt_groups, parts, strict=True)]
        return torch.cat(made, 1), None
    if exchange is not None:

        def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
            return by_sequence(module, query, key, value, None, cu_seq_lens_q, **options)[0]

        return exchange(attend, query, key, value), None
    if cu_seq_lens_q is None:
        rows, _ = sdpa_attention_forward(module, query, key, value, None, **options)
        return rows, None
    runs = [(length, len(list(run))) for length, run in itertools.groupby(cu_seq_lens_q.diff().tolist())]
    parts = zip(
        *(tensor.split([length * count for length, count in runs], 2) for tensor in (query, key, value)), strict=True
    )
    made = [_run(module, count, part, options) for (_, count), part in zip(runs, parts, strict=True)]
    return torch.cat(made, 1), None


def _run(
    module: torch.nn.Module, count: int, part: tuple[torch.Tensor, ...], options: Mapping[str, Any]
) -> torch.Tensor:
    """Attention over `count` neighbours of one length, as rows. part: query, key and value. See `by_sequence`."""
    if count > 1:
        part = tuple(tensor.unflatten(2, (count, -1)).transpose(1, 2).flatten(0, 1) for tensor in part)
    rows: torch.Tensor = sdpa_attention_forward(module, *part, None, **options)[0]
    return rows.reshape(1, -1, *rows.shape[2:])


def _group(
    module: torch.nn.Module,
    prompt: int,
    answers: tuple[int, ...],
    part: tuple[torch.Tensor, ...],
    options: Mapping[str, Any],
) -> torch.Tensor:
    """Attention of a prompt to itself, and of each answer behind it to the prompt and itself. See `by_sequence`."""
    longest = max(answers)
    before = [tensor[:, :, :prompt] for tensor in part]
    rows = [_padded(tensor[:, :, prompt:], answers, longest) for tensor in part]
    keys = [
        torch.cat([shared.expand(len(answers), -1, -1, -1), own], 2)
        for shared, own in zip(before[1:], rows[1:], strict=True)
    ]
    seen = torch.ones(longest, prompt + longest, dtype=torch.bool, device=part[0].device).tril(prompt)
    first = sdpa_attention_forward(module, *before, None, **options)[0]
    behind = sdpa_attention_forward(module, rows[0], *keys, seen, **options)[0]
    return torch.cat([first, *(row[None, :length] for row, length in zip(behind, answers, strict=True))], 1)


def _padded(part: torch.Tensor, lengths: tuple[int, ...], longest: int) -> torch.Tensor:
    """Sequences (1, heads, tokens, width), one after the other, as rows (sequences, heads, longest, width)."""
    return torch.cat(
        [functional.pad(row, (0, 0, 0, longest - row.shape[2])) for row in part.split(list(lengths), dim=2)]
    )


AttentionInterface.register(BY_SEQUENCE, by_sequence)
AttentionInterface.register(_OF_TOWER, by_sequence)
