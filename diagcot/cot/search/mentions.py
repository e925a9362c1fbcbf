"""Mentions of a reference in a model's reasoning: a chain of thought must not speak of the report that guided it."""

import re

_REPORT = r"(?:(?:the|this|radiology|original) )+report (?:says|said|states|stated|mentions|describes|notes|indicates)"
_MENTION = re.compile(
    r"\b(?:reference|provided|given|gold|ground.truth) (?:report|answer|label|diagnosis|conclusion|standard)s?\b"
    r"|\bground truth\b|\bthe reference\b(?! (?:line|point|level|range|study|film|examination))"
    r"|\b(?:according to|as stated in|consistent with|agrees? with|match(?:es)?|in line with) the report\b"
    rf"|\b{_REPORT}\b|\b(?:a|the) reviewer\b"
)  # for lower-case text: every step of every search is checked, and ignoring case takes three times as long
_GOLD = re.compile(r"reference|gold|ground")


def reference_mention(text: str, task: str, sources: str) -> str:
    """The first words of a thought that speak of a reference, in lower case; empty where there are none.

    sources: the reference report and the question. A report may itself speak of a reference, and a question may be about
    a report: words that occur there are allowed.
    """
    for words in dict.fromkeys(match.group() for match in _MENTION.finditer(text.lower())):
        about_report = task == "matching" and "report" in words and not _GOLD.search(words)
        if words not in sources.lower() and not about_report:
            return words
    return ""
