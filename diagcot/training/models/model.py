"""Builds, loads and saves vision-language models as Hugging Face directories."""

import shutil
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from diagcot.jobs import UserError
from diagcot.training.config.settings import Family, ModelSettings, TinySettings
from diagcot.training.distributed import library_setup
from diagcot.training.models.pretrained import family_of, weights_of

library_setup.configure()

import torch  # noqa: E402
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, GenerationConfig  # noqa: E402

from diagcot.training.models import tokenizer as bpe  # noqa: E402

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


def _randomise(model: torch.nn.Module) -> None:
    """Weights of variance 1 / inputs. The families' own 0.02 suits thousands of inputs; at a hundred, attention starts all
    but uniform, and a tiny model spends a third of its training on getting away from that."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim >= 2:
                weight.normal_(0, weight[0].numel() ** -0.5)


def build(settings: ModelSettings, corpus: Iterable[str], directory: Path, seed: int = 0) -> dict[str, Any]:
    """Write a tiny model with random weights and a tokenizer trained on `corpus` to `directory`; returns its counts."""
    tokenizer = bpe.train(corpus, settings.tiny.vocabulary)
    processor = _processor(settings, tokenizer)
    torch.manual_seed(seed)
    config = _config(settings.family, settings.tiny, tokenizer)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    _randomise(model)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    save(model, processor, directory)
    return {"parameters": sum(p.numel() for p in model.parameters()), "vocabulary": len(tokenizer)}


def adopt(settings: ModelSettings, directory: Path) -> dict[str, Any]:
    """Make `directory` a view of the user's model: links to its weights, copies of its small files.

    Raises UserError that names what the model lacks.
    """
    source = settings.pretrained
    assert source is not None
    family, names = family_of(source), weights_of(source)
    if family != settings.family:
        raise UserError(f"{source} is a {family}, the recipe says family: {settings.family}")
    directory.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        if path.name in names:
            (directory / path.name).symlink_to(path.resolve())
        elif path.is_file() and path.suffix in {".json", ".jinja", ".txt", ".model", ".md"}:
            shutil.copyfile(path, directory / path.name)
    processor = AutoProcessor.from_pretrained(directory)
    if settings.min_pixels or settings.max_pixels:
        size = dict(processor.image_processor.size)
        size["shortest_edge"] = settings.min_pixels or size["shortest_edge"]
        size["longest_edge"] = settings.max_pixels or size["longest_edge"]
        processor.image_processor.size = size
        processor.save_pretrained(directory)
    return {"files": len(names)}


def processor_of(directory: Path) -> Any:
    """The processor (tokenizer, image processor, chat template) of a model directory."""
    return AutoProcessor.from_pretrained(directory, local_files_only=True)


def load(directory: Path, precision: str = "fp32", zero3: dict[str, Any] | None = None) -> Any:
    """The model of a directory, in training mode, on the CPU.

    zero3: the DeepSpeed configuration of a ZeRO-3 run; each rank then reads only its part. Needs an initialised group.
    """
    if not (directory / "config.json").is_file():
        raise FileNotFoundError(f"no model in {directory}; run the stage that makes it")
    keep_alive: Any = None
    if zero3 is not None:
        import transformers.integrations as integrations

        keep_alive = integrations.HfDeepSpeedConfig(zero3)  # type: ignore[attr-defined]
    model = AutoModelForImageTextToText.from_pretrained(
        directory,
        dtype=torch.bfloat16 if precision == "bf16" else torch.float32,
        local_files_only=True,
        attn_implementation=attention(precision),
    )
    del keep_alive
    model.config.use_cache = False
    return model.train()


def attention(precision: str) -> str:
    """FlashAttention where the package is installed and the precision allows it, else what torch has."""
    if not torch.cuda.is_available():
        # Fused attention with a mask falls back to a slow path on the CPU: there the plain one trains twice as fast.
        return "eager"
    return "flash_attention_2" if precision == "bf16" and find_spec("flash_attn") else "sdpa"


def save(
    model: Any, processor: Any, directory: Path, state: dict[str, Any] | None = None, shard_size: str = "5GB"
) -> None:
    """Write weights (safetensors, in files of `shard_size` at most), configuration, tokenizer and processor."""
    directory.mkdir(parents=True, exist_ok=True)
    model.config.use_cache = True
    model.save_pretrained(directory, state_dict=state, max_shard_size=shard_size)
    processor.save_pretrained(directory)


def _processor(settings: ModelSettings, tokenizer: Any) -> Any:
    patch = 16 if settings.family == "qwen3_vl" else 14
    least = settings.min_pixels or (2 * patch) ** 2 * 16
    most = settings.max_pixels or least
    sizes = {"shortest_edge": min(least, most), "longest_edge": most}
    shared = {"patch_size": patch, "merge_size": 2, "temporal_patch_size": 2}
    from transformers import Qwen2VLImageProcessor, Qwen2VLVideoProcessor, Qwen3VLVideoProcessor

    image = Qwen2VLImageProcessor(size=sizes, **shared)
    video_class = Qwen3VLVideoProcessor if settings.family == "qwen3_vl" else Qwen2VLVideoProcessor
    video = video_class(size=sizes, **shared)
    if settings.family == "qwen2_vl":
        from transformers import Qwen2VLProcessor as Processor
    elif settings.family == "qwen2_5_vl":
        from transformers import Qwen2_5_VLProcessor as Processor
    else:
        from transformers import Qwen3VLProcessor as Processor
    return Processor(
        image_processor=image, tokenizer=tokenizer, video_processor=video, chat_template=tokenizer.chat_template
    )


def _config(family: Family, tiny: TinySettings, tokenizer: Any) -> Any:
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
