"""What a plan says about the memory of a stage's model servers."""

from collections.abc import Iterator
from typing import Any

from diagcot.jobs import UserError
from diagcot.serving import capacity
from diagcot.serving.server.placement import place
from diagcot.serving.settings import ServerSettings
from diagcot.training.cost import GPU_BYTES, VALUE_BYTES
from launchers import model_size
from launchers.stage_kind import ChainView, Stage


def notes(stage: Stage[Any], chain: ChainView, settings: ServerSettings, gpus: int) -> Iterator[str]:
    """How many sequences a server of the stage's model decodes at once, if the recipe does not say. gpus: of a server."""
    if not gpus or settings.endpoint or settings.max_num_seqs is not None:
        return
    try:
        shape = model_size.shape(stage, chain)
        placement = place(settings, gpus, (0, 1), {})[0]
    except UserError:  # reported elsewhere
        return
    if shape is None:
        return
    text = {
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head,
    }
    weights = (
        sum(shape.counts.values()) * VALUE_BYTES["bf16"] / (placement.tensor_parallel * settings.pipeline_parallel)
    )
    cache = capacity.cache_bytes(settings, weights, GPU_BYTES)
    token = capacity.token_bytes(settings, text, placement.tensor_parallel, settings.pipeline_parallel)
    yield (
        f"max_num_seqs follows from the GPUs' memory: {capacity.sequences(settings, cache, token)} on GPUs of"
        f" {GPU_BYTES / 1e9:.0f} GB (cache {max(0.0, cache) / 1e9:.0f} GB, {token / 1e3:.0f} kB a token)"
    )
