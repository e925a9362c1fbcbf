"""Components of rewards that models give: a scorer for each, which sees every pair of texts once."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from diagcot.jobs import ModelError
from diagcot.metrics.clinical import rubric
from diagcot.metrics.clinical.graphs import graph_reasoning
from diagcot.metrics.clinical.readers import Reader, compare_each, load, normalised, read_each, readable, why_failed
from diagcot.metrics.clinical.weights import missing_files
from diagcot.metrics.green import green, prompt
from diagcot.metrics.labels import agreement, micro_f1
from diagcot.rewards.report import states_normal
from diagcot.serving import Reply, Request
from diagcot.text.labels import ABNORMAL
from diagcot.training.config.reward_settings import RADGRAPH_REASONING, READERS, RewardModelsSettings

Ask = Callable[[Sequence[Request]], Sequence[Reply]]
"""Sends requests to a served model and returns the replies in their order."""
_NO_ENTITY = (
    0.5  # what RaTEScore's package returns if a side has no entity; no other pair scores this to the last digit
)


@dataclass(frozen=True)
class Pair:
    """What is scored of a reply, and its reference.

    question: what was asked, where that is more than a report. think: the reasoning, for a component that reads it.
    """

    answer: str
    reference: str
    question: str = ""
    think: str = ""


class Scorer(Protocol):
    """Scores pairs of texts, 0 to 1 each; None for one whose judgement could not be read."""

    def score(self, pairs: Sequence[Pair]) -> list[float | None]:
        """The scores, in order."""


class ReaderScorer:
    """A component of READERS: CheXbert's micro F1 over 14 labels, RadGraph's partial F1, or RaTEScore.

    Noise is not paid: a reply without an abnormal label of CheXbert's scores 0 unless it says that something is normal or
    absent, and one in which RaTEScore finds no entity scores 0 and not the 0.5 of its package.
    Raises ModelError if the reader's files are not there or not of the published form.
    """

    def __init__(self, name: str, weights: Path | None, device: str) -> None:
        self._name, self._reader = name, _reader(name, weights, device)

    def score(self, pairs: Sequence[Pair]) -> list[float | None]:
        """Scores of the pairs, in one form of text; each is read once. None for a pair with a text that the reader cannot
        take; raises what the reader raises if it cannot read a plain sentence either.
        """
        sides = [(normalised(pair.answer), normalised(pair.reference)) for pair in pairs]
        read = _read_once(self._reader, [text for both in sides for text in both])
        readings = [(read[ours], read[theirs]) for ours, theirs in sides]
        whole = [place for place, both in enumerate(readings) if all(reading is not None for reading in both)]
        found: list[float | None] = [None] * len(pairs)
        compared = compare_each(self._reader, [readings[place] for place in whole])
        for place, scores in zip(whole, compared, strict=True):
            found[place] = None if scores is None else self._value(scores, pairs[place].answer)
        return found

    def _value(self, scores: Mapping[str, Any], answer: str) -> float:
        if self._name == "chexbert":
            ours, theirs = scores["chexbert"]
            says_something = any(ours.get(name) in (1, -1) for name in ABNORMAL) or states_normal(answer)
            return float(micro_f1(agreement([ours], [theirs]))[0]) if says_something else 0.0
        if self._name == "ratescore":
            return 0.0 if scores["ratescore"] == _NO_ENTITY else float(scores["ratescore"])
        return float(scores["radgraph_partial"])


class ReasoningScorer:
    """The metric of the reasoning by RadGraph's entities; 0 where the reference has none. Raises as ReaderScorer does."""

    def __init__(self, weights: Path | None, device: str) -> None:
        self._reader = _reader(RADGRAPH_REASONING, weights, device)

    def score(self, pairs: Sequence[Pair]) -> list[float | None]:
        """Scores of the pairs; None for one with a text that the reader cannot take."""
        rows = [[normalised(text) for text in (pair.think, pair.answer, pair.reference)] for pair in pairs]
        read = _read_once(self._reader, [text for row in rows for text in row])
        found: list[float | None] = []
        for row in rows:
            think, answer, reference = (read[text] for text in row)
            if think is None or answer is None or reference is None:
                found.append(None)
            else:
                figures = graph_reasoning(think, answer, reference)
                found.append(figures.overall if figures else 0.0)
        return found


def _read_once(reader: Reader, texts: Sequence[str]) -> dict[str, Any]:
    """Text -> what the reader says of it, None if it cannot take it."""
    unique = list(dict.fromkeys(texts))
    return dict(zip(unique, read_each(reader, unique), strict=True))


def _reader(name: str, weights: Path | None, device: str) -> Reader:
    folder = READERS[name]
    if (reason := missing_files(folder, weights)) or weights is None:
        raise ModelError(f"{reason}")
    return load(folder, weights, device)


class ServedScorer:
    """A component of SERVED: one request for each pair. Raises RuntimeError if a request failed for good."""

    def __init__(self, name: str, settings: RewardModelsSettings, ask: Ask) -> None:
        self._name, self._settings, self._ask = name, settings, ask
        self._template = ""
        if name == "green":
            assert settings.weights  # `missing.models` has seen it
            self._template = (settings.weights / "green" / "prompt.txt").read_text(encoding="utf-8")

    def score(self, pairs: Sequence[Pair]) -> list[float | None]:
        """Scores of the pairs. GREEN counts an analysis that cannot be parsed as 0, as its authors do."""
        replies = self._ask([self._request(str(number), pair) for number, pair in enumerate(pairs)])
        for reply in replies:
            if reply.error:
                raise RuntimeError(f"a request failed: {reply.error}")
        return [(green if self._name == "green" else rubric.score)(reply.text) for reply in replies]

    def _request(self, name: str, pair: Pair) -> Request:
        if self._name == "green":
            asked = self._settings.green
            text = prompt(self._template, normalised(pair.reference), normalised(pair.answer), asked.words)
            return Request(name, (("user", text),), max_tokens=asked.max_tokens)
        text = rubric.prompt(readable(pair.answer), readable(pair.reference), pair.question)
        tokens = self._settings.judge.max_tokens
        return Request(name, (("user", text),), max_tokens=tokens, schema=rubric.SCHEMA)


def create(name: str, settings: RewardModelsSettings, ask: Ask) -> Scorer:
    """The scorer of a component. ask: to the server of that component, for those of SERVED."""
    if name == RADGRAPH_REASONING:
        return ReasoningScorer(settings.weights, settings.device)
    if name in READERS:
        return ReaderScorer(name, settings.weights, settings.device)
    return ServedScorer(name, settings, ask)


class Component:
    """A scorer that is made when it is first needed, and the scores that it gave, by text. May be called from threads.

    together: whether several calls may be at work at once, as a server likes it. kept: most pairs whose scores are kept.
    """

    def __init__(self, name: str, make: Callable[[], Scorer], kept: int, together: bool) -> None:
        self._name, self._make, self._most = name, make, kept
        self._scorer: Scorer | None = None
        self._kept: OrderedDict[Pair, float] = OrderedDict()
        self._lock = threading.Lock()
        self._turn: AbstractContextManager[Any] = nullcontext() if together else threading.Lock()

    def ready(self) -> None:
        """Load the model. Raises RuntimeError that names the component and says why it cannot be used."""
        with self._lock:
            try:
                self._scorer = self._scorer or self._make()
            except Exception as error:
                raise RuntimeError(
                    f"the component {self._name} of the reward cannot be used: {why_failed(error)}"
                ) from None

    def score(self, pairs: Sequence[Pair]) -> tuple[list[float | None], float]:
        """Scores in order, and the seconds that the model took. An empty answer scores 0 and is shown to no model.

        Raises RuntimeError that names the component if its model failed: a failure is never a score.
        """
        self.ready()
        with self._lock:
            found: dict[Pair, float | None] = {pair: self._kept[pair] for pair in pairs if pair in self._kept}
        new = [pair for pair in dict.fromkeys(pairs) if pair.answer and pair not in found]
        seconds = 0.0
        if new:
            assert self._scorer
            with self._turn:
                began = time.monotonic()
                try:
                    found |= zip(new, self._scorer.score(new), strict=True)
                except Exception as error:
                    raise RuntimeError(
                        f"the component {self._name} of the reward failed: {why_failed(error)}; the next attempt resumes the"
                        " stage"
                    ) from None
                seconds = time.monotonic() - began
        self._keep(found)
        return [found[pair] if pair.answer else 0.0 for pair in pairs], seconds

    def _keep(self, found: dict[Pair, float | None]) -> None:
        with self._lock:
            for pair, value in found.items():
                if value is not None:
                    self._kept[pair] = value
                    self._kept.move_to_end(pair)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
