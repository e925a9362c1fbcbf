"""Models of real shapes with random weights, and the samples that pass through them: nothing is read from disk."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

TEXT, LEARNED = 175, 160  # tokens of a sample, and those of its answer (method.md 3.1)
TEXTS = (64, 96, 128, 175, 240, 347)  # tokens of samples of different lengths, whose mean is TEXT
SHARED = {"rope_type": "default", "rope_theta": 1e6}
SEEN = {"fullatt_block_indexes": [7, 15, 23, 31], "window_size": 112}
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "text_config": {
            "vocab_size": 800, "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "rope_parameters": SHARED | {"mrope_section": [4, 6, 6]},
        },
        "vision_config": {
            "depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 4, "out_hidden_size": 128,
            "fullatt_block_indexes": [1], "window_size": 112,
        },
        "tie_word_embeddings": False,
    },
    "3b": {  # of Qwen2.5-VL-3B-Instruct and -7B-Instruct
        "text_config": {
            "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
            "num_attention_heads": 16, "num_key_value_heads": 2, "rope_parameters": SHARED | {"mrope_section": [16, 24, 24]},
        },
        "vision_config": {
            "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 2048, **SEEN,
        },
        "tie_word_embeddings": True,
    },
    "7b": {
        "text_config": {
            "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
            "num_attention_heads": 28, "num_key_value_heads": 4, "rope_parameters": SHARED | {"mrope_section": [16, 24, 24]},
        },
        "vision_config": {
            "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584, **SEEN,
        },
        "tie_word_embeddings": False,
    },
}  # fmt: skip
GRIDS = {"tiny": (8, 8), "3b": (46, 66), "7b": (46, 66)}  # patches of an image: 16, and 759 visual tokens

IDS = {"image_token_id": 10, "video_token_id": 11, "vision_start_token_id": 12, "vision_end_token_id": 13}


def visual_tokens(shape: str) -> int:
    """Of an image."""
    height, width = GRIDS[shape]
    return height * width // 4


def network(shape: str, where: Any, precision: str, ids: dict[str, int] | None = None) -> Any:
    """A model with random weights on the device `where`. ids: of its special tokens."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    from diagcot.training.families import FAMILIES
    from diagcot.training.models import attention

    config = AutoConfig.for_model("qwen2_5_vl", **SHAPES[shape], **(ids or IDS))
    torch.manual_seed(0)
    with torch.device(where):
        made = AutoModelForImageTextToText.from_config(
            config,
            dtype=torch.bfloat16 if precision == "bf16" else torch.float32,
            attn_implementation=attention.implementation(FAMILIES["qwen2_5_vl"], precision),
        )
    attention.with_bounds(made)
    made.config.use_cache = False
    return made.train()


def directory(shape: str, folder: Path, where: Any, precision: str) -> Path:
    """Such a model as a directory that vLLM loads, with a small tokenizer of its own."""
    from transformers import GenerationConfig

    from diagcot.training.config.settings import ModelSettings
    from diagcot.training.families import FAMILIES
    from diagcot.training.models import model, tokenizer

    family = FAMILIES["qwen2_5_vl"]
    words = tokenizer.train(["the lungs are clear . no effusion ."] * 2, 400, family)
    named = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
        "bos_token_id": "<|endoftext|>",
        "eos_token_id": "<|im_end|>",
        "pad_token_id": "<|endoftext|>",
    }
    ids = {name: words.convert_tokens_to_ids(token) for name, token in named.items()}
    made = network(shape, where, precision, ids)
    made.generation_config = GenerationConfig(eos_token_id=ids["eos_token_id"], pad_token_id=ids["pad_token_id"])
    height, width = GRIDS[shape]
    pixels = ModelSettings(min_pixels=56 * 56, max_pixels=height * width * 14 * 14)
    model.save(made, family.processor(pixels, words), folder)
    return folder


def batch(shape: str, texts: Sequence[int], where: Any, packed: bool = False) -> dict[str, Any]:
    """A batch as the collator makes them: an image and so many tokens of text for each sample, in padded rows or packed.

    The prompt has TEXT - LEARNED tokens; all others are learned.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    from diagcot.training.families import positions
    from diagcot.training.losses import language

    height, width = GRIDS[shape]
    grid = torch.tensor([[1, height, width]])
    head = torch.tensor([12, *[10] * visual_tokens(shape), 13])
    rows = [torch.cat([head, torch.randint(20, SHAPES[shape]["text_config"]["vocab_size"], (n - 2,))]) for n in texts]
    labels = [row.clone() for row in rows]
    for row in labels:
        row[: visual_tokens(shape) + TEXT - LEARNED] = -100
    places = [positions.multimodal(row == 10, grid, 2) for row in rows]

    def joined(parts: Sequence[Any], fill: int) -> Any:
        return torch.cat(list(parts))[None] if packed else pad_sequence(list(parts), True, fill)

    made = {
        "input_ids": joined(rows, 0),
        "position_ids": torch.stack([joined([place[axis] for place in places], 0) for axis in range(3)]),
        "labels": joined(labels, -100),
        "sequence_lengths": torch.tensor([len(row) for row in rows]),
        "image_counts": torch.ones(len(rows), dtype=torch.long),
        "pixel_values": torch.randn(len(rows) * height * width, 3 * 2 * 14 * 14),
        "image_grid_thw": grid.expand(len(rows), -1),
        "image_patches": torch.tensor([height * width] * len(rows)),
        "image_tokens": torch.tensor([visual_tokens(shape)] * len(rows)),
    }
    return language.on_device(made, where)
