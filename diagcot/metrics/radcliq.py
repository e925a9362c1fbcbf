"""RadCliQ-v1 (Yu et al. 2023, doi:10.1016/j.patter.2023.100802): how many errors a radiologist would find, from four scores.

A linear model over standardised scores, fitted to the counts of six radiologists; the lower the better. The numbers are
those of CXR-Report-Metric's radcliq-v1.pkl, as RadEval 2.2.1 gives them in plain text (RadCliQv1/radcliq.py). Those of v0
are published in a pickle alone, which we do not read.
"""

from collections.abc import Mapping

MODEL = {
    "radgraph": (0.53792312, 0.30282584, -3.77083683e-01),
    "bertscore": (0.61757256, 0.22430938, -3.70300100e-01),
    "semb": (0.76479421, 0.25394391, -2.52616218e-01),
    "bleu2": (0.44738335, 0.29892717, 4.31504841e-12),
}
"""Score -> mean, standard deviation and weight: RadGraph's (entity F1 + relation F1) / 2, BERTScore rescaled and without
idf, cosine of CheXbert's embeddings, BLEU-2 of the sample."""
INTERCEPT = 2.46655256e-10


def words(text: str) -> str:
    """The words of a report as RadCliQ's BLEU takes them: lower case, split at blanks and before full stops."""
    return " ".join(text.lower().replace(".", " .").split())


def radcliq_v1(scores: Mapping[str, float]) -> float:
    """RadCliQ-v1 of one report. `scores` has the names of MODEL."""
    return INTERCEPT + sum(weight * (scores[name] - mean) / scale for name, (mean, scale, weight) in MODEL.items())
