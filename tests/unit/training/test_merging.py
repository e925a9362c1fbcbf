"""An adapter is added to its base file by file: the same weights as peft's, in the base's types and names."""

import json
from pathlib import Path
from typing import Any

import pytest

from diagcot.jobs import UserError
from diagcot.training.config.settings import LoraSettings, MergeSettings, ModelSettings
from tests.training import images

SMALL = {"hidden": 64, "layers": 2, "intermediate": 64, "vision_hidden": 32, "vocabulary": 400}


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model in bf16 whose configuration says `torch_dtype`, as published folders do."""
    from safetensors.torch import load_file, save_file

    from diagcot.training.models import tiny

    folder = tmp_path_factory.mktemp("merging") / "base"
    texts = [text for sample in images.samples(8) for _, text in sample.messages]
    tiny.build(ModelSettings.model_validate({"family": request.param, "tiny": SMALL}), texts, folder)
    weights = {name: value.bfloat16() for name, value in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    about = json.loads((folder / "config.json").read_text())
    del about["dtype"]
    (folder / "config.json").write_text(json.dumps(about | {"torch_dtype": "bfloat16"}))
    (folder / "diagcot.json").write_text("{}")
    return folder


def adapter(base: Path, folder: Path, **changes: Any) -> Path:
    """An adapter of random weights, as a stage of LoRA writes it."""
    import torch

    from diagcot.training.models import lora, model

    torch.manual_seed(3)
    network = lora.add_adapter(model.load(base, "bf16"), LoraSettings(rank=4))
    for config in network.peft_config.values():
        for name, value in changes.items():
            setattr(config, name, value)
    if changes:  # the layers follow their configuration
        from peft import get_peft_model

        (config,) = network.peft_config.values()
        network = get_peft_model(model.load(base, "bf16"), config, autocast_adapter_dtype=False)
    for name, parameter in network.named_parameters():
        if "lora_" in name:
            assert parameter.dtype == torch.bfloat16  # peft's default would be float32 here
            parameter.data.normal_(0, 0.1 if "magnitude" not in name else 1)
    network.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("changes", [{}, {"use_rslora": True}, {"use_dora": True}], ids=["lora", "rslora", "dora"])
def test_the_sum_is_that_of_peft(base: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file

    from diagcot.training.models import merging, model

    part = adapter(base, tmp_path / "adapter", **changes)
    limit = 100_000
    count = merging.merge(base, part, tmp_path / "merged", limit)
    files = sorted((tmp_path / "merged").glob("*.safetensors"))
    assert len(files) > 1 and all(path.stat().st_size < limit + 5_000 for path in files)  # 5 kB: headers
    own = {name: value for path in files for name, value in load_file(path).items()}
    before = load_file(base / "model.safetensors")
    assert list(before) and own.keys() == before.keys()
    assert {str(value.dtype) for value in own.values()} == {"torch.bfloat16"}
    assert count == sum(value.numel() for value in before.values())
    changed = {name for name in own if not torch.equal(own[name], before[name])}
    assert len(changed) == 2 * 7 and not any("visual" in name for name in changed)
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert not (tmp_path / "merged" / "diagcot.json").exists()

    joined = model.load(tmp_path / "merged", "bf16").state_dict()
    network = PeftModel.from_pretrained(
        model.load(base, "bf16"), str(part), local_files_only=True, autocast_adapter_dtype=False
    )
    expected = network.merge_and_unload().state_dict()
    assert joined.keys() == expected.keys()
    for name in expected:
        assert torch.equal(joined[name], expected[name]), name


def test_the_kind_writes_one_file_where_it_fits(base: Path, tmp_path: Path) -> None:
    from diagcot.jobs import Unit
    from diagcot.jobs.testing import context, run_unit
    from diagcot.training.kinds import merge as kind
    from diagcot.training.models import model

    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "model").symlink_to(base)
    part = adapter(base, tmp_path / "adapter" / "model")
    inputs = {"model": [str(tmp_path / "base")], "adapter": [str(part.parent)]}
    result = run_unit(kind, Unit("model"), context(tmp_path, inputs=inputs))
    merged = context(tmp_path).output / "model"
    assert [path.name for path in merged.glob("*.safetensors*")] == ["model.safetensors"]
    assert model.load_processor(merged).tokenizer.chat_template
    about = json.loads((merged / "diagcot.json").read_text())
    assert result is not None and about["parameters"] == result.counts["parameters"] > 100_000


def test_what_trained_beside_the_adapter_is_taken_over(base: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    from diagcot.training.models import merging, model

    part = adapter(base, tmp_path / "adapter")
    head = model.load(base, "bf16").lm_head.weight.detach() * 2
    weights = load_file(part / "adapter_model.safetensors")
    save_file({**weights, "base_model.model.lm_head.weight": head.float()}, part / "adapter_model.safetensors")
    merging.merge(base, part, tmp_path / "merged", 10**9)
    own = load_file(tmp_path / "merged" / "model.safetensors")["lm_head.weight"]
    assert own.dtype == torch.bfloat16 and torch.equal(own, head)


def test_an_adapter_of_another_model_is_refused(base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from diagcot.training.models import merging

    part = adapter(base, tmp_path / "adapter")
    file = part / "adapter_model.safetensors"
    weights = load_file(file)
    some = next(name for name in weights if "lora_A" in name)
    for change, message in (
        ({name.replace("layers.1.", "layers.7."): value for name, value in weights.items()}, "no place"),
        ({**weights, "base_model.model.audio.weight": weights[some].clone()}, "no place"),
        ({name: value for name, value in weights.items() if name != some}, "lacks 1 matrices"),
        ({}, "lacks 28 matrices"),
    ):
        save_file(change, file)
        with pytest.raises(UserError, match=message) as caught:
            merging.merge(base, part, tmp_path / "merged", 10**9)
        assert str(file) in str(caught.value) and not (tmp_path / "merged").exists()
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UserError, match="Git-LFS pointer"):
        merging.merge(base, part, tmp_path / "merged", 10**9)


def test_sizes_of_weight_files() -> None:
    sizes = [MergeSettings(shard_size=size).shard_bytes for size in ("5GB", "200KB", "20MB")]
    assert sizes == [5_000_000_000, 200_000, 20_000_000]
    for wrong in ("0GB", "5", "5 GB", "5gb"):
        with pytest.raises(ValueError, match="shard_size"):
            MergeSettings(shard_size=wrong)
