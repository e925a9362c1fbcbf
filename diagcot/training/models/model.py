"""Loads and saves vision-language models as Hugging Face directories."""

import shutil
from pathlib import Path
from typing import Any

from diagcot.jobs import ModelError
from diagcot.training.config.settings import TEXT, ModelSettings
from diagcot.training.distributed import library_setup
from diagcot.training.families import Family, family_named
from diagcot.training.models import architecture, attention
from diagcot.training.models.pretrained import (
    OF_TRAINING,
    SMALL_FILES,
    check_family,
    check_pixel_budget,
    family_of,
    rank_files,
    weights_of,
)

library_setup.configure()

import torch  # noqa: E402
from transformers import AutoModelForImageTextToText, AutoProcessor, BitsAndBytesConfig  # noqa: E402

SHARD_BYTES = 5 * 10**9
"""Of a weight file that is written."""


def adopt(settings: ModelSettings, directory: Path) -> dict[str, Any]:
    """Make `directory` the user's model: a view of its folder, its adapter added, or the gathered parts of FSDP's ranks.

    A view has links to the weights and copies of the small files. Returns the number of weight files. Raises ModelError
    that names what the model lacks. A pixel budget is written into `processor_config.json`; the older
    `preprocessor_config.json`, which would keep another one, then goes.
    """
    from diagcot.training.models import fsdp, merging

    source = settings.pretrained
    assert source is not None
    check_family(settings)
    check_pixel_budget(settings)
    ranks = rank_files(source)
    if ranks and settings.adapter:
        raise ModelError(
            f"{source} is divided among ranks; import it by a stage of its own, and merge the adapter after it"
        )
    if ranks:
        fsdp.gather(source, directory, SHARD_BYTES)
        architecture.check_whole(directory)
    elif settings.adapter:
        merging.merge(source, settings.adapter, directory, SHARD_BYTES)
    else:
        _link(source, directory)
    processor = AutoProcessor.from_pretrained(directory, local_files_only=True)
    if not (
        directory / "tokenizer.json"
    ).is_file():  # older folders hold its vocabulary and merges in files of their own
        getattr(processor, "tokenizer", processor).save_pretrained(directory)
    if settings.family == TEXT:
        _check_chat(processor, source)
    elif settings.min_pixels or settings.max_pixels:
        size = dict(processor.image_processor.size)
        size["shortest_edge"] = settings.min_pixels or size["shortest_edge"]
        size["longest_edge"] = settings.max_pixels or size["longest_edge"]
        processor.image_processor.size = size
        processor.save_pretrained(directory)
        (directory / "preprocessor_config.json").unlink(missing_ok=True)
    return {"files": len(weights_of(directory))}


def _check_chat(tokenizer: Any, source: Path) -> None:
    """Raise ModelError for a language model that cannot be talked to: a base that was not trained on conversations."""
    if not tokenizer.chat_template:
        raise ModelError(
            f"{source} has no chat template, so no server can ask it: take a model that follows instructions, or put its"
            " template beside it as chat_template.jinja"
        )


def _link(source: Path, directory: Path) -> None:
    names = weights_of(source)
    architecture.check_whole(source)
    directory.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        if path.name in names:
            (directory / path.name).symlink_to(path.resolve())
        elif path.is_file() and path.suffix in SMALL_FILES and path.name not in OF_TRAINING:
            shutil.copyfile(path, directory / path.name)


def load_processor(directory: Path) -> Any:
    """The processor (tokenizer, image processor, chat template) of a model directory.

    A tokenizer that names no token for filling rows fills them with its end token: nothing is learned there.
    """
    processor = AutoProcessor.from_pretrained(directory, local_files_only=True)
    if processor.tokenizer.pad_token is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    return processor


def load(directory: Path, precision: str = "fp32", zero3: dict[str, Any] | None = None, four_bits: bool = False) -> Any:
    """The model of a directory, in training mode, on the CPU.

    zero3: the DeepSpeed configuration of a ZeRO-3 run; each rank then reads only its part, which needs an initialised
    process group. four_bits: pack the language model's projections as QLoRA does; the model is then on this rank's GPU.
    Raises FileNotFoundError if there is no model, and ModelError if it is not whole: what transformers does not find it draws
    at random.
    """
    if not (directory / "config.json").is_file():
        raise FileNotFoundError(f"no model in {directory}; run the stage that makes it")
    architecture.check_whole(directory)
    family = family_named(family_of(directory))
    keep_alive: Any = None
    if zero3 is not None:
        from transformers import integrations

        keep_alive = integrations.HfDeepSpeedConfig(zero3)
    model = AutoModelForImageTextToText.from_pretrained(
        directory,
        dtype=torch.bfloat16 if precision == "bf16" else torch.float32,
        local_files_only=True,
        attn_implementation=attention.implementation(family, precision),
        quantization_config=quantization(family) if four_bits else None,
    )
    del keep_alive
    attention.with_bounds(model)
    model.config.use_cache = False
    return model.train()


def quantization(family: Family) -> BitsAndBytesConfig:
    """How QLoRA packs weights (Dettmers et al. 2023, arXiv:2305.14314): NF4 with double quantisation, products in bf16.

    Vision tower, projector, embeddings and head stay as they are.
    """
    apart = [f"model.{name}" for name in (*family.vision, *family.projector)]
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=[*apart, "lm_head"],  # of 4 bits, too
    )


def save(model: Any, processor: Any, directory: Path, state: dict[str, Any] | None = None) -> None:
    """Write weights (safetensors, in files of 5 GB at most), configuration, tokenizer and processor.

    state: the weights by name, where they are not those of `model`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    model.config.use_cache = True
    if turned := family_named(model.config.model_type).turned:
        # transformers turns them when it reads a file and not when it writes one, and servers read them turned.
        state = {
            name: value.transpose(-1, -2).contiguous() if name.endswith(turned) else value
            for name, value in (state or model.state_dict()).items()
        }
    model.save_pretrained(directory, state_dict=state, max_shard_size=SHARD_BYTES, save_original_format=not turned)
    processor.save_pretrained(directory)
