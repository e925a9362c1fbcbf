"""Tiny models with random weights, small enough to train on a CPU in minutes."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from diagcot.training.config.settings import ModelSettings
from diagcot.training.distributed import library_setup
from diagcot.training.families import FAMILIES, Family

library_setup.configure()

import torch  # noqa: E402
from transformers import AutoConfig, AutoModelForImageTextToText, GenerationConfig  # noqa: E402
from transformers.conversion_mapping import get_model_conversion_mapping  # noqa: E402

from diagcot.training.models import model as directories  # noqa: E402
from diagcot.training.models import tokenizer as tokenizers  # noqa: E402


def build(settings: ModelSettings, corpus: Iterable[str], directory: Path, seed: int = 0) -> dict[str, Any]:
    """Write a tiny model with random weights and a tokenizer trained on `corpus` to `directory`; returns its counts."""
    family = FAMILIES[settings.family]
    tokenizer = tokenizers.train(corpus, settings.tiny.vocabulary, family)
    processor = family.processor(settings, tokenizer)
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(configuration(settings, tokenizer), dtype=torch.float32)
    _initialise(model, family)
    ends = tokenizer.convert_tokens_to_ids(list(family.end_tokens))
    model.generation_config = GenerationConfig(
        eos_token_id=ends if len(ends) > 1 else ends[0], pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    # By the names of published weights: of a model that was not loaded, transformers leaves out prefixes that servers expect.
    model._weight_conversions = get_model_conversion_mapping(model, add_legacy=False)
    directories.save(model, processor, directory)
    return {"parameters": sum(p.numel() for p in model.parameters()), "vocabulary": len(tokenizer)}


def configuration(settings: ModelSettings, tokenizer: Any) -> Any:
    """The transformers configuration of a tiny model. tokenizer: gives the vocabulary and the ids of special tokens."""
    config = FAMILIES[settings.family].tiny(settings, len(tokenizer), tokenizer.convert_tokens_to_ids)
    return AutoConfig.for_model(settings.family, **config)


def _initialise(model: Any, family: Family) -> None:
    """Draw weights of variance 1 / inputs, and start with what a tiny model else spends most of its training to find.

    The families' own standard deviation of 0.02 suits thousands of inputs: with a hundred, attention starts almost
    uniform. Embeddings have variance 1 and the layers add little to them, so that a token is still itself behind the
    last layer, and the output layer starts as the embedding: attention to a token already raises its probability.
    Heads of the first layer attend to the token before, as the induction heads that copy need it (Olsson et al. 2022,
    In-context Learning and Induction Heads).
    """
    language = getattr(model.model, family.language)
    embedding, output = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim >= 2:
                weight.normal_(0, weight[0].numel() ** -0.5)
        if output is not embedding:  # the families whose embeddings are one matrix scale it at the input
            embedding.normal_(0, 1)
            output.copy_(embedding * embedding.shape[1] ** -0.5)
        for layer in language.layers:
            down = layer.mlp.down_proj.weight if hasattr(layer.mlp, "down_proj") else _draw_experts(layer.mlp.experts)
            for last in (layer.self_attn.o_proj.weight, down):
                last.mul_((2 * len(language.layers)) ** -0.5)
        _attend_before(language.layers[0].self_attn, language.config)


def _draw_experts(experts: Any) -> Any:
    """Draw the projections of experts, (experts, outputs, inputs) each; returns the last one."""
    for weight in experts.parameters():
        weight.normal_(0, weight.shape[-1] ** -0.5)
    return experts.down_proj


def _attend_before(attention: Any, config: Any) -> None:
    """Bias the first query head of key head k to the token k + 1 before, where the family's attention has biases.

    Rotary embedding turns feature pair f of a token at position n by n * w_f. A constant key turned by (k + 1) * w_f
    meets a constant query best where the key's token is k + 1 positions before the query's.
    """
    if attention.k_proj.bias is None:
        return
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    half = attention.head_dim // 2
    keys, queries = attention.k_proj.bias.view(kv_heads, 2, half), attention.q_proj.bias.view(heads, 2, half)
    fastest = torch.arange(min(4, half))  # the slower pairs hardly tell neighbours apart
    turn = config.rope_parameters["rope_theta"] ** (-fastest / half)
    strength = 6.0  # the logit falls by 6 * 6 * 0.6 / sqrt(32) = 4 from the wanted token to its neighbours
    for head in range(kv_heads):
        keys[head, 0, fastest] = strength * torch.cos((head + 1) * turn)
        keys[head, 1, fastest] = strength * torch.sin((head + 1) * turn)
        queries[head * (heads // kv_heads), 0, fastest] = strength
