"""What the memory of a server's GPUs holds beside the weights: the KV cache, and sequences that are decoded at once."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diagcot.jobs import UserError
from diagcot.jobs.state import reading
from diagcot.serving.server.placement import Placement
from diagcot.serving.settings import ServerSettings

RESERVE_BYTES = 5 * 10**9
"""Of each GPU, beside weights and cache: CUDA context, CUDA graphs, activations of one prefill, the sampler's logits."""
SEQUENCES = (16, 256)
"""Fewest and most sequences that are chosen: above 256 a GPU computes a step no faster for each of them."""


def fitted(settings: ServerSettings, model_dir: Path, placement: Placement, fixed_cache: bool) -> ServerSettings:
    """The settings with `max_num_seqs` from the memory of the placement's GPUs, if they do not name it.

    fixed_cache: also with `kv_cache_gb`, so that vLLM does not measure how much memory is left. Both stay unset on a CPU,
    and where nvidia-smi does not report the GPUs' memory. Raises UserError if there is no room for a cache.
    """
    memory = gpu_memory(placement.gpus) if placement.gpus else None
    if memory is None:
        return settings
    config = reading.read_json(model_dir / "config.json")
    weights = weight_bytes(model_dir, settings, config) / (placement.tensor_parallel * placement.nodes)
    share = settings.gpu_memory_utilization * placement.memory_share
    cache = cache_bytes(settings, weights, memory * placement.memory_share)
    if fixed_cache and settings.kv_cache_gb is None:
        if cache < 2**30:
            raise UserError(
                f"gpu_memory_utilization {share:.2g} of {memory / 1e9:.0f} GB leaves no room for a KV cache beside"
                f" {weights / 1e9:.0f} GB of weights and {RESERVE_BYTES / 1e9:.0f} GB of other buffers on each GPU: raise it,"
                " or tensor_parallel"
            )
        settings = settings.model_copy(update={"kv_cache_gb": int(cache // 2**30)})
    text = config.get("text_config") or config
    # Some published files leave sizes to transformers (Gemma 3); then the number is that of `ServerSettings.sequences`.
    if settings.max_num_seqs is None and {"num_hidden_layers", "num_attention_heads"} <= text.keys():
        count = sequences(settings, cache, token_bytes(settings, text, placement.tensor_parallel, placement.nodes))
        settings = settings.model_copy(update={"max_num_seqs": count})
    return settings


def cache_bytes(settings: ServerSettings, weights: float, memory: float) -> float:
    """Size of the KV cache on each GPU. weights, memory: bytes of the weights on one GPU, and of the GPU."""
    if settings.kv_cache_gb is not None:
        return settings.kv_cache_gb * 2**30
    return memory * settings.gpu_memory_utilization - weights - RESERVE_BYTES


def token_bytes(settings: ServerSettings, text: Mapping[str, Any], tensor_parallel: int, nodes: int = 1) -> float:
    """Bytes of one token's keys and values on each GPU. text: config.json of the language model."""
    heads = text["num_attention_heads"]
    head = text.get("head_dim") or text["hidden_size"] // heads
    kv_heads = max(1, (text.get("num_key_value_heads") or heads) / tensor_parallel)
    value = 4 if settings.dtype == "float32" else 2
    return float(2 * text["num_hidden_layers"] / nodes * kv_heads * head * value)


def sequences(settings: ServerSettings, cache: float, token: float) -> int:
    """How many sequences of half of `max_model_len` a cache holds, within SEQUENCES and as a multiple of 8.

    Few sequences are longer. Where many are, the client sends fewer requests, see `diagcot.serving.client.throttle`.
    """
    least, most = SEQUENCES
    return min(most, max(least, int(cache / (token * settings.max_model_len / 2)) // 8 * 8))


def weight_bytes(model_dir: Path, settings: ServerSettings, config: Mapping[str, Any]) -> float:
    """Size of the weights in memory in bytes: as on disk, or smaller where the server reads them in a smaller type."""
    index = model_dir / "model.safetensors.index.json"
    if index.exists():
        files = {model_dir / name for name in reading.read_json(index)["weight_map"].values()}
    else:
        files = set(model_dir.glob("*.safetensors"))
    size = float(sum(path.stat().st_size for path in files))
    text = config.get("text_config") or {}
    stored = str(config.get("dtype") or config.get("torch_dtype") or text.get("dtype") or "")
    if stored == "float32" and settings.dtype != "float32":
        size /= 2
    if settings.quantization and not config.get("quantization_config"):  # while loading, to at most a byte a value
        size /= 2
    return size


def gpu_memory(names: Sequence[str]) -> int | None:
    """Memory of the smallest of these GPUs in bytes; None if nvidia-smi does not report it."""
    command = ["nvidia-smi", f"--id={','.join(names)}", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
        return min(int(line) for line in output.split()) * 2**20
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
