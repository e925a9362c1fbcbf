"""Positions of tokens for the rotary embedding of Qwen2-VL, Qwen2.5-VL and Qwen3-VL, for one sequence at a time.

The rule is that of transformers (`get_rope_index` in models/qwen2_vl/modeling_qwen2_vl.py and its siblings) for images. It is
repeated here so that threads can prepare batches without the model, and so that no pass waits for the device.
"""

import torch


def multimodal(visual: torch.Tensor, grids: torch.Tensor, merge: int) -> torch.Tensor:
    """Frame, row and column of each token of a sequence, (3, tokens) int64.

    visual (tokens,): whether a token stands for a part of an image. grids (images, 3): frames, rows and columns of patches of
    each image in order. merge: patches of a side that make one token. A text token counts on by 1 in all three; an image
    begins at the position after the text before it, and the text after it follows on its larger side.
    """
    before = torch.cat([visual.new_zeros(1), visual[:-1]])
    starts = (visual & ~before).nonzero()[:, 0].tolist()
    parts, at, position = [], 0, 0
    for start, (frames, rows, columns) in zip(starts, grids.tolist(), strict=True):
        shape = (frames, rows // merge, columns // merge)
        parts.append(_text(start - at, position))
        position += start - at
        axes = torch.meshgrid(*(torch.arange(size) for size in shape), indexing="ij")
        parts.append(torch.stack(axes).reshape(3, -1) + position)
        at = start + parts[-1].shape[1]
        position += max(shape[1:])
    return torch.cat([*parts, _text(len(visual) - at, position)], 1)


def _text(size: int, position: int) -> torch.Tensor:
    return (torch.arange(size) + position).expand(3, -1)
