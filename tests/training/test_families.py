"""Every family of models trains on one image, several images, and text alone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from diagcot.tasks.prompts import with_image_tags
from diagcot.tasks.samples import Sample
from diagcot.training.families import FAMILIES
from tests.training import images

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """(model, collator)."""
    from diagcot.training.config.settings import ModelSettings, TinySettings
    from diagcot.training.data.collator import Collator
    from diagcot.training.models import model, tiny

    directory = tmp_path_factory.mktemp(request.param)
    sizes = TinySettings(hidden=64, layers=2, vision_hidden=32, intermediate=128, vocabulary=420)
    tiny.build(
        ModelSettings(family=request.param, tiny=sizes),
        [t for s in images.samples(8) for _, t in s.messages],
        directory,
    )
    collator = Collator(model.load_processor(directory), Path(), 512, source=images.DrawnImages())
    return model.load(directory), collator


def tower_of(vlm: Any) -> Any:
    """The vision tower of a model."""
    return getattr(vlm.model, FAMILIES[vlm.config.model_type].vision[0])


def blocks_of(vlm: Any) -> Any:
    """The layers of a model's vision tower."""
    import torch

    return next(module for module in tower_of(vlm).modules() if isinstance(module, torch.nn.ModuleList))


def several(count: int) -> Sample:
    one = images.samples(count)[-1]
    refs = tuple(ref for sample in images.samples(count) for ref in sample.images)
    return replace(
        one, id=f"several/{count}", images=refs, messages=(("user", with_image_tags("Look.", count)), *one.messages[1:])
    )


TEXT = Sample("t", "text", "t", (), (("system", "Be brief."), ("user", "Why?"), ("assistant", "the lungs are clear .")))


def test_aligner_sees_what_the_model_sees(family: tuple[Any, Any]) -> None:
    """One pass gives the embeddings of samples with one image and with three, and the model's own loss."""
    import torch

    from diagcot.training.losses import contrastive, language

    vlm, collator = family
    batch = collator([*images.samples(2), several(3)])
    assert batch["image_counts"].tolist() == [1, 1, 3]
    with torch.no_grad():
        embeddings, _, loss = contrastive.Aligner(vlm, 0.07)(batch, "images and language")
        assert embeddings.shape == (3, 64) and torch.allclose(embeddings.norm(dim=-1), torch.ones(3))
        alone = contrastive.Aligner(vlm, 0.07)(collator([several(3)]), "images").embeddings
        plain = language.summed_loss(vlm, language.model_inputs(batch), batch["labels"])
    torch.testing.assert_close(embeddings[2:], alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(loss, plain, atol=1e-3, rtol=1e-5)


def test_a_blank_image_lets_text_run_the_vision_tower_and_changes_nothing(family: tuple[Any, Any]) -> None:
    import torch

    from diagcot.training.losses import language

    vlm, collator = family
    found = []
    for collator.show_blank in (False, True):
        batch = collator(
            [TEXT, replace(TEXT, id="u", messages=(*TEXT.messages, ("user", "So?"), ("assistant", "x .")))]
        )
        vlm.zero_grad(set_to_none=True)
        loss = language.summed_loss(vlm, language.model_inputs(batch), batch["labels"])
        loss.backward()
        found.append((float(loss.detach()), vlm.get_input_embeddings().weight.grad.clone()))
        parts = [parameter.grad for parameter in blocks_of(vlm).parameters()]
        assert all((grad is not None and not grad.any()) == collator.show_blank for grad in parts)
    collator.show_blank = False
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("trainable", [("vision", "merger", "language_model", "lm_head"), ("merger",), ("lora",)])
def test_gradient_checkpointing_computes_the_same(family: tuple[Any, Any], trainable: tuple[Any, ...]) -> None:
    """Equal gradients; the trained language model is computed twice, a frozen vision tower once and without gradients."""
    import copy

    import torch

    from diagcot.training.config.settings import FreezePolicy, LoraSettings
    from diagcot.training.distributed import engine
    from diagcot.training.losses import language
    from diagcot.training.models import freeze, lora

    vlm, collator = family
    vlm = copy.deepcopy(vlm)
    tower, layers = tower_of(vlm), getattr(vlm.model, collator.family.language).layers
    patches = next(module for module in tower.modules() if isinstance(module, (torch.nn.Conv2d, torch.nn.Conv3d)))
    network = lora.add_adapter(vlm, LoraSettings(rank=2)) if trainable == ("lora",) else vlm
    freeze.freeze(network, FreezePolicy(trainable=trainable))
    calls = {"vision": 0, "language": 0}
    through: list[bool] = []  # whether a gradient goes back through the tower

    def count(name: str) -> Any:
        return lambda *_: calls.update({name: calls[name] + 1})

    blocks_of(vlm)[0].register_forward_pre_hook(count("vision"))
    layers[0].register_forward_pre_hook(count("language"))
    patches.register_forward_hook(lambda module, given, output: through.append(output.requires_grad))
    batch, found = collator([*images.samples(2), several(2)]), []
    for checkpointing in (False, True):
        if checkpointing:
            engine.recompute_activations(network)
        calls |= dict.fromkeys(calls, 0)
        network.zero_grad(set_to_none=True)
        language.summed_loss(network, language.model_inputs(batch), batch["labels"]).backward()
        found.append([p.grad.clone() for p in network.parameters() if p.grad is not None])
    unused = (
        2 if collator.family.name == "llava_onevision" else 0
    )  # the tower's last norm, which features are taken before
    assert len(found[0]) == sum(p.requires_grad for p in network.parameters()) - unused * ("vision" in trainable)
    for plain, again in zip(*found, strict=True):
        torch.testing.assert_close(again, plain, atol=1e-4, rtol=1e-3)
    trains = "vision" in trainable
    assert (calls["language"], calls["vision"]) == (2, 2 if trains else 1)
    assert through == [trains, trains]
