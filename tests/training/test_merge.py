"""LoRA on one rank, then the merge: the merged model computes what base and adapter did."""

import json
from pathlib import Path

import pytest

from tests.training.conftest import deepspeed, inputs

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def adapter(training_root: Path) -> Path:
    from diagcot.jobs import Unit
    from diagcot.jobs.testing import context, run_unit
    from diagcot.training.data import collator
    from diagcot.training.kinds import merge, sft
    from tests.training.images import DrawnImages

    settings = {
        "trainable": ["lora"],
        "lora": {"rank": 4},
        "deepspeed": deepspeed(steps=6, learning_rate=1e-2),
        "validation": 4,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collator, "ShardImages", DrawnImages)
        assert run_unit(
            sft, Unit("model"), context(training_root, settings, inputs=inputs(training_root), stage="teacher")
        )
    sources = {**inputs(training_root), "adapter": [str(training_root / "shards/test/teacher")]}
    assert run_unit(
        merge, Unit("model"), context(training_root, {"shard_size": "200KB"}, inputs=sources, stage="merged")
    )
    return training_root / "shards/test/teacher/model"


def test_adapter_is_on_the_language_model_alone(adapter: Path) -> None:
    from safetensors.torch import load_file

    names = load_file(adapter / "adapter_model.safetensors").keys()
    assert names and all("language_model" in name and "visual" not in name for name in names)
    about = json.loads((adapter / "diagcot.json").read_text())
    assert about["trainable"] == about["trainable_lora"]


def test_merged_logits_equal_the_adapters(adapter: Path, training_root: Path) -> None:
    import torch
    from peft import PeftModel

    from diagcot.training.data.collator import Collator
    from diagcot.training.losses import language
    from diagcot.training.models import model
    from tests.training import images

    base, merged = training_root / "shards/test/base/model", training_root / "shards/test/merged/model"
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
