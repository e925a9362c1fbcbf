"""A model that reads reports, by its name; the form in which it gets texts, and texts that it cannot take."""

import re
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol

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
    """Reads texts once each, and compares what it has read.

    One that has a process also has `close`. One that reads graphs also has `reasoning(think, answer, reference)`.
    """

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


_BLANKS_BEFORE_MARKS = re.compile(r"(?<=\w) (?=[.,:])")  # signs that RadGraph takes for words of their own


def normalised(text: str) -> str:
    """A text in the one form that reports are compared in: `readable`, in small letters, one blank between words and none
    before full stop, comma and colon.

    RadGraph, BERTScore, RaTEScore and GREEN tell capitals from small letters, and BERTScore and GREEN `clear .` from
    `clear.`. References have small letters and blanks before full stops, models write as they were trained to.
    """
    return _BLANKS_BEFORE_MARKS.sub("", " ".join(readable(text).lower().split()))


Texts = Literal["normalised", "as_written"]
"""The form of both texts of a pair, by its name."""
FORMS: Mapping[Texts, Callable[[str], str]] = {"normalised": normalised, "as_written": readable}

_PLAIN = "there is no pleural effusion."


def read_each(reader: Reader, texts: Sequence[str]) -> list[Any | None]:
    """What a reader says of each text, None for one that it cannot take. Raises what the reader raises if it cannot read
    a plain sentence either: then it is the reader that fails, and not a text.
    """
    return _each(reader, reader.read, texts)


def compare_each(reader: Reader, pairs: Sequence[tuple[Any, Any]]) -> list[Mapping[str, Any] | None]:
    """The scores of each pair of readings, None for one that the reader cannot compare. Raises as `read_each` does."""
    return _each(reader, lambda some: [reader.compare(ours, theirs) for ours, theirs in some], pairs)


def _each(reader: Reader, work: Callable[[Sequence[Any]], Sequence[Any]], items: Sequence[Any]) -> list[Any]:
    try:
        return list(work(items))
    except Exception:
        reader.compare(*reader.read([_PLAIN, _PLAIN]))
    found: list[Any] = []
    for item in items:
        try:
            found += work([item])
        except Exception:
            found.append(None)
    return found


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
