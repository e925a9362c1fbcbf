"""A tokeniser without Java for rewards, and for evaluation where Java is missing."""

import re

_TOKEN = re.compile(
    r"""\d+(?:[.,:/]\d+)*(?:-\w+)*  # 1.5, 12/24, 2-view
    |\w+(?:[-./]\w+)*               # well-defined, e.g, x/y
    |'\w+                           # the possessive of PTB: heart 's
    """,
    re.VERBOSE,
)


def words(text: str) -> str:
    """`text` in lower case as words joined by single blanks, punctuation removed.

    Made to agree with the Penn Treebank rules of pycocoevalcap's Java tokeniser on plain radiology prose;
    docs/metrics.md gives the measured share of reports on which the two agree. Scores that are published use
    `diagcot.metrics.java.tokenize`.
    """
    return " ".join(_TOKEN.findall(text.lower()))
