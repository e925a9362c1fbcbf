"""Stages of a recipe on their own, as the kinds of launchers/ get them."""

from typing import Any

from diagcot.recipe import StageSpec
from launchers import registry
from launchers.stage_kind import Stage


def stage(kind: str, settings: dict[str, Any], **inputs: list[str]) -> Stage[Any]:
    """A stage named like its kind, with its settings parsed."""
    found = registry.find(kind)
    assert found is not None
    spec = StageSpec(name=kind, kind=kind, number="0", inputs=inputs, settings=settings)
    return Stage(spec, found.settings.model_validate(settings))
