"""A tokeniser without Java for rewards, and for evaluation where Java is missing."""

import re

_TOKEN = re.compile(
    r"""</?\w+>                       # tags, <unk>
    |n't
    |\d+[a-z]+\b                     # 6th, 8mm
    |\d+(?:[.,:/]\d+)*(?:-\w+)*       # 1.5, 12/24, 2-view
    |[ap]\.m\.|\b(?:dr|mr|mrs|ms|ct|vs)\.
    |\w+(?:[-./]\w+)*                 # well-defined, x/y, u.s
    |'\w+                             # the possessive of the Penn Treebank: heart 's
    |[()/%]
    """,
    re.VERBOSE,
)
_SPLIT = {"cannot": "can not", "(": "-lrb-", ")": "-rrb-"}
_NOT = re.compile(r"(\w)n't\b")


def words(text: str) -> str:
    """`text` in lower case as words joined by single blanks, punctuation removed.

    Made to agree with the Penn Treebank rules of pycocoevalcap's Java tokeniser on radiology prose, brackets as `-lrb-`
    included; docs/metrics.md gives the measured share of reports on which the two agree. Scores that are published use
    `diagcot.metrics.java.tokenize`.
    """
    tokens = _TOKEN.findall(_NOT.sub(r"\1 n't", text.lower()))
    return " ".join(_SPLIT.get(token, token) for token in tokens)
