"""Packed sequences: the model computes for each of them what it computes for padded rows, values and gradients.

The padded side is transformers' own: rows with an attention mask, plain attention, positions and loss by the model.
"""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from diagcot.tasks.prompts import with_image_tags
from diagcot.tasks.samples import Sample
from tests.training import images

WORDS = ("the", "heart", "is", "enlarged", "lungs", "are", "clear", "no", "effusion")


def sample(number: int, count: int, words: int) -> Sample:
    """A sample of `count` images whose answer has `words` words."""
    draw = random.Random(number)
    refs = tuple(image for row in images.samples(number + count)[number:] for image in row.images)
    answer = " ".join(draw.choice(WORDS) for _ in range(words))
    turns = (("user", with_image_tags("Look.", count)), ("assistant", answer))
    return Sample(f"s{number}", "report", f"s{number}", refs, turns)


SAMPLES = (sample(0, 1, 9), sample(1, 0, 40), sample(2, 3, 2), sample(3, 2, 17))


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diagcot.training.config.settings import ModelSettings, TinySettings
    from diagcot.training.models import tiny

    directory: Path = tmp_path_factory.mktemp(request.param)
    sizes = TinySettings(hidden=64, layers=2, vision_hidden=32, intermediate=128, vocabulary=400)
    texts = [text for row in images.samples(8) for _, text in row.messages]
    tiny.build(ModelSettings(family=request.param, tiny=sizes), texts, directory)
    return directory


class Sides:
    """A network of our attention, and one of transformers' plain attention with the same weights."""

    def __init__(self, directory: Path) -> None:
        from transformers import AutoModelForImageTextToText

        from diagcot.training.data.collator import Collator
        from diagcot.training.models import model

        self.own = model.load(directory)
        self.plain = AutoModelForImageTextToText.from_pretrained(directory, attn_implementation="eager")
        self.plain.config.use_cache = False
        processor = model.load_processor(directory)
        self.collators = {
            packed: Collator(processor, Path(), 512, source=images.DrawnImages(), packed=packed)
            for packed in (False, True)
        }

    def padded_logits(self, samples: tuple[Sample, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (samples, tokens, words) and labels of transformers' padded pass."""
        batch = self.collators[False](samples)
        lengths, ids = batch["sequence_lengths"], batch["input_ids"]
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        kinds = (ids == self.collators[False].image_id).int()
        inputs = {name: batch[name] for name in ("pixel_values", "image_grid_thw") if name in batch}
        logits = self.plain(input_ids=ids, attention_mask=mask, mm_token_type_ids=kinds, **inputs).logits
        return logits, batch["labels"]

    def padded_loss(self, samples: tuple[Sample, ...]) -> torch.Tensor:
        logits, labels = self.padded_logits(samples)
        return functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")


def gradients(network: Any) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None}


def agree(own: Any, plain: Any, loss: torch.Tensor, expected: torch.Tensor) -> None:
    """Values and all gradients equal to 1e-5 of their size."""
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    mine, theirs = gradients(own), gradients(plain)
    assert mine.keys() == theirs.keys() and len(mine) > 20
    for name, value in theirs.items():
        torch.testing.assert_close(mine[name], value, rtol=1e-5, atol=1e-5 * max(1.0, float(value.abs().max())))


@pytest.mark.parametrize("packed", [True, False])
def test_packed_and_padded_batches_give_transformers_loss_and_gradients(family: Path, packed: bool) -> None:
    from diagcot.training.losses import language

    sides = Sides(family)
    batch = sides.collators[packed](SAMPLES)
    assert len(batch["input_ids"]) == (1 if packed else 4) and batch["sequence_lengths"].shape == (4,)
    loss = language.summed_loss(sides.own, language.model_inputs(batch), batch["labels"])
    agree(sides.own, sides.plain, loss, sides.padded_loss(SAMPLES))


def test_positions_are_those_of_the_model(family: Path) -> None:
    sides = Sides(family)
    batch = sides.collators[False](SAMPLES)
    lengths, ids = batch["sequence_lengths"], batch["input_ids"]
    mask = torch.arange(ids.shape[1]) < lengths[:, None]
    kinds = (ids == sides.collators[False].image_id).int()
    theirs, _ = sides.plain.model.get_rope_index(
        ids, mm_token_type_ids=kinds, image_grid_thw=batch["image_grid_thw"], attention_mask=mask.long()
    )
    assert torch.equal(batch["position_ids"][:, mask], theirs[:, mask])
    packed = sides.collators[True](SAMPLES)["position_ids"]
    assert torch.equal(packed[:, 0], theirs[:, mask])


def test_sequences_do_not_see_each_other(family: Path) -> None:
    """Another first sequence changes nothing of the second one's log-probabilities, which are those of it alone."""
    from diagcot.training.losses import language, logprobs

    sides = Sides(family)

    def of_last(samples: tuple[Sample, ...]) -> torch.Tensor:
        batch = sides.collators[True](samples)
        inputs = language.model_inputs(batch)
        targets = language.targets(batch["labels"], inputs["logits_to_keep"]).clamp(min=0)
        with torch.no_grad():
            return logprobs.forward(sides.own, inputs, targets)[0][0, -15:]

    last = SAMPLES[3]
    alone = of_last((last,))
    for first in SAMPLES[:3]:
        torch.testing.assert_close(of_last((first, last)), alone, rtol=1e-5, atol=1e-5)


def test_a_blank_image_behind_packed_text_changes_nothing(family: Path) -> None:
    from diagcot.training.losses import language

    sides, texts = Sides(family), (SAMPLES[1], replace(SAMPLES[1], id="again"))
    losses = []
    for sides.collators[True].show_blank in (False, True):
        batch = sides.collators[True](texts)
        assert ("pixel_values" in batch) == sides.collators[True].show_blank
        losses.append(language.summed_loss(sides.own, language.model_inputs(batch), batch["labels"]))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-6, atol=1e-5)


def test_adapters_and_gradient_checkpointing_over_packed_sequences(family: Path) -> None:
    from diagcot.training.config.settings import FreezePolicy, LoraSettings
    from diagcot.training.distributed import engine
    from diagcot.training.losses import language
    from diagcot.training.models import freeze, lora

    sides = Sides(family)
    torch.manual_seed(3)
    network = lora.add_adapter(sides.own, LoraSettings(rank=2))
    freeze.freeze(network, FreezePolicy(trainable=("lora", "merger")))
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    found = []
    for packed, recompute in ((False, False), (True, False), (True, True)):
        if recompute:
            engine.recompute_activations(network)
        network.zero_grad(set_to_none=True)
        batch = sides.collators[packed](SAMPLES)
        language.summed_loss(network, language.model_inputs(batch), batch["labels"]).backward()
        found.append(gradients(network))
    for other in found[1:]:
        assert other.keys() == found[0].keys() and len(other) > 20
        for name, value in other.items():
            torch.testing.assert_close(value, found[0][name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("packed", [True, False])
def test_a_pass_reads_no_value_from_the_device(family: Path, packed: bool) -> None:
    """On the meta device, whose tensors have no values to read: the host never waits for a real one.

    Qwen3-VL's language model picks the rows of images by a mask, which is transformers' own wait, one for each place.
    """
    from diagcot.training.losses import language

    sides, meta = Sides(family), torch.device("meta")
    batch = language.on_device(sides.collators[packed](SAMPLES), meta)
    inputs = language.model_inputs(batch)
    assert inputs["input_ids"].device == inputs["pixel_values"].device == meta
    network = sides.own.to(meta)
    if "qwen3" in family.name:
        network.model.language_model._deepstack_process = lambda hidden, *_: hidden
    language.summed_loss(network, inputs, batch["labels"]).backward()
    assert len(gradients(network)) > 20


def test_flash_attention_gets_the_bounds_of_the_sequences(family: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers' own FlashAttention path; the kernel, which no CPU has, is its formula over the bounds that it gets."""
    from transformers import modeling_flash_attention_utils as flash

    from diagcot.training.losses import language

    sides, calls = Sides(family), []

    def variable_length(query: Any, key: Any, value: Any, **given: Any) -> torch.Tensor:
        """(tokens, heads, width) each; cu_seqlens_q (sequences + 1,) int32."""
        bounds, causal = given["cu_seqlens_q"], given["causal"]
        assert bounds.dtype == torch.int32 and given["max_seqlen_q"] == int(bounds.diff().max())
        calls.append((bounds.tolist(), causal))
        parts = []
        for start, end in zip(bounds.tolist(), bounds.tolist()[1:], strict=False):
            part = (tensor[start:end].transpose(0, 1)[None] for tensor in (query, key, value))
            options: dict[str, Any] = {"is_causal": causal, "scale": given["softmax_scale"], "enable_gqa": True}
            made = functional.scaled_dot_product_attention(*part, **options)
            parts.append(made[0].transpose(0, 1))
        return torch.cat(parts)

    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("packed sequences need the function of variable lengths")

    functions = (refused, variable_length, refused, refused, refused)
    names = ("dropout_p", "window_size", "deterministic", "softcap", "max_seqlen_q", "max_seqlen_k")
    supported = dict.fromkeys(("s_aux", "learnable_sink", "block_table", "page_table", "cache_seqlens"), False)
    supported |= dict.fromkeys(names, True)
    process = flash.partial(flash._process_flash_attention_kwargs, supports_mapping=supported)
    monkeypatch.setattr(flash, "lazy_import_flash_attention", lambda *_, **__: (functions, (process, process)))
    for config in (sides.own.config, sides.own.config.text_config, sides.own.config.vision_config):
        config._attn_implementation_internal = "flash_attention_2"
    batch = sides.collators[True](SAMPLES)
    inputs = language.model_inputs(batch)
    loss = language.summed_loss(sides.own, inputs, batch["labels"])
    agree(sides.own, sides.plain, loss, sides.padded_loss(SAMPLES))
    bounds = inputs["cu_seq_lens_q"].tolist()
    assert [call for call in calls if call[1]] == [(bounds, True)] * 2  # two layers of text
    assert bounds[-1] == batch["input_ids"].shape[1] and len(bounds) == 5


def test_an_update_of_grpo_is_the_same_over_packed_rollouts(family: Path, tmp_path: Path) -> None:
    """Figures, scores before the update and gradients of six rollouts: in padded passes of two, packed by tokens, and packed
    behind prompts that three of them share.
    """
    from diagcot.jobs.testing import context
    from diagcot.training.config.grpo_settings import GrpoSettings
    from diagcot.training.config.settings import DeepSpeedSettings
    from diagcot.training.rl import objective, policy
    from diagcot.training.rl.micro_batches import MicroBatcher
    from diagcot.training.rl.rollout import Rollout
    from tests.integration.training.test_loss_memory import Engine

    draw, sides = random.Random(5), Sides(family)
    found: list[tuple[dict[str, float], dict[str, torch.Tensor]]] = []
    passes: list[int] = []
    tokens_of: list[int] = []
    samples = [SAMPLES[0], SAMPLES[2]]
    rollouts = []
    for number in range(6):
        tokens = tuple(draw.randrange(300, 380) for _ in range(draw.randrange(1, 30)))
        values = tuple(-draw.random() for _ in tokens)
        rollouts.append(Rollout(number // 3, "", tokens, values, number == 4, (), 0))
    wide, narrow = {"micro_batch_tokens": 9999}, {"micro_batch_tokens": 120}
    for packing, shares in (({"micro_batch": 2}, False), (narrow, False), (wide, False), (narrow, True), (wide, True)):
        ctx = context(tmp_path)
        deepspeed = DeepSpeedSettings.model_validate({"steps": 1, "global_batch": 6, **packing})
        batcher = MicroBatcher(sides.collators["micro_batch_tokens" in packing], deepspeed, ctx, None, shares)
        own = [replace(rollout, prompt_length=len(batcher.prompt(samples[rollout.prompt]))) for rollout in rollouts]
        made: Any = object.__new__(policy.Policy)
        made.settings = GrpoSettings.model_validate({"importance_cap": 2.0, "temperature": 1.0, "top_p": 1.0})
        made.objective = objective.Objective(kl_coef=0.1, importance_cap=2.0)
        made.ctx, made.reference, made.engine = ctx, sides.plain, Engine(sides.own)
        made.reference.config._attn_implementation = sides.own.config._attn_implementation
        made._banned = torch.tensor(batcher.banned)
        (batches,) = batcher.updates(samples, own, [0.5, -1.0, 0.5, 1.0, -0.4, -0.6])
        passes.append(len(batches))
        tokens_of.append(sum(batch.inputs["input_ids"].numel() for batch in batches))
        sides.own.zero_grad(set_to_none=True)
        gap = made.score_before_updates(batches)
        figures = made.update(batches, own, float("inf"))
        found.append(({"before": gap, **figures}, gradients(sides.own)))
    assert passes[0] == 3 and passes[1] > 1 and passes[2] == 1 and passes[3] > 1 and passes[4] == 1
    repeated = 2 * sum(len(batcher.prompt(sample)) for sample in samples)
    assert tokens_of[4] == tokens_of[2] - repeated < tokens_of[3]
    (expected, slopes), *others = found
    assert expected["gap"] > 0.1 and len(slopes) > 20
    for figures, own_slopes in others:
        assert figures == pytest.approx(expected, rel=1e-5, abs=1e-6)
        for name, value in slopes.items():
            torch.testing.assert_close(own_slopes[name], value, rtol=1e-5, atol=1e-6)
