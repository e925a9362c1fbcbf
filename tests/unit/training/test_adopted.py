"""Models that other suites wrote: adapters, output folders of LLaMA-Factory, and FSDP's parts of EasyR1 and verl."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diagcot.jobs import UserError
from diagcot.training.config.settings import LoraSettings, ModelSettings
from diagcot.training.cost import model_storage, shape_of
from diagcot.training.models.pretrained import rank_files, weight_paths
from tests.training import images

SMALL = {"hidden": 64, "layers": 2, "intermediate": 64, "vision_hidden": 32, "vocabulary": 400}
Weights = dict[str, Any]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diagcot.training.models import tiny

    folder = tmp_path_factory.mktemp("adopted") / "base"
    texts = [text for sample in images.samples(8) for _, text in sample.messages]
    tiny.build(ModelSettings.model_validate({"tiny": SMALL}), texts, folder)
    return folder


def weights(folder: Path) -> Weights:
    from safetensors.torch import load_file

    return {name: value for path in folder.glob("*.safetensors") for name, value in load_file(path).items()}


def adopted(folder: Path, target: Path, adapter: Path | None = None) -> Weights:
    from diagcot.training.models import model

    model.adopt(ModelSettings(pretrained=folder, adapter=adapter), target)
    return weights(target)


def actor(
    base: Path, folder: Path, shape: tuple[int, ...], change: Callable[[int, Weights], Any] = lambda rank, w: w
) -> Path:
    """An `actor/` folder of verl: DTensors of each rank of a mesh, whose last axis divides them along dimension 0."""
    import torch
    import torch.distributed as dist
    from torch.distributed.tensor import DTensor, Replicate, Shard, init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    shutil.copytree(base, folder / "huggingface", ignore=shutil.ignore_patterns("*.safetensors"))
    whole, ranks = weights(base), 1
    for size in shape:
        ranks *= size
    for rank in range(ranks):
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=ranks)
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=("ddp", "fsdp")[-len(shape) :])
        placements = [*[Replicate()] * (len(shape) - 1), Shard(0)]
        state = {}
        for name, value in whole.items():  # no collective: a fake group would give the other ranks nothing
            chunks = value.chunk(shape[-1])
            own = chunks[rank % shape[-1]].clone() if rank % shape[-1] < len(chunks) else value[:0].clone()
            about = {"run_check": False, "shape": value.shape, "stride": value.stride()}
            state[name] = DTensor.from_local(own, mesh, placements, **about)
        torch.save(change(rank, state), folder / f"model_world_size_{ranks}_rank_{rank}.pt")
        dist.destroy_process_group()
    return folder


@pytest.mark.parametrize("shape", [(2,), (3,), (2, 2)], ids=str)
def test_parts_of_fsdp_become_the_model(shape: tuple[int, ...], base: Path, tmp_path: Path) -> None:
    import torch

    folder = actor(base, tmp_path / "actor", shape)
    settings = ModelSettings(pretrained=folder)
    assert sum(shape_of(settings).counts.values()) == sum(value.numel() for value in weights(base).values())
    assert model_storage(settings) == sum(path.stat().st_size for path in folder.glob("*.pt"))
    found, whole = adopted(folder, tmp_path / "model"), weights(base)
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], value) for name, value in whole.items())
    assert (tmp_path / "model" / "generation_config.json").is_file()


def test_parts_that_are_plain_tensors_are_joined(base: Path, tmp_path: Path) -> None:
    import torch

    folder, whole = tmp_path / "actor", weights(base)
    shutil.copytree(base, folder / "huggingface", ignore=shutil.ignore_patterns("*.safetensors"))
    for rank in range(2):
        part = {name: value.chunk(2)[rank].clone() for name, value in whole.items()}
        torch.save(part, folder / f"model_world_size_2_rank_{rank}.pt")
    found = adopted(folder, tmp_path / "model")
    assert all(torch.equal(found[name], value) for name, value in whole.items())


def test_the_type_is_that_of_the_configuration(base: Path, tmp_path: Path) -> None:
    import torch

    folder = actor(base, tmp_path / "actor", (2,))
    path = folder / "huggingface" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "dtype": "bfloat16"}))
    assert {value.dtype for value in adopted(folder, tmp_path / "model").values()} == {torch.bfloat16}


def without(name: str, rank: int) -> Callable[[int, Weights], Weights]:
    return lambda own, w: {key: value for key, value in w.items() if own != rank or name not in key}


PARTS: dict[str, tuple[Callable[[int, Weights], Any], str]] = {
    "a tensor of one rank": (without("lm_head", 1), r"rank_1\.pt and .*rank_0\.pt do not hold the same tensors: lm_head"),
    "a tensor of all": (lambda rank, w: without("lm_head", rank)(rank, w), r"1 parameters are missing, such as lm_head\.weight"),
    "another name": (lambda rank, w: {f"x.{key}": value for key, value in w.items()}, r"do not belong to it, such as x\."),
    "an adapter": (lambda rank, w: {**w, "q.lora_A.weight": w["lm_head.weight"]}, r"holds an adapter .*lora_adapter"),
    "an object": (lambda rank, w: {**w, "step": Path("x")}, r"holds more than tensors and is not loaded"),
    "a number": (lambda rank, w: {**w, "step": 3}, r"holds no state of a model"),
}  # fmt: skip


@pytest.mark.parametrize("fault", PARTS)
def test_parts_that_make_no_model_are_refused(fault: str, base: Path, tmp_path: Path) -> None:
    change, message = PARTS[fault]
    with pytest.raises(UserError, match=message):
        adopted(actor(base, tmp_path / "actor", (2,), change), tmp_path / "model")


def test_a_missing_rank_is_named_before_anything_is_submitted(base: Path, tmp_path: Path) -> None:
    folder = actor(base, tmp_path / "actor", (2,))
    shutil.copyfile(folder / "model_world_size_2_rank_0.pt", folder / "model_world_size_4_rank_0.pt")
    with pytest.raises(UserError, match="checkpoints of 2 numbers of ranks"):
        weight_paths(folder)
    (folder / "model_world_size_4_rank_0.pt").unlink()
    (folder / "model_world_size_2_rank_0.pt").unlink()
    with pytest.raises(UserError, match=r"lacks model_world_size_2_rank_0\.pt; copy the files of all ranks"):
        weight_paths(folder)
    assert rank_files(base) == []


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of random weights with the list of targets that LLaMA-Factory writes."""
    from diagcot.training.models import lora, model

    network = lora.add_adapter(model.load(base), LoraSettings(rank=4))
    for name, parameter in network.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(0, 0.1)
    folder = tmp_path_factory.mktemp("adapter") / "adapter"
    network.save_pretrained(folder)
    return folder


def changed(adapter: Path, folder: Path, change: Callable[[Weights], Weights]) -> Path:
    from safetensors.torch import save_file

    shutil.copytree(adapter, folder)
    save_file(change(weights(adapter)), folder / "adapter_model.safetensors", {"format": "pt"})
    return folder


def test_an_adapter_is_added_to_its_base(base: Path, adapter: Path, tmp_path: Path) -> None:
    import torch

    from diagcot.training.models import merging

    merging.merge(base, adapter, tmp_path / "merged", 10**9)
    merged = weights(tmp_path / "merged")
    found = adopted(base, tmp_path / "model", adapter)
    assert all(torch.equal(found[name], value) for name, value in merged.items())
    assert any(not torch.equal(found[name], value) for name, value in weights(base).items())
    older = changed(
        adapter, tmp_path / "older", lambda w: {k.replace("model.language_model.", "model."): v for k, v in w.items()}
    )
    again = adopted(base, tmp_path / "again", older)
    assert all(torch.equal(again[name], value) for name, value in merged.items())
    with pytest.raises(UserError, match=r"is an adapter on .*base: name that model's folder as `pretrained`"):
        weight_paths(adapter)
    assert weight_paths(base, adapter)[-1] == adapter / "adapter_model.safetensors"
    with pytest.raises(ValueError, match="needs its base"):
        ModelSettings(adapter=adapter)


ADAPTERS: dict[str, tuple[Callable[[Weights], Weights], str]] = {
    "half of it": (lambda w: dict(list(w.items())[::2]), r"lacks 14 matrices of its adapter, such as model\.language_model"),
    "a layer": (lambda w: {k: v for k, v in w.items() if "layers.1" not in k}, r"lacks 14 matrices .*layers\.1\."),
    "another name": (lambda w: {k.replace("q_proj", "query"): v for k, v in w.items()}, r"query.*has no place in the base"),
    "one too many": (lambda w: {**w, "audio.lora_A.weight": next(iter(w.values())).clone()}, r"holds audio\.lora_A"),
    "another width": (
        lambda w: {k: v[:, :8].clone() if "lora_A" in k else v for k, v in w.items()},
        r"whose shape \(4, 8\) does not fit",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", ADAPTERS)
def test_an_adapter_that_does_not_fit_is_refused(fault: str, base: Path, adapter: Path, tmp_path: Path) -> None:
    change, message = ADAPTERS[fault]
    with pytest.raises(UserError, match=message):
        adopted(base, tmp_path / "model", changed(adapter, tmp_path / "adapter", change))


def test_ranks_of_single_layers_are_left_to_peft(base: Path, adapter: Path, tmp_path: Path) -> None:
    folder = changed(adapter, tmp_path / "adapter", lambda w: w)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "rank_pattern": {"q_proj": 2}}))
    with pytest.raises(UserError, match="rank_pattern, alpha_pattern"):
        adopted(base, tmp_path / "model", folder)


def test_an_output_folder_of_llama_factory_is_a_model(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "saves"
    shutil.copytree(base, folder)
    for name in ("trainer_state.json", "all_results.json", "trainer_log.jsonl", "training_args.bin"):
        (folder / name).write_text("{}")
    shutil.copytree(base, folder / "checkpoint-2")
    adopted(folder, tmp_path / "model")
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert {"config.json", "model.safetensors", "generation_config.json"} <= names
    assert not names & {"trainer_state.json", "all_results.json", "training_args.bin", "checkpoint-2"}


def test_a_folder_without_tokenizer_json_gets_one(base: Path, tmp_path: Path) -> None:
    """Older folders hold vocabulary and merges apart; what reads tokens without transformers needs the new file."""
    from diagcot.evaluation.predict import first_tokens

    folder = tmp_path / "older"
    shutil.copytree(base, folder)
    whole = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(whole["model"]["vocab"]))
    (folder / "merges.txt").write_text("".join(" ".join(pair) + "\n" for pair in whole["model"]["merges"]))
    path = folder / "tokenizer_config.json"
    added = {str(row["id"]): {key: row[key] for key in row if key != "id"} for row in whole["added_tokens"]}
    about = json.loads(path.read_text()) | {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": added}
    path.write_text(json.dumps(about))
    adopted(folder, tmp_path / "model")
    assert first_tokens(tmp_path / "model") == first_tokens(base)
    assert not (folder / "tokenizer.json").exists()
