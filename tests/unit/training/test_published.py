"""What stages publish loads in plain transformers and peft: weights in several files, processor, generation, card."""

import json
from pathlib import Path
from typing import Any

import pytest

from diagcot.jobs import Context, Unit
from diagcot.jobs.testing import context, run_unit
from diagcot.training.config.settings import LoraSettings, ModelSettings
from tests.training import images

SMALL = {"hidden": 64, "layers": 2, "intermediate": 64, "vision_hidden": 32, "vocabulary": 400}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diagcot.training.models import tiny

    folder = tmp_path_factory.mktemp("published") / "models" / "demo" / "base" / "model"
    texts = [text for sample in images.samples(8) for _, text in sample.messages]
    tiny.build(ModelSettings.model_validate({"tiny": SMALL}), texts, folder)
    return folder


def trained(tmp_path: Path, base: Path) -> Context:
    """A stage of training that has written its log."""
    settings = {"trainable": ["merger"], "prompt_set": "default", "prompt_digest": "abc"}
    ctx = context(tmp_path, settings, run="demo", stage="sft", inputs={"model": [str(base.parent)]})
    (ctx.workspace / "train.jsonl").write_text("{}\n")
    return ctx


def answer(folder: Path, network: Any) -> list[int]:
    """Tokens that a loaded model writes about an image, with the processor and the generation settings of its folder."""
    from PIL import Image
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "report"}]}]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = processor(text=prompt, images=[Image.new("RGB", (56, 56))], return_tensors="pt")
    written = network.generate(**inputs, max_new_tokens=4, do_sample=False)
    return list(written[0, inputs["input_ids"].shape[1] :].tolist())


def test_a_whole_model_loads_in_plain_transformers(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForImageTextToText, GenerationConfig

    from diagcot.training.checkpoint import export
    from diagcot.training.models import model

    monkeypatch.setattr(model, "SHARD_BYTES", 200_000)
    ctx = trained(tmp_path, base)
    model.save(model.load(base), model.load_processor(base), ctx.workspace / "best")
    assert len(list((ctx.workspace / "best").glob("model-*.safetensors"))) > 1
    result = export.copy(ctx, ctx.workspace / "best", {"parameters": 123456, "loss": 0.5, "phantom": "no number"})
    staged = result.outputs[ctx.output / "model"]
    network = AutoModelForImageTextToText.from_pretrained(staged)
    assert len(answer(staged, network)) > 0
    generation = GenerationConfig.from_pretrained(staged)
    assert generation.eos_token_id == GenerationConfig.from_pretrained(base).eos_token_id is not None
    card = (staged / "README.md").read_text()
    assert "| architecture | Qwen2_5_VLForConditionalGeneration |" in card and "| parameters | 123,456 |" in card
    assert "| from (`model`) | `demo/base` |" in card and "| trained | merger |" in card and "digest abc" in card
    assert str(tmp_path) not in card and str(base.parent) not in card
    assert card.startswith("---\nlibrary_name: transformers\n")


def test_an_adapter_loads_in_plain_peft_and_merged_alike(base: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    from diagcot.training.checkpoint import export
    from diagcot.training.kinds import merge
    from diagcot.training.models import lora, model

    ctx = trained(tmp_path, base)
    network = lora.add_adapter(model.load(base), LoraSettings(rank=4))
    for name, parameter in network.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(0, 0.1)
    lora.save(network, network.state_dict(), ctx.workspace / "best")
    model.load_processor(base).save_pretrained(ctx.workspace / "best")
    staged = export.copy(ctx, ctx.workspace / "best", {}).outputs[ctx.output / "model"]
    assert (staged / "README.md").read_text().startswith("---\nlibrary_name: peft\n")
    staged.rename(ctx.output / "model")
    plain = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(base), str(ctx.output / "model"))
    inputs = {"model": [str(base.parent)], "adapter": [str(ctx.output)]}
    merged = context(tmp_path, {"shard_size": "200KB"}, run="demo", stage="merged", inputs=inputs)
    assert run_unit(merge, Unit("model"), merged)
    folder = merged.output / "model"
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1 and (folder / "generation_config.json").is_file()
    assert "`test/sft`" in (folder / "README.md").read_text()
    whole = AutoModelForImageTextToText.from_pretrained(folder)
    assert answer(folder, whole) == answer(ctx.output / "model", plain)
