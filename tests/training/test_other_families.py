"""Families other than Qwen, each from its tiny base to a merged teacher, and what a server makes of the same prompt."""

import asyncio
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from diagcot.serving import Reply, Request
from diagcot.tasks.prompts import with_image_tags
from diagcot.tasks.samples import ImageRef, Sample
from diagcot.training.families import FAMILIES, Family
from tests.training import images
from tests.training.conftest import deepspeed
from tests.unit.evaluation.evaluated_run import write_shard

pytestmark = pytest.mark.heavy

TINY = {"hidden": 64, "layers": 2, "vision_hidden": 32, "intermediate": 128, "vocabulary": 420}
SIZES = ((112, 112), (90, 200), (260, 120))  # width and height of images


class SizedImages(images.DrawnImages):
    """Drawn images whose size follows their row."""

    def size(self, ref: ImageRef) -> tuple[int, int]:
        return SIZES[ref.row % len(SIZES)]

    def pixels(self, ref: ImageRef) -> Any:
        return super().pixels(ref).resize(self.size(ref))


@pytest.fixture(
    scope="module", params=[name for name in FAMILIES if name not in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")]
)
def root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with samples and the family's tiny model as stage `base`."""
    from diagcot.training.kinds import model

    root = tmp_path_factory.mktemp(request.param)
    images.write(root / "shards" / "test" / "samples", 16)
    run(root, model, "base", {"family": request.param, "tiny": TINY}, samples="samples")
    return root


def run(root: Path, kind: Any, stage: str, settings: dict[str, Any], **inputs: str) -> Path:
    """The model directory that a stage writes. inputs: role -> stage."""
    from diagcot.jobs import Unit
    from diagcot.jobs.testing import context, run_unit
    from diagcot.training.data import collator

    sources = {role: [str(root / "shards/test" / name)] for role, name in inputs.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collator, "ShardImages", SizedImages)
        assert run_unit(kind, Unit("model"), context(root, settings, inputs=sources, stage=stage)) is not None
    return root / "shards/test" / stage / "model"


def base_of(root: Path) -> Path:
    return root / "shards/test/base/model"


def family_of(root: Path) -> Family:
    return FAMILIES[json.loads((base_of(root) / "config.json").read_text())["model_type"]]


def study(count: int) -> Sample:
    """A sample of the first images together."""
    last = images.samples(count)[-1]
    refs = tuple(ref for sample in images.samples(count) for ref in sample.images)
    turns = (("user", with_image_tags(last.prompt, count)), last.messages[1])
    return Sample(f"study/{count}", "report", "s", refs, turns)


def changed(before: Path, after: Path) -> set[str]:
    """Components whose parameters differ."""
    from safetensors.torch import load_file

    from diagcot.training.models.freeze import component_of

    old, new = (load_file(folder / "model.safetensors") for folder in (before, after))
    assert old.keys() == new.keys()
    return {component_of(name) for name, value in old.items() if not value.equal(new[name])}


def test_alignment_and_supervised_stages_train_what_they_name(root: Path) -> None:
    from diagcot.training.kinds import align, sft

    few = deepspeed(steps=3, global_batch=4, warmup_steps=1)
    aligned = run(
        root, align, "align", {"loss": "combined", "deepspeed": few, "validation": 2}, model="base", samples="samples"
    )
    assert changed(base_of(root), aligned) == {"merger"}
    tied = json.loads((base_of(root) / "config.json").read_text()).get("tie_word_embeddings", False)
    parts = ["language_model", "lm_head"] if tied else ["language_model"]
    settings = {
        "trainable": [*parts, "vision"],
        "deepspeed": few | {"gradient_checkpointing": True},
        "validation": 2,
    }
    trained = run(root, sft, "sft", settings, model="align", samples="samples")
    assert changed(aligned, trained) == {"language_model", "vision"}
    rows = [json.loads(line) for line in (trained.parent / "train.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_a_merged_adapter_computes_what_base_and_adapter_did(root: Path) -> None:
    import torch
    from peft import PeftModel

    from diagcot.training.data.collator import Collator
    from diagcot.training.kinds import merge, sft
    from diagcot.training.losses import language
    from diagcot.training.models import model

    settings = {
        "trainable": ["lora", "merger"],
        "lora": {"rank": 4, "targets": list(family_of(root).lora_targets)},
        "deepspeed": deepspeed(steps=4, global_batch=4, learning_rate=1e-2),
        "validation": 2,
    }
    adapter = run(root, sft, "lora", settings, model="base", samples="samples")
    merged = run(root, merge, "merged", {}, model="base", adapter="lora")
    assert changed(base_of(root), merged) == {"merger", "language_model"}
    collator = Collator(model.load_processor(merged), root, 4096, source=SizedImages())
    batch = language.model_inputs(collator(images.samples(3)))
    with torch.no_grad():
        adapted = PeftModel.from_pretrained(model.load(base_of(root)), str(adapter)).eval()(**batch).logits
        joined = model.load(merged).eval()(**batch).logits
    torch.testing.assert_close(joined, adapted, atol=1e-4, rtol=1e-4)


def test_log_probabilities_of_rollouts_are_those_of_the_model(root: Path) -> None:
    """A padded batch of rollouts of different lengths, with one image and three, and a packed one, against transformers' own
    passes.

    transformers cuts no tiles out of several images of LLaVA-OneVision; servers do, and so does training.
    """
    import torch
    from transformers import AutoModelForImageTextToText

    from diagcot.jobs.testing import context
    from diagcot.training.config.settings import DeepSpeedSettings
    from diagcot.training.data.collator import Collator
    from diagcot.training.losses import logprobs
    from diagcot.training.models import model
    from diagcot.training.rl.micro_batches import MicroBatcher
    from diagcot.training.rl.rollout import Rollout

    processor = model.load_processor(base_of(root))
    collator = Collator(processor, root, 4096, source=SizedImages())
    batcher = MicroBatcher(collator, DeepSpeedSettings(steps=1), context(root, stage="grpo"))
    family = collator.family
    assert set(processor.tokenizer.convert_ids_to_tokens(batcher.banned)) == set(family.image_words)
    samples = [study(1), study(1 if family.name == "llava_onevision" else 3)]
    rollouts = [Rollout(row, "", (5, 6, 7, 8)[: 4 - row], (-1.0,) * (4 - row), False, (), 0) for row in (0, 1)]
    batch = batcher.micro_batch(samples, rollouts, [1.0, -1.0])
    network, expected = model.load(base_of(root)).eval(), []
    with torch.no_grad():
        _, found = logprobs.forward(network, batch.inputs, batch.tokens)
    plain = AutoModelForImageTextToText.from_pretrained(base_of(root), attn_implementation="eager").eval()
    for row, (sample, rollout) in enumerate(zip(samples, rollouts, strict=True)):
        inputs = served(processor, sample)
        size = inputs["input_ids"].shape[1]
        more = torch.tensor([rollout.tokens])
        inputs["input_ids"] = torch.cat([inputs["input_ids"], more], 1)
        for name in ("attention_mask", "token_type_ids", "mm_token_type_ids"):
            if name in inputs:
                fill = torch.full_like(more, int(name == "attention_mask"))
                inputs[name] = torch.cat([inputs[name], fill], 1)
        with torch.no_grad():
            logits = plain(**inputs).logits[0, size - 1 : -1].log_softmax(-1)
        expected.append(logits.gather(1, more.T)[:, 0])
        torch.testing.assert_close(found[row][batch.mask[row] > 0], expected[row], atol=1e-4, rtol=1e-4)
    if not family.causal:
        with pytest.raises(ValueError, match="cannot be packed"):
            Collator(processor, root, 4096, source=SizedImages(), packed=True)
        return
    batcher.collator.packed = True
    batch = batcher.micro_batch(samples, rollouts, [1.0, -1.0])
    with torch.no_grad():
        _, found = logprobs.forward(network, batch.inputs, batch.tokens)
    torch.testing.assert_close(found[0], torch.cat(expected), atol=1e-4, rtol=1e-4)


def served(processor: Any, sample: Sample) -> Any:
    """What transformers' own processor makes of a sample's prompt."""
    source = SizedImages()
    content = [
        *({"type": "image", "image": source.pixels(ref)} for ref in sample.images),
        {"type": "text", "text": sample.prompt.replace("<image>", "")},
    ]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )


@pytest.fixture(scope="module")
def vllm_processor(root: Path) -> Any:
    """vLLM's own processor of the model, without a server. Its registry else inspects models in a process of their own."""
    registry = pytest.importorskip("vllm.model_executor.models.registry")
    from vllm.config import ModelConfig
    from vllm.multimodal import MULTIMODAL_REGISTRY

    directory = str(base_of(root))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_run_in_subprocess", lambda work: work())
        config = ModelConfig(
            model=directory, tokenizer=directory, dtype="float32", max_model_len=4096, limit_mm_per_prompt={"image": 4}
        )
    assert config.architectures == [FAMILIES[config.hf_config.model_type].architecture]
    return MULTIMODAL_REGISTRY.create_processor(config)


@pytest.mark.parametrize("count", [1, 3])
def test_training_and_server_see_the_same_tokens_and_pixels(root: Path, vllm_processor: Any, count: int) -> None:
    import torch
    from vllm.multimodal.processing import ProcessorInputs, TimingContext

    from diagcot.training.data.collator import IGNORED, Collator
    from diagcot.training.models import model

    processor, source, sample = model.load_processor(base_of(root)), SizedImages(), study(count)
    collator = Collator(processor, root, 4096, source=source)
    batch = collator([sample])
    prompt = batch["input_ids"][0][batch["labels"][0] == IGNORED]
    content = [{"type": "image"}] * count + [{"type": "text", "text": sample.prompt.replace("<image>", "")}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    items = vllm_processor.info.parse_mm_data({"image": [source.pixels(ref) for ref in sample.images]})
    asked = ProcessorInputs(processor.tokenizer(text, add_special_tokens=False)["input_ids"], items)
    made = vllm_processor.apply(asked, TimingContext(enabled=False))
    assert made["prompt_token_ids"] == prompt.tolist()
    visual = torch.zeros(len(prompt), dtype=torch.bool)
    for place in made["mm_placeholders"]["image"]:
        inside = torch.ones(place.length, dtype=torch.bool) if place.is_embed is None else place.is_embed
        visual[place.offset : place.offset + place.length] = inside
    assert visual.equal(prompt == collator.image_id) and int(visual.sum()) == int(batch["image_tokens"].sum())
    if collator.family.pixel_budget:
        return  # vLLM brings the pixels of Qwen3-VL into their range inside the model
    own = batch["pixel_values"].reshape(-1, *batch["pixel_values"].shape[-3:])
    tiles = (batch["image_patches"] * len(own) // int(batch["image_patches"].sum())).tolist()
    for item, tiles_here in zip(made["mm_kwargs"]["image"], own.split(tiles), strict=True):
        # Servers may fill up the tiles of an image to those of its neighbours with zeros.
        pixels = item.get_data()["pixel_values"].reshape(-1, *own.shape[1:])[: len(tiles_here)]
        torch.testing.assert_close(pixels, tiles_here, atol=1e-5, rtol=1e-5)


class Transformers:
    """A server's client, in whose place transformers generates from the request's own messages and images."""

    def __init__(self, directory: Path) -> None:
        from diagcot.training.models import model

        self.network, self.processor = model.load(directory).eval(), model.load_processor(directory)
        self.ids: list[int] = []  # first token of each reply

    def each(self, items: list[Any], work: Any, stopping: Any) -> Iterator[Any]:
        return (asyncio.run(work(self, item)) for item in items)

    async def chat(self, request: Request) -> Reply:
        import torch

        images, messages = iter(request.images), request.body()["messages"]
        for message in messages:
            parts = message["content"] if isinstance(message["content"], list) else []
            for part in parts:
                if part["type"] == "image_url":
                    part |= {"type": "image", "image": Image.open(io.BytesIO(next(images))).convert("RGB")}
        about = {"tokenize": True, "add_generation_prompt": True, "return_dict": True, "return_tensors": "pt"}
        inputs = self.processor.apply_chat_template(messages, **about)
        with torch.no_grad():
            if request.scored_tokens:
                row = self.network(**inputs).logits[0, -1].log_softmax(-1)
                best = {f"token_id:{token}": float(row[token]) for token in request.scored_tokens}
                return Reply(["x"], ["length"], top_logprobs=[best])
            made = self.network.generate(
                **inputs, max_new_tokens=request.max_tokens, do_sample=False, pad_token_id=0, use_cache=True
            )[0, inputs["input_ids"].shape[1] :]
        self.ids.append(int(made[0]))
        text = self.processor.tokenizer.decode(made, skip_special_tokens=True)
        return Reply([text], ["length" if len(made) == request.max_tokens else "stop"])


def test_the_evaluate_stage_asks_what_training_learned(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Predictions of each task; the first token of a greedy answer is the best one by a training pass over the same sample."""
    import torch

    from diagcot.evaluation import predict
    from diagcot.jobs import Unit
    from diagcot.jobs.testing import context
    from diagcot.training.data.collator import Collator
    from diagcot.training.losses import language
    from diagcot.training.models import model

    shard = write_shard(root / "shards/test/shard/00000.h5", 2, size=112)
    settings = {"tasks": ["report", "grounding", "classification"], "views": "image"}
    inputs = {"models": [str(root / "shards/test/base")], "shards": [str(root / "shards/test/shard")]}
    client, ctx = Transformers(base_of(root)), context(root, settings, stage="evaluate", inputs=inputs)
    monkeypatch.setattr(predict.TaskServer, "start", lambda self, model, server: client)
    collator = Collator(model.load_processor(base_of(root)), root / "shards", 4096)
    for task in settings["tasks"]:
        about = {"model": "base", "task": task, "source": "shard", "shard": "00000", "max_tokens": 4}
        with predict.prepare(ctx) as shared:
            result = predict.run(Unit(f"base.{task}.00000", about), shared, ctx)
            asked = predict.samples_of(shard, ctx.shards_root, task, shared.settings, "test", ctx.seed)
        rows = [json.loads(line) for line in next(iter(result.outputs.values())).read_text().splitlines()]
        assert sorted(row["id"] for row in rows) == sorted(sample.id for sample in asked) and len(rows) >= 2
        assert (result.counts["samples"], result.counts["failed"]) == (len(rows), 0)
        if task == "classification":
            assert all(len(row["scores"]) == 14 and all(0 < p < 1 for p in row["scores"].values()) for row in rows)
        for sample, first in zip(asked, client.ids, strict=True):
            batch = collator([sample])
            with torch.no_grad():
                row = client.network(**language.model_inputs(batch)).logits[0, 0]  # before the first learned token
            assert float(row.max() - row[first]) < 1e-3
        client.ids.clear()


def test_a_text_holds_no_token_of_the_family(root: Path) -> None:
    """Reports are data: what looks like a control token is read as text."""
    from diagcot.data.reports import controls
    from diagcot.training.models import model

    family = family_of(root)
    tokenizer = model.load_processor(base_of(root)).tokenizer
    # R2Gen's reports have <unk> for rare words; as a token it is a word like others.
    text = "normal " + "".join(token for token in family.special_tokens if token != "<unk>")
    assert set(tokenizer(text, add_special_tokens=False)["input_ids"]) & set(tokenizer.all_special_ids)
    ids = tokenizer(controls.as_text(text), add_special_tokens=False)["input_ids"]
    assert not set(ids) & set(tokenizer.all_special_ids)
