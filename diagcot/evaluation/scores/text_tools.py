"""The tokeniser and METEOR, once for all models; what is missing costs its own metric and no other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from diagcot.metrics import java, tokens
from diagcot.metrics.intervals import Additive, Array, Metric
from diagcot.metrics.meteor import meteor


@dataclass
class TextTools:
    """The tokeniser and METEOR, used once for all models; `missing` says why something has no value."""

    java_s: float = 180  # how long the Java tokeniser may take for all texts
    tokenizer: str = "Penn Treebank"
    missing: dict[str, str] = field(default_factory=dict)

    def tokenize(self, texts: Sequence[str]) -> dict[str, str]:
        """Text -> its words, by one tokeniser for all: the Java one, or the simple one where there is no Java."""
        try:
            return dict(zip(texts, java.tokenize(texts, self.java_s), strict=True))
        except java.JavaError as error:
            self.tokenizer = "simple words"
            self.missing["tokenizer"] = str(error)
            return {text: tokens.words(text) for text in texts}

    def meteor(self, pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Array]:
        """METEOR's counts of each pair of tokenised texts (ours, reference); nothing where METEOR is missing."""
        distinct = list(dict.fromkeys(pairs))
        try:
            counts = meteor.counts([hyp for hyp, _ in distinct], [ref for _, ref in distinct])
        except meteor.MeteorError as error:
            self.missing["meteor"] = str(error)
            return {}
        return dict(zip(distinct, counts, strict=True))


def meteor_metric(pairs: Sequence[tuple[str, str]], counts: Mapping[tuple[str, str], Array]) -> Metric:
    """METEOR of pairs whose counts are known."""
    return Additive(np.array([counts[pair] for pair in pairs]).reshape(-1, meteor.COUNTS), meteor.meteor_of)
