"""Families of vision-language models: what differs between them, one module each. See docs/how-to/add-a-model-family.md."""

from collections.abc import Mapping
from typing import Any

from diagcot.jobs import ModelError
from diagcot.training.families.family import Family
from diagcot.training.families.gemma3 import Gemma3
from diagcot.training.families.idefics3 import Idefics3, SmolVLM2
from diagcot.training.families.internvl import InternVL
from diagcot.training.families.llava_onevision import LlavaOnevision
from diagcot.training.families.qwen import Qwen2VL, Qwen3VL, Qwen3VLMoe, Qwen25VL
from diagcot.training.families.shape import ModelShape

__all__ = ["FAMILIES", "IMAGE_INPUTS", "MODULES", "Family", "ModelShape", "family_by_processor", "family_named"]

FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        Qwen2VL(),
        Qwen25VL(),
        Qwen3VL(),
        Qwen3VLMoe(),
        Gemma3(),
        InternVL(),
        LlavaOnevision(),
        Idefics3(),
        SmolVLM2(),
    )
}
"""`model_type` -> family."""

MODULES: Mapping[str, frozenset[str]] = {
    "merger": frozenset(name for family in FAMILIES.values() for name in family.projector),
    "vision": frozenset(name for family in FAMILIES.values() for name in family.vision),
    "lm_head": frozenset({"lm_head"}),
    "language_model": frozenset(family.language for family in FAMILIES.values()),
}
"""Component -> names of its modules. The projector of some families lies inside their vision tower, so it comes first."""

IMAGE_INPUTS = tuple(dict.fromkeys(name for family in FAMILIES.values() for name in family.image_inputs))
"""The arguments of a model's pass that hold images, of all families."""


def family_named(name: str) -> Family:
    """The family of a `model_type`. Raises ModelError for any other, as that of a model without images."""
    if name not in FAMILIES:
        raise ModelError(f"{name} is none of the families of models with images that train here: {', '.join(FAMILIES)}")
    return FAMILIES[name]


def family_by_processor(processor: Any) -> Family:
    """The family whose processor this is; of families with one processor the first, whose images are the same."""
    name = type(processor).__name__
    for family in FAMILIES.values():
        if family.processor_class == name:
            return family
    known = ", ".join(dict.fromkeys(family.processor_class for family in FAMILIES.values()))
    raise ValueError(f"the model's processor is a {name}; known are {known}")
