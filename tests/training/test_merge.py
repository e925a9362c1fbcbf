"""LoRA on one rank, alone and with a merger that trains, then the merge: the model computes what base and adapter did."""

import json
from pathlib import Path
from typing import Any

import pytest

from diagcot.training.config.settings import LoraSettings
from tests.training.conftest import deepspeed, inputs

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module", params=[["lora"], ["lora", "merger"]], ids="+".join)
def adapter(training_root: Path, request: pytest.FixtureRequest) -> Path:
    from diagcot.jobs import Unit
    from diagcot.jobs.testing import context, run_unit
    from diagcot.training.data import collator
    from diagcot.training.kinds import merge, sft
    from tests.training.images import DrawnImages

    stage = "-".join(["teacher", *request.param])
    settings = {
        "trainable": request.param,
        "lora": {"rank": 4},
        "deepspeed": deepspeed(steps=6, learning_rate=1e-2),
        "validation": 4,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collator, "ShardImages", DrawnImages)
        assert run_unit(sft, Unit("model"), context(training_root, settings, inputs=inputs(training_root), stage=stage))
    sources = {**inputs(training_root), "adapter": [str(training_root / "shards/test" / stage)]}
    assert run_unit(
        merge, Unit("model"), context(training_root, {"shard_size": "200KB"}, inputs=sources, stage=f"{stage}-merged")
    )
    return training_root / "shards/test" / stage / "model"


def merged_of(adapter: Path) -> Path:
    return adapter.parent.with_name(f"{adapter.parent.name}-merged") / "model"


def test_adapter_is_on_the_language_model_alone(adapter: Path, training_root: Path) -> None:
    from safetensors.torch import load_file

    weights = load_file(adapter / "adapter_model.safetensors")
    about = json.loads((adapter / "diagcot.json").read_text())
    config = json.loads((adapter / "adapter_config.json").read_text())
    adapters = {name for name in weights if "lora_" in name}
    assert adapters and all("language_model" in name for name in adapters)
    assert sum(weights[name].numel() for name in adapters) == about["trainable_lora"]
    beside = weights.keys() - adapters
    if "merger" not in adapter.parent.name:
        assert not beside and config["modules_to_save"] is None and about["trainable"] == about["trainable_lora"]
        return
    assert config["modules_to_save"] == ["model.visual.merger"]
    assert beside and all(name.startswith("base_model.model.model.visual.merger.") for name in beside)
    assert sum(weights[name].numel() for name in beside) == about["trainable_merger"]
    base, merged = (load_all(training_root / "shards/test/base/model"), load_all(merged_of(adapter)))
    changed = {name for name, value in base.items() if not value.equal(merged[name])}
    assert changed >= {name for name in base if ".merger." in name}
    assert all(".merger." in name or "_proj.weight" in name for name in changed)


def load_all(directory: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return {name: value for path in directory.glob("model*.safetensors") for name, value in load_file(path).items()}


def test_merged_logits_equal_the_adapters(adapter: Path, training_root: Path) -> None:
    import torch
    from peft import PeftModel

    from diagcot.training.data.collator import Collator
    from diagcot.training.losses import language
    from diagcot.training.models import model
    from tests.training import images

    base, merged = training_root / "shards/test/base/model", merged_of(adapter)
    index = json.loads(
        (merged / "model.safetensors.index.json").read_text()
    )  # more than one file, as a large model has
    assert len(set(index["weight_map"].values())) > 1
    collator = Collator(model.load_processor(merged), training_root, 4096, source=images.DrawnImages())
    batch = language.model_inputs(collator(images.samples(4)))
    with torch.no_grad():
        plain = model.load(base).eval()(**batch).logits
        adapted = PeftModel.from_pretrained(model.load(base), str(adapter)).eval()(**batch).logits
        joined = model.load(merged).eval()(**batch).logits
    assert float((adapted - plain).abs().max()) > 0.1
    torch.testing.assert_close(joined, adapted, atol=1e-4, rtol=1e-4)


def test_an_adapter_that_is_switched_off_leaves_the_base_and_merges_as_peft_does(
    adapter: Path, training_root: Path
) -> None:
    """What GRPO with an adapter takes as reference and sends to its servers, and that gradients flow as before."""
    import torch
    from peft import PeftModel

    from diagcot.training.data.collator import Collator
    from diagcot.training.losses import language
    from diagcot.training.models import lora, model
    from tests.training import images

    base = training_root / "shards/test/base/model"
    collator = Collator(model.load_processor(base), training_root, 4096, source=images.DrawnImages())
    batch = collator(images.samples(2))
    inputs = language.model_inputs(batch)
    network = PeftModel.from_pretrained(model.load(base), str(adapter), is_trainable=True).eval()
    trained = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    with torch.no_grad():
        before = network(**inputs).logits
        with lora.switched_off(network):
            off = network(**inputs).logits
        after = network(**inputs).logits
        if "merger" not in adapter.parent.name:
            torch.testing.assert_close(off, model.load(base).eval()(**inputs).logits, atol=0, rtol=0)
    assert float((before - off).abs().max()) > 0.1
    torch.testing.assert_close(after, before, atol=0, rtol=0)
    assert [name for name, parameter in network.named_parameters() if parameter.requires_grad] == trained
    language.summed_loss(network, inputs, batch["labels"]).backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())

    plain = lora.add_adapter(model.load(base), LoraSettings(rank=4))
    plain.load_state_dict(
        {name: value for name, value in network.state_dict().items() if "lora_" in name}, strict=False
    )
    one_by_one = {weight.name: weight.value() for weight in lora.served_weights(plain)}
    ours = lora.merged(plain)
    theirs = plain.merge_and_unload().state_dict()
    assert ours.keys() == theirs.keys() == one_by_one.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(one_by_one[name], ours[name], atol=0, rtol=0)
