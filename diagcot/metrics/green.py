"""GREEN (Ostmeier et al. 2024, arXiv:2405.03595): the question to its language model, and the score of the analysis."""

import re

CHAT_TEMPLATE = (
    "{{ bos_token + '<|user|>\\n' + messages[0]['content'] + eos_token + '\\n<|assistant|>\\n' + eos_token }}"
)
"""The prompt format of Stanford-AIMI/GREEN, with the end token that its tokeniser adds (add_eos_token)."""
_SECTION = r"\[{}\]:\s*(.*?)(?:\n\s*\n|\Z)"
_NUMBER = r"\d{1,9}"  # longer numbers count nothing that is in a report
_COUNT = re.compile(rf"(?<=: )\b{_NUMBER}\b(?=\.)")


def prompt(template: str, reference: str, candidate: str, words: int) -> str:
    """The question about a report. template: the authors', with {reference} and {candidate}; words: most of each report."""
    for place, report in (("{reference}", reference), ("{candidate}", candidate)):
        before, _, after = template.partition(place)
        template = before + " ".join(report.split()[:words]) + after
    return template


def green(analysis: str) -> float:
    """Matched findings / (matched findings + clinically significant errors), 0 to 1; 0 where nothing matched.

    The sections are parsed as Stanford-AIMI/GREEN parses them: the count of matched findings begins its section, each kind of
    error gives its count after a colon, and of a kind that occurs twice the entry that is last in alphabetical order
    counts. A part that cannot be parsed counts as 0.
    """
    text = _last(analysis)
    matched = re.match(rf"{_NUMBER}\b(?=\.)", _section(text, "Matched Findings"))
    if not matched or not int(matched[0]):
        return 0.0
    return int(matched[0]) / (int(matched[0]) + errors(text))


def counts_matches(analysis: str) -> bool:
    """Whether an analysis has the section of matched findings, even if nothing matched; without it its 0 says nothing."""
    return "[Matched Findings]:" in _last(analysis)


def _last(analysis: str) -> str:
    """What follows the last `[Explanation]:`, as Stanford-AIMI/GREEN takes it where a model begins again."""
    return analysis.rsplit("[Explanation]:", 1)[-1]


def errors(text: str) -> int:
    """How many clinically significant errors an analysis tells, over the six kinds (a) to (f), or (1) to (6)."""
    section = _section(text, "Clinically Significant Errors")
    lines = sorted(re.findall(r"\([a-f]\) .*", section)) or sorted(re.findall(r"\([1-6]\) .*", section))
    counts = {line[:3]: int(found[0]) for line in lines if (found := _COUNT.search(line))}
    return sum(counts.values())


def _section(text: str, name: str) -> str:
    """A section up to the next empty line; nothing where there is none, or where it begins with No."""
    found = re.search(_SECTION.format(name), text, re.DOTALL)
    return "" if not found or found[1].startswith("No") else found[1]
