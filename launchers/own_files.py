"""Files of the user that a stage and its settings name and that decide its result. Jobs run a copy of them."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from diagcot.jobs import UserError

FUNCTION = re.compile(r"(/.+\.py):\w+")
"""An external reward, as settings hold it: `/path/to/file.py:function`."""


def named(settings: Mapping[str, Any]) -> Iterator[Path]:
    """Files of kinds and rewards and folders of prompts that a stage or its settings name, at every depth."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from named(value)
        elif key == "prompt_set" and "/" in str(value):
            yield Path(str(value))
        elif key == "kind" and ".py:" in str(value):
            yield Path(str(value).rpartition(":")[0]).resolve()
        elif key == "name" and (found := FUNCTION.fullmatch(str(value))):
            yield Path(found[1])


def of_stages(settings: Iterable[Mapping[str, Any]]) -> list[Path]:
    """Files and folders that the stages of a run name, each once; those that are not there are left out.

    Raises UserError if two have the same name, since the copies of a run stand side by side.
    """
    found = sorted({path for given in settings for path in named(given) if path.exists()})
    known: dict[str, Path] = {}
    for path in found:
        if (other := known.setdefault(path.name, path)) != path:
            raise UserError(
                f"{other} and {path} have the same name: rename one, since a run keeps a copy of both side by side"
            )
    return found


def moved(value: Any, folder: str) -> Any:
    """A recipe's settings with the user's rewards and prompts in `folder`, by their names."""
    if isinstance(value, list):
        return [moved(part, folder) for part in value]
    if not isinstance(value, dict):
        return value
    return {
        key: f"{folder}/{str(part).rpartition('/')[2]}" if _is_own(key, part) else moved(part, folder)
        for key, part in value.items()
    }


def _is_own(key: str, value: Any) -> bool:
    return (key == "prompt_set" and "/" in str(value)) or (key in ("name", "kind") and ".py:" in str(value))
