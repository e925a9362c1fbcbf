"""The tokeniser and METEOR, once for all models. What is not usable fails the stage, unless the recipe allows a fallback."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from diagcot.jobs import SiteError
from diagcot.metrics import java, tokens
from diagcot.metrics.intervals import Additive, Array, Metric
from diagcot.metrics.meteor import meteor

PENN_TREEBANK = "Penn Treebank"
"""The tokeniser of published figures."""


@dataclass
class TextTools:
    """The tokeniser and METEOR, used once for all models; `missing` says what a fallback was used for, and why.

    fallbacks: those that are allowed, see `AggregateSettings`.
    """

    java_s: float = 180  # how long the Java tokeniser may take for all texts
    fallbacks: Collection[str] = ()
    tokenizer: str = PENN_TREEBANK
    missing: dict[str, str] = field(default_factory=dict)

    def tokenize(self, texts: Sequence[str]) -> dict[str, str]:
        """Text -> its words, by one tokeniser for all: the Java one, or the simple one as a fallback.

        Raises SiteError if Java is not usable and the fallback is not allowed. Without texts Java is not asked.
        """
        if not texts:
            return {}
        try:
            return dict(zip(texts, java.tokenize(texts, self.java_s), strict=True))
        except java.JavaError as error:
            self._require("simple_words", str(error))
            self.tokenizer = "simple words"
            self.missing["tokenizer"] = str(error)
            return {text: tokens.words(text) for text in texts}

    def meteor(self, pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Array]:
        """METEOR's counts of each pair of tokenised texts (ours, reference); nothing where METEOR is left out.

        Raises SiteError if METEOR is not usable and may not be left out.
        """
        distinct = list(dict.fromkeys(pairs))
        try:
            counts = meteor.counts([hyp for hyp, _ in distinct], [ref for _, ref in distinct])
        except meteor.MeteorError as error:
            self._require("no_meteor", str(error))
            self.missing["meteor"] = str(error)
            return {}
        return dict(zip(distinct, counts, strict=True))

    def _require(self, fallback: str, why: str) -> None:
        if fallback not in self.fallbacks:
            raise SiteError(
                f"{why}. Mend that (`make doctor` checks it), or allow other figures by name in the settings of the stage:"
                f" `fallbacks: [{fallback}]`"
            )


def meteor_metric(samples: Sequence[Sequence[tuple[str, str]]], counts: Mapping[tuple[str, str], Array]) -> Metric:
    """METEOR of samples whose pairs with each of their references have known counts; the best reference counts."""
    best = [
        counts[pairs[0]] if len(pairs) == 1 else max((counts[pair] for pair in pairs), key=meteor.meteor_of)
        for pairs in samples
    ]
    return Additive(np.array(best).reshape(-1, meteor.COUNTS), meteor.meteor_of)
