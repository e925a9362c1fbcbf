"""A frozen vision tower sees each image once; loss and gradients are those of a tower that sees it in every pass."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from diagcot.tasks.samples import Sample
from tests.training import images

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """(network, collator) of images of 196 pixels, several windows of Qwen2.5-VL's tower."""
    from diagcot.training.config.settings import ModelSettings, TinySettings
    from diagcot.training.data.collator import Collator
    from diagcot.training.models import model, tiny

    directory = tmp_path_factory.mktemp(request.param)
    sizes = TinySettings(hidden=64, layers=2, vision_hidden=32, intermediate=128, vocabulary=400)
    texts = [text for row in images.samples(8) for _, text in row.messages]
    settings = ModelSettings(family=request.param, tiny=sizes, min_pixels=196 * 140, max_pixels=196 * 196)
    tiny.build(settings, texts, directory)
    return model.load(directory), Collator(
        model.load_processor(directory), Path(), 512, source=images.DrawnImages(), packed=True
    )


def several(count: int) -> Sample:
    rows = images.samples(count)
    refs = tuple(ref for row in rows for ref in row.images)
    turns = (("user", "<image>" * count + "Look."), *rows[-1].messages[1:])
    return replace(rows[-1], id=f"several/{count}", images=refs, messages=turns)


class Calls:
    """Counts what a tower computes: its calls and the patches of each."""

    def __init__(self, network: Any) -> None:
        from diagcot.training.models.attention import visual_of

        self.patches: list[int] = []
        visual_of(network).patch_embed.register_forward_pre_hook(lambda _, given: self.patches.append(len(given[0])))


def passed(network: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    from diagcot.training.losses import language

    network.zero_grad(set_to_none=True)
    loss = language.summed_loss(network, language.model_inputs(batch), batch["labels"])
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("trainable", [("merger", "language_model"), ("language_model",), ("lora",)], ids="+".join)
def test_loss_and_gradients_are_those_of_a_tower_in_every_pass(
    family: tuple[Any, Any], trainable: tuple[Any, ...]
) -> None:
    from diagcot.training.config.settings import FreezePolicy, LoraSettings
    from diagcot.training.models import freeze, lora
    from diagcot.training.models.frozen_tower import FrozenTower

    vlm, collator = copy.deepcopy(family[0]), family[1]
    torch.manual_seed(1)
    network = lora.add_adapter(vlm, LoraSettings(rank=2)) if trainable == ("lora",) else vlm
    freeze.freeze(network, FreezePolicy(trainable=trainable))
    batches = [collator([*images.samples(3), several(2)]), collator([several(3), images.samples(1)[0]])]
    plain = [passed(network, batch) for batch in batches]
    calls = Calls(network)
    tower = FrozenTower(network, 64, CPU)
    assert tower.components == (("vision",) if "merger" in trainable else ("vision", "merger"))
    for _ in range(2):  # two epochs
        for batch, (loss, gradients) in zip(batches, plain, strict=True):
            found, own = passed(network, tower.with_features(batch))
            torch.testing.assert_close(found, loss, rtol=1e-6, atol=1e-5)
            assert own.keys() == gradients.keys() and len(own) > 5
            for name, value in gradients.items():
                torch.testing.assert_close(own[name], value, rtol=1e-5, atol=1e-5)
    patches = int(batches[0]["image_grid_thw"][0].prod())
    assert calls.patches == [3 * patches]  # three images are in both batches, in both epochs
    assert tower.take_patches() == 3 * patches and tower.take_patches() == 0


def test_memory_is_bounded_and_a_small_one_changes_nothing(family: tuple[Any, Any]) -> None:
    from diagcot.training.config.settings import FreezePolicy
    from diagcot.training.models import freeze
    from diagcot.training.models.frozen_tower import FrozenTower

    network, collator = copy.deepcopy(family[0]), family[1]
    freeze.freeze(network, FreezePolicy(trainable=("merger",)))
    batch = collator(images.samples(6))
    tower = FrozenTower(network, 1, CPU)
    tower._room = 1  # bytes: the last image alone is kept
    calls = Calls(network)
    first, second = tower.with_features(batch), tower.with_features(batch)
    assert torch.equal(first["pixel_values"], second["pixel_values"]) and len(tower._kept) == 1
    assert len(calls.patches) == 2 and calls.patches[1] == calls.patches[0] * 5 // 6


def test_a_reference_takes_the_same_features_with_its_own_merger(family: tuple[Any, Any]) -> None:
    from diagcot.training.config.settings import FreezePolicy
    from diagcot.training.losses import language
    from diagcot.training.models import freeze
    from diagcot.training.models.frozen_tower import FrozenTower

    policy, reference, collator = copy.deepcopy(family[0]), copy.deepcopy(family[0]), family[1]
    with torch.no_grad():
        for parameter in reference.model.visual.merger.parameters():
            parameter.mul_(1.5)
    freeze.freeze(policy, FreezePolicy(trainable=("merger", "language_model")))
    batch = collator(images.samples(2))
    expected = [
        language.summed_loss(network, language.model_inputs(batch), batch["labels"]).detach()
        for network in (policy, reference)
    ]
    assert float(expected[0]) != float(expected[1])
    tower = FrozenTower(policy, 64, CPU)
    tower.cut(reference)
    inputs = language.model_inputs(tower.with_features(batch))
    for network, loss in zip((policy, reference), expected, strict=True):
        torch.testing.assert_close(
            language.summed_loss(network, inputs, batch["labels"]).detach(), loss, rtol=1e-6, atol=1e-5
        )


def test_a_changed_or_resized_image_is_another_one(family: tuple[Any, Any]) -> None:
    """Keys follow the pixels: equal images share one, an augmented image has its own."""
    from diagcot.training.data.images import prepared

    collator = family[1]
    ref = images.samples(1)[0].images[0]
    keys = collator.images.batch([ref, ref])["image_keys"]
    assert torch.equal(keys[0], keys[1]) and keys.dtype == torch.int64
    flipped = prepared(collator.processor, Flipped()).batch([ref])
    assert not torch.equal(flipped["image_keys"][0], keys[0])
    assert flipped["image_grid_thw"].tolist() == collator.images.batch([ref])["image_grid_thw"].tolist()


class Flipped(images.DrawnImages):
    def pixels(self, ref: Any) -> Any:
        from PIL import ImageOps

        return ImageOps.flip(super().pixels(ref))
