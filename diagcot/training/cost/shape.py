"""Sizes of a vision-language model from its config.json alone: no weights, no torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diagcot.jobs import ModelError
from diagcot.jobs.state import reading
from diagcot.training.config.settings import ModelSettings
from diagcot.training.families import FAMILIES, ModelShape
from diagcot.training.models.pretrained import configuration_of, family_of


def shape_of(settings: ModelSettings) -> ModelShape:
    """Shape of the model that kind `model` takes over or builds. Raises ModelError if it is missing or of another family.

    That of a tiny model is right if the corpus fills its vocabulary.
    """
    if settings.pretrained is None:
        family = FAMILIES[settings.family]
        config = family.tiny(settings, settings.tiny.vocabulary, lambda token: 0)
        return family.shape(config)
    family_of(settings.pretrained)
    folder = configuration_of(settings.pretrained)
    path = folder / "config.json"
    return parse_config(reading.read_json(path), str(path), _tiles(folder))


def parse_config(config: Mapping[str, Any], where: str = "config.json", tiles: int | None = None) -> ModelShape:
    """Shape by a config.json. tiles: most parts that the model's processor cuts an image into, where it says so.

    Raises ModelError that names a family, a part or a size that is unknown or missing.
    """
    name = config.get("model_type")
    if not isinstance(name, str) or name not in FAMILIES:
        raise ModelError(f"{where}: model_type {name!r} is none of {', '.join(FAMILIES)}")
    try:
        return FAMILIES[name].shape(config, tiles)
    except KeyError as error:
        raise ModelError(f"{where} has no {error}") from error
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from None


def _tiles(folder: Path) -> int | None:
    """What the image processor of a model directory says of its tiles (`max_patches` of InternVL)."""
    for name in ("processor_config.json", "preprocessor_config.json"):
        if (folder / name).is_file():
            about = reading.read_json(folder / name)
            tiles: int | None = about.get("image_processor", about).get("max_patches")
            return tiles
    return None
