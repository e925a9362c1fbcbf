"""A model that reads reports, by its name."""

import re
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from diagcot.jobs import UserError

_SAFE = (UserError, OSError, ImportError, RuntimeError)  # their messages name files and shapes, never words of a report
_CLASSES = {
    "chexbert": "chexbert.CheXbert",
    "distilroberta-base": "bertscore.BertScore",
    "radgraph": "radgraph.RadGraph",
    "radgraph-xl": "radgraph.RadGraph",
    "ratescore": "ratescore.RateScore",
}


class Reader(Protocol):
    """Reads texts once each, and compares what it has read. One that has a process also has `close`."""

    def read(self, texts: Sequence[str]) -> Sequence[Any]:
        """What the model says of each text."""

    def compare(self, ours: Any, theirs: Any) -> Mapping[str, Any]:
        """Scores of a reading against that of its reference."""


def load(name: str, weights: Path, device: str) -> Reader:
    """The reader `name` of `weights.READERS`. weights: the folder of all models. device: cpu or cuda."""
    module, _, kind = _CLASSES[name].partition(".")
    make: Callable[..., Reader] = getattr(import_module(f"diagcot.metrics.clinical.{module}"), kind)
    return make(weights / name, device, *((name,) if module == "radgraph" else ()))


LONGEST = 1000
"""Most words of a text that a model reads; the longest reports have half as many, and RadGraph's time grows with the square."""


def readable(text: str) -> str:
    """A text as every model can take it: at most LONGEST words, and no lone surrogate, which has no bytes."""
    words = text.split(None, LONGEST)
    kept = text if len(words) <= LONGEST else " ".join(words[:LONGEST])
    return kept.encode(errors="replace").decode()


def close(reader: Reader) -> None:
    """End the process of a reader that has one."""
    if hasattr(reader, "close"):
        reader.close()


def why_failed(error: Exception) -> str:
    """Why a reader failed, in one line that holds no report."""
    message = re.sub(r"\s+", " ", str(error))[:200] if isinstance(error, _SAFE) else ""
    if isinstance(error, UserError):
        return message
    return f"it failed ({type(error).__name__}{': ' * bool(message)}{message})"
