"""Checks, before a server is started, that it can serve a model. Reads only the model's config.json and file sizes.

vLLM reports most of these problems itself, but minutes later and without the name of our setting.
"""

from pathlib import Path
from typing import Any

from diagcot.jobs import UserError
from diagcot.jobs.state import reading
from diagcot.serving.capacity import gpu_memory, weight_bytes
from diagcot.serving.server.placement import Placement
from diagcot.serving.settings import ServerSettings

PREQUANTIZED = ("awq", "gptq", "compressed-tensors")
"""Methods whose weights are quantised on disk, not while loading."""


def check(model_dir: Path, settings: ServerSettings, placement: Placement) -> None:
    """Raises UserError that names the setting to change. A value that config.json does not have is not checked."""
    config = reading.read_json(model_dir / "config.json")
    text = config.get("text_config") or config
    _context(model_dir, settings, text)
    _heads(model_dir, placement, text)
    _quantisation(model_dir, settings, config)
    if settings.images and "architectures" in config and not any("vis" in key for key in config):
        raise UserError(f"{model_dir} is a text-only model (no vision_config): set `images: 0` in its server settings")
    if placement.gpus:
        _memory(model_dir, settings, placement, config, gpu_memory(placement.gpus))


def _context(model_dir: Path, settings: ServerSettings, text: dict[str, Any]) -> None:
    positions = text.get("max_position_embeddings")
    if positions is None:
        return
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    longest = max(positions, rope.get("original_max_position_embeddings", positions) * rope.get("factor", 1))
    if settings.max_model_len > longest:
        raise UserError(
            f"max_model_len {settings.max_model_len} is more than the {longest:.0f} tokens that {model_dir} supports:"
            " lower it in the server settings"
        )


def _heads(model_dir: Path, placement: Placement, text: dict[str, Any]) -> None:
    heads: int = text.get("num_attention_heads") or 0
    kv_heads: int = text.get("num_key_value_heads") or heads
    if not heads or _divides(placement.tensor_parallel, heads, kv_heads):
        return
    valid = [str(count) for count in range(1, heads + 1) if _divides(count, heads, kv_heads)]
    raise UserError(
        f"tensor_parallel {placement.tensor_parallel} does not divide the {heads} attention heads ({kv_heads} key-value"
        f" heads) of {model_dir}: set tensor_parallel to one of {', '.join(valid)}"
    )


def _divides(gpus: int, heads: int, kv_heads: int) -> bool:
    """True if the heads divide evenly. Key-value heads may be fewer than GPUs; vLLM then copies them."""
    return not heads % gpus and not (kv_heads % gpus and gpus % kv_heads)


def _quantisation(model_dir: Path, settings: ServerSettings, config: dict[str, Any]) -> None:
    wanted, actual = settings.quantization, (config.get("quantization_config") or {}).get("quant_method")
    if wanted is None:
        return
    if actual is None and wanted.startswith(PREQUANTIZED):
        raise UserError(
            f"quantization {wanted}: the weights of {model_dir} are not quantised (no quantization_config):"
            " remove the setting, or serve a quantised copy of the model"
        )
    if actual is not None and not (wanted.startswith(actual) or actual.startswith(wanted)):
        raise UserError(
            f"quantization {wanted}: the weights of {model_dir} are quantised by {actual}: remove the setting"
        )


def _memory(
    model_dir: Path, settings: ServerSettings, placement: Placement, config: dict[str, Any], memory: int | None
) -> None:
    """memory: of the smallest GPU in bytes, if known."""
    if memory is None:
        return
    share = settings.gpu_memory_utilization * placement.memory_share
    needed = weight_bytes(model_dir, settings, config) / (placement.tensor_parallel * placement.nodes)
    if needed > memory * share:
        raise UserError(
            f"the weights of {model_dir} take {needed / 1e9:.0f} GB on each of {placement.tensor_parallel} GPUs"
            f" (tensor_parallel), but only {memory * share / 1e9:.0f} of {memory / 1e9:.0f} GB are available"
            f" (gpu_memory_utilization {share:.2g}): raise tensor_parallel and the GPUs of the stage, or serve a quantised"
            " model"
        )
