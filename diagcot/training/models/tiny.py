"""Tiny models with random weights, small enough to train on a CPU in minutes."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from diagcot.training.config.settings import Family, ModelSettings, TinySettings
from diagcot.training.distributed import library_setup

library_setup.configure()

import torch  # noqa: E402
from transformers import AutoConfig, AutoModelForImageTextToText, GenerationConfig  # noqa: E402

from diagcot.training.models import model as directories  # noqa: E402
from diagcot.training.models import tokenizer as tokenizers  # noqa: E402


def build(settings: ModelSettings, corpus: Iterable[str], directory: Path, seed: int = 0) -> dict[str, Any]:
    """Write a tiny model with random weights and a tokenizer trained on `corpus` to `directory`; returns its counts."""
    tokenizer = tokenizers.train(corpus, settings.tiny.vocabulary)
    processor = _processor(settings, tokenizer)
    torch.manual_seed(seed)
    config = configuration(settings.family, settings.tiny, tokenizer)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    _initialise(model)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    directories.save(model, processor, directory)
    return {"parameters": sum(p.numel() for p in model.parameters()), "vocabulary": len(tokenizer)}


def configuration(family: Family, tiny: TinySettings, tokenizer: Any) -> Any:
    """The transformers configuration of a tiny model. tokenizer: gives the vocabulary and the ids of special tokens."""
    head = tiny.hidden // tiny.heads
    # Rotary frequencies of time, height and width: Qwen's shares 16:24:24 of half a head.
    half = head // 2
    section = [half - 2 * (half * 3 // 8), half * 3 // 8, half * 3 // 8]
    ids = tokenizer.convert_tokens_to_ids
    text: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": tiny.hidden,
        "intermediate_size": tiny.intermediate,
        "num_hidden_layers": tiny.layers,
        "num_attention_heads": tiny.heads,
        "num_key_value_heads": tiny.kv_heads,
        "max_position_embeddings": tiny.context,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": section},
        "bos_token_id": ids("<|endoftext|>"),
        "eos_token_id": ids("<|im_end|>"),
        "pad_token_id": ids("<|endoftext|>"),
        "tie_word_embeddings": False,
    }
    vision: dict[str, Any] = {"depth": tiny.vision_depth, "num_heads": tiny.vision_heads}
    if family == "qwen2_vl":
        vision |= {"embed_dim": tiny.vision_hidden, "hidden_size": tiny.hidden, "mlp_ratio": 2}
    else:
        vision |= {
            "hidden_size": tiny.vision_hidden,
            "intermediate_size": 2 * tiny.vision_hidden,
            "out_hidden_size": tiny.hidden,
        }
    if family == "qwen2_5_vl":
        vision |= {"fullatt_block_indexes": [tiny.vision_depth - 1], "window_size": 112}
    if family == "qwen3_vl":
        text |= {"head_dim": head}
        vision |= {"num_position_embeddings": 64, "deepstack_visual_indexes": [0]}
    return AutoConfig.for_model(
        family,
        text_config=text,
        vision_config=vision,
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        # Untied: a server that reloads weights in place would keep a stale output head.
        tie_word_embeddings=False,
        bos_token_id=ids("<|endoftext|>"),
        eos_token_id=ids("<|im_end|>"),
        pad_token_id=ids("<|endoftext|>"),
    )


def _initialise(model: Any) -> None:
    """Draw weights of variance 1 / inputs, and start with what a tiny model else spends most of its training to find.

    The families' own standard deviation of 0.02 suits thousands of inputs: with a hundred, attention starts almost
    uniform. Embeddings have variance 1 and the layers add little to them, so that a token is still itself behind the
    last layer, and the output layer starts as the embedding: attention to a token already raises its probability.
    Heads of the first layer attend to the token before, as the induction heads that copy need it (Olsson et al. 2022,
    In-context Learning and Induction Heads).
    """
    language = model.model.language_model
    embedding, output = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim >= 2:
                weight.normal_(0, weight[0].numel() ** -0.5)
        embedding.normal_(0, 1)
        output.copy_(embedding * embedding.shape[1] ** -0.5)
        for layer in language.layers:
            for last in (layer.self_attn.o_proj, layer.mlp.down_proj):
                last.weight.mul_((2 * len(language.layers)) ** -0.5)
        _attend_before(language.layers[0].self_attn, language.config)


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


def _processor(settings: ModelSettings, tokenizer: Any) -> Any:
    import transformers

    patch = 16 if settings.family == "qwen3_vl" else 14
    smallest = settings.min_pixels or (2 * patch) ** 2 * 16
    largest = settings.max_pixels or smallest
    sizes = {"shortest_edge": min(smallest, largest), "longest_edge": largest}
    shared = {"patch_size": patch, "merge_size": 2, "temporal_patch_size": 2}
    image = transformers.Qwen2VLImageProcessor(size=sizes, **shared)
    video_class = (
        transformers.Qwen3VLVideoProcessor if settings.family == "qwen3_vl" else transformers.Qwen2VLVideoProcessor
    )
    processor_class: Any = {
        "qwen2_vl": transformers.Qwen2VLProcessor,
        "qwen2_5_vl": transformers.Qwen2_5_VLProcessor,
        "qwen3_vl": transformers.Qwen3VLProcessor,
    }[settings.family]
    return processor_class(
        image_processor=image,
        tokenizer=tokenizer,
        video_processor=video_class(size=sizes, **shared),
        chat_template=tokenizer.chat_template,
    )
