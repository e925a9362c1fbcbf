"""A tiny Qwen2.5-VL that never ends a reply by itself, so that every reply is as long as its request allows."""

import json
from pathlib import Path

from tests.serving import tiny

LONGEST = 8192
"""Tokens of prompt and reply. The vocabulary is bytes, so the prompts of a sample that is refused again and again are long."""


def build(path: Path, size: int) -> Path:
    """The random model of the tests, for images of `size` pixels; the token that ends a reply has no chance."""
    import torch
    from safetensors.torch import load_file, save_file

    tiny.build(path, seed=0)
    weights = load_file(path / "model.safetensors")
    config = json.loads((path / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = LONGEST
    (path / "config.json").write_text(json.dumps(config))
    head = weights["lm_head.weight"] * 50
    head[config["text_config"]["eos_token_id"]] = torch.zeros(head.shape[1])
    weights["lm_head.weight"] = head
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    about = json.loads((path / "processor_config.json").read_text())
    about["image_processor"]["size"]["longest_edge"] = size * size  # this is how the most pixels of an image are named
    (path / "processor_config.json").write_text(json.dumps(about))
    return path
