"""Whether a server can serve a model at all, from the model's config.json and file sizes alone, before it is started.

vLLM finds most of this out by itself, minutes later and in its own words; here a setting is named.
"""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diagcot.jobs import UserError
from diagcot.serving.server.placement import Seat
from diagcot.serving.settings import ServerSettings

PREQUANTISED = ("awq", "gptq", "compressed-tensors")
"""Methods whose weights are made so, and not from others while loading."""


def check(model_dir: Path, settings: ServerSettings, seat: Seat) -> None:
    """Raises UserError that names the setting to change. What config.json does not tell is not checked."""
    config = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    text = config.get("text_config") or config
    _context(model_dir, settings, text)
    _heads(model_dir, seat, text)
    _quantisation(model_dir, settings, config)
    if settings.images and "architectures" in config and not any("vis" in key for key in config):
        raise UserError(f"{model_dir} reads text only (no vision_config): set `images: 0` in its server settings")
    if seat.gpus and not (settings.quantization and not config.get("quantization_config")):
        _memory(model_dir, settings, seat, gpu_memory(seat.gpus))


def _context(model_dir: Path, settings: ServerSettings, text: dict[str, Any]) -> None:
    positions = text.get("max_position_embeddings")
    if positions is None:
        return
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    longest = max(positions, rope.get("original_max_position_embeddings", positions) * rope.get("factor", 1))
    if settings.max_model_len > longest:
        raise UserError(
            f"max_model_len {settings.max_model_len} is more than the {longest:.0f} tokens that {model_dir} can read:"
            " lower it in the server settings"
        )


def _heads(model_dir: Path, seat: Seat, text: dict[str, Any]) -> None:
    heads: int = text.get("num_attention_heads") or 0
    shared: int = text.get("num_key_value_heads") or heads
    if heads and (heads % seat.ranks or (shared % seat.ranks and seat.ranks % shared)):
        fitting = [n for n in range(1, heads + 1) if not heads % n and not (shared % n and n % shared)]
        raise UserError(
            f"tensor_parallel {seat.ranks} does not divide the {heads} attention heads ({shared} of keys and values) of"
            f" {model_dir}: set tensor_parallel to one of {', '.join(map(str, fitting))}"
        )


def _quantisation(model_dir: Path, settings: ServerSettings, config: dict[str, Any]) -> None:
    wanted, made = settings.quantization, (config.get("quantization_config") or {}).get("quant_method")
    if wanted is None:
        return
    if made is None and wanted.startswith(PREQUANTISED):
        raise UserError(
            f"quantization {wanted}: the weights of {model_dir} are not quantised (no quantization_config):"
            " leave the setting out, or serve a quantised copy of the model"
        )
    if made is not None and not (wanted.startswith(made) or made.startswith(wanted)):
        raise UserError(
            f"quantization {wanted}: the weights of {model_dir} are quantised by {made}: leave the setting out"
        )


def _memory(model_dir: Path, settings: ServerSettings, seat: Seat, memory: int | None) -> None:
    need, share = weight_bytes(model_dir) / seat.ranks, settings.gpu_memory_utilization * seat.memory
    if memory is not None and need > memory * share:
        raise UserError(
            f"the weights of {model_dir} take {need / 1e9:.0f} GB on each of {seat.ranks} GPUs (tensor_parallel), which"
            f" leave {memory * share / 1e9:.0f} of {memory / 1e9:.0f} GB (gpu_memory_utilization {share:.2g}): raise"
            " tensor_parallel and the GPUs of the stage, or serve a quantised model"
        )


def weight_bytes(model_dir: Path) -> int:
    """Bytes of the weights on disk."""
    index = model_dir / "model.safetensors.index.json"
    if index.exists():
        named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return sum((model_dir / name).stat().st_size for name in named)
    return sum(path.stat().st_size for path in model_dir.glob("*.safetensors"))


def gpu_memory(names: Sequence[str]) -> int | None:
    """Bytes of the smallest of these GPUs; None where nvidia-smi does not tell."""
    command = ["nvidia-smi", f"--id={','.join(names)}", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
        return min(int(line) for line in told.split()) * 2**20
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
