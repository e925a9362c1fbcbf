"""A model loads whole or not at all: what is missing, foreign, cut short or a pointer is named with its file."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diagcot.jobs import UserError
from diagcot.training.config.settings import Family, ModelSettings
from diagcot.training.families import FAMILIES
from diagcot.training.models.pretrained import weights_of
from diagcot.training.models.weight_files import tensors_of
from tests.training import images

Weights = dict[str, Any]
EMBEDDINGS = "embed_tokens.weight"
SMALL = {"hidden": 64, "layers": 2, "intermediate": 64, "vision_hidden": 32, "vocabulary": 400}


@pytest.fixture(scope="module", params=FAMILIES)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diagcot.training.models import tiny

    folder = tmp_path_factory.mktemp(request.param)
    texts = [text for sample in images.samples(8) for _, text in sample.messages]
    family: Family = request.param
    tiny.build(ModelSettings.model_validate({"family": family, "tiny": SMALL}), texts, folder / "model")
    return folder / "model"


def changed(whole: Path, folder: Path, change: Callable[[Weights], Weights], **config: bool) -> Path:
    """A copy of a model with other weights, and other values in its configuration."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(whole, folder)
    save_file(change(load_file(whole / "model.safetensors")), folder / "model.safetensors", {"format": "pt"})
    about = json.loads((folder / "config.json").read_text())
    about["text_config"] |= config
    (folder / "config.json").write_text(json.dumps(about | config))
    return folder


FAULTS: dict[str, tuple[Callable[[Weights], Weights], str]] = {
    "half of it": (lambda w: dict(list(w.items())[::2]), r"model\.safetensors: \d+ parameters are missing"),
    "no embeddings": (
        lambda w: {k: v for k, v in w.items() if not k.endswith(EMBEDDINGS)},
        r"missing, such as .*(embed_tokens|lm_head)\.weight",
    ),
    "another name": (
        lambda w: {k.replace("q_proj", "query"): v for k, v in w.items()},
        r"missing, such as .*q_proj.*; .*do not belong to it, such as .*query",
    ),
    "an adapter's prefix": (
        lambda w: {f"base_model.model.{k}": v for k, v in w.items()},
        r"do not belong to it, such as base_model\.model\.",
    ),
    "one too many": (lambda w: {**w, "audio.weight": next(iter(w.values())).clone()}, r"such as audio\.weight"),
    "another shape": (
        lambda w: {k: v[:, :8].clone() if k.endswith(EMBEDDINGS) else v for k, v in w.items()},
        r"another shape, such as .*embed_tokens\.weight with \(\d+, 8\)",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_model_that_is_not_whole_is_refused(fault: str, whole: Path, tmp_path: Path) -> None:
    from diagcot.training.models import model

    change, message = FAULTS[fault]
    folder = changed(whole, tmp_path / "model", change)
    family: Family = json.loads((folder / "config.json").read_text())["model_type"]
    with pytest.raises(UserError, match=message):
        model.adopt(ModelSettings(family=family, pretrained=folder), tmp_path / "mine")
    with pytest.raises(UserError, match=message):
        model.load(folder)
    with pytest.raises(UserError, match=message):  # refused before DeepSpeed divides anything
        model.load(folder, zero3={"zero_optimization": {"stage": 3}, "train_micro_batch_size_per_gpu": 1})


def test_tied_weights_are_not_missing(whole: Path, tmp_path: Path) -> None:
    from diagcot.training.models import model

    folder = changed(
        whole,
        tmp_path / "model",
        lambda w: {k: v for k, v in w.items() if not k.endswith("lm_head.weight")},
        tie_word_embeddings=True,
    )
    network = model.load(folder)
    assert network.get_output_embeddings().weight is network.get_input_embeddings().weight
    from safetensors.torch import load_file

    stored = load_file(folder / "model.safetensors")
    embedding = next(value for name, value in stored.items() if name.endswith("embed_tokens.weight"))
    assert bool((network.get_output_embeddings().weight == embedding).all())


def test_files_of_quantised_weights_are_checked_alone(whole: Path, tmp_path: Path) -> None:
    from diagcot.training.models import architecture

    folder = changed(whole, tmp_path / "model", lambda w: {f"{k}.qweight": v for k, v in w.items()})
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(about | {"quantization_config": {"quant_method": "awq"}}))
    architecture.check_whole(folder)


def written(folder: Path, content: bytes, name: str = "model.safetensors") -> Path:
    (folder / "config.json").write_text('{"model_type": "qwen2_vl"}')
    (folder / name).write_bytes(content)
    return folder


def safetensors(rows: Any, data: bytes) -> bytes:
    header = json.dumps(rows).encode()
    return struct.pack("<Q", len(header)) + header + data


ONE = {"a": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}, "__metadata__": {"format": "pt"}}
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 3864726352\n"


def test_headers_are_those_that_safetensors_reads(whole: Path) -> None:
    from safetensors import safe_open

    own = tensors_of(whole / "model.safetensors")
    with safe_open(whole / "model.safetensors", "pt") as file:
        assert {name: file.get_slice(name).get_shape() for name in file.keys()} == {  # noqa: SIM118
            name: list(tensor.shape) for name, tensor in own.items()
        }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (POINTER, r"model\.safetensors is a Git-LFS pointer.*git lfs pull"),
        (safetensors(ONE, bytes(7)), "has .* bytes instead of"),
        (safetensors(ONE, bytes(9)), "has .* bytes instead of"),
        (safetensors(ONE, bytes(8))[:40], "cut short or is no safetensors"),
        (b"", "cut short or is no safetensors"),
        (b"x" * 100, "cut short or is no safetensors"),
        (safetensors(["a"], b""), "no safetensors file"),
        (safetensors({"a": {"dtype": "F32"}}, b""), "no safetensors file"),
    ],
)
def test_damaged_weight_files_are_named(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        weights_of(written(tmp_path, content))
    assert str(tmp_path / "model.safetensors") in str(caught.value)


def test_index_and_small_files(tmp_path: Path) -> None:
    written(tmp_path, safetensors(ONE, bytes(8)), "1.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "1.safetensors"}}))
    assert weights_of(tmp_path)["1.safetensors"]["a"].shape == (2, 2)
    index.write_text(json.dumps({"weight_map": {"a": "1.safetensors", "b": "1.safetensors"}}))
    with pytest.raises(UserError, match=r"1\.safetensors lacks b"):
        weights_of(tmp_path)
    for content in (POINTER, b"{", b"[]"):
        index.write_bytes(content)
        with pytest.raises(UserError, match=r"model\.safetensors\.index\.json"):
            weights_of(tmp_path)
    index.unlink()
    written(tmp_path, safetensors(ONE, bytes(8)))
    (tmp_path / "tokenizer.json").write_bytes(POINTER)
    with pytest.raises(UserError, match=r"tokenizer\.json is a Git-LFS pointer"):
        weights_of(tmp_path)


def test_the_pixel_budget_stands_in_one_file(whole: Path, tmp_path: Path) -> None:
    from diagcot.training.models import model

    shutil.copytree(whole, tmp_path / "source")
    family: Family = json.loads((whole / "config.json").read_text())["model_type"]
    if not FAMILIES[family].pixel_budget:
        pytest.skip(f"{family} has no pixel budget")
    (tmp_path / "source" / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "Qwen2VLImageProcessor", "min_pixels": 3136, "max_pixels": 12845056})
    )
    budget = ModelSettings(family=family, pretrained=tmp_path / "source", max_pixels=50176)
    model.adopt(budget, tmp_path / "mine")
    assert not (tmp_path / "mine" / "preprocessor_config.json").exists()
    assert model.load_processor(tmp_path / "mine").image_processor.size["longest_edge"] == 50176
    model.adopt(budget.model_copy(update={"max_pixels": None}), tmp_path / "as-it-is")
    assert (tmp_path / "as-it-is" / "preprocessor_config.json").exists()
