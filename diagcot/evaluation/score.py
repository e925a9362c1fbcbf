"""The Java programs of the metrics: METEOR and the Penn Treebank tokeniser; without Java only METEOR is lost."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from diagcot.jobs.files import append_line
from diagcot.metrics import java, tokens
from diagcot.metrics.intervals import Additive, Metric
from diagcot.metrics.meteor import COUNTS, Meteor, meteor_of


@dataclass
class Java:
    """The two Java programs, used once for all models; `missing` says why a metric has no value."""

    cache: Path | None = None  # METEOR's counts by digest of the pair, one JSON object a line
    start_s: float = 180  # METEOR's until it is ready, and the tokeniser's for all texts
    tokenizer: str = "Penn Treebank"
    missing: dict[str, str] = field(default_factory=dict)
    _meteor: Meteor | None = None
    _counts: dict[str, list[float]] = field(default_factory=dict)

    def tokenize(self, texts: Sequence[str]) -> dict[str, str]:
        """Text -> its words, by one tokeniser for all: the Java one, or the simple one where there is no Java."""
        try:
            return dict(zip(texts, java.tokenize(texts, self.start_s), strict=True))
        except java.JavaError as error:
            self.tokenizer = "simple words"
            self.missing["tokenizer"] = str(error)
            return {text: tokens.words(text) for text in texts}

    def start_meteor(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Start METEOR in the background if there are pairs (text, reference) whose counts are not in the cache."""
        if self.cache and self.cache.exists():
            for line in self.cache.read_text(encoding="utf-8").splitlines():
                try:
                    row = json.loads(line)
                    self._counts[row["pair"]] = row["counts"]
                except (ValueError, LookupError, TypeError):
                    continue  # torn by a kill: counted again
        try:
            if any(_digest(pair) not in self._counts for pair in pairs):
                self._meteor = Meteor(self.start_s)
        except java.JavaError as error:
            self.missing["meteor"] = str(error)

    def finish_meteor(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Count all pairs; afterwards `meteor` answers, unless `missing` says why not."""
        new = [pair for pair in dict.fromkeys(pairs) if _digest(pair) not in self._counts]
        if not new or self._meteor is None:
            return
        try:
            with self._meteor as process:
                counts = process.counts([hyp for hyp, _ in new], [ref for _, ref in new])
        except java.JavaError as error:
            self.missing["meteor"] = str(error)
            return
        for pair, row in zip(new, counts.tolist(), strict=True):
            self._counts[_digest(pair)] = row
        if self.cache:
            rows = [json.dumps({"pair": _digest(pair), "counts": self._counts[_digest(pair)]}) for pair in new]
            append_line(self.cache, "\n".join(rows))

    def meteor(self, hyps: Sequence[str], refs: Sequence[str]) -> Metric | str:
        """METEOR of tokenised texts, or the reason why it has no value."""
        if "meteor" in self.missing:
            return self.missing["meteor"]
        rows = [self._counts[_digest(pair)] for pair in zip(hyps, refs, strict=True)]
        return Additive(np.array(rows, dtype=np.float64).reshape(-1, COUNTS), meteor_of)


def _digest(pair: tuple[str, str]) -> str:
    return hashlib.sha256("\n".join(pair).encode()).hexdigest()
