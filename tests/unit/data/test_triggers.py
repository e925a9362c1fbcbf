"""No expression that matches a sentence is left out because of the words that it needs."""

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diagcot.data.reports import label_rules, labeler
from diagcot.data.reports.triggers import candidates, needed

PATTERNS = [
    *(pattern for some in (*label_rules.MENTIONS.values(), *label_rules.NORMAL.values()) for pattern in some),
    *label_rules.OTHER,
]


@pytest.mark.parametrize(
    ("pattern", "parts"),
    [
        ("nodul(?:es?|ar)", {"nodul"}),
        ("cat|dogs?", {"cat", "dog"}),
        ("cat|(?:dog)?", set()),
        (r"pleural (?:\w+ )?fluid", {"pleural"}),
        ("(?:a|b) tubes?", {"tube"}),
        ("x?(?:lines?|wires?)+", {"line", "wire"}),
        ("(?<!ankle )edema(?! of)", {"edema"}),
        (r"\w+", set()),
    ],
)
def test_parts_that_every_match_has(pattern, parts):
    assert needed(pattern) == parts


def test_a_pattern_without_parts_is_always_a_candidate():
    possible = candidates({"any": r"\w+", "cat": "cats?", "dog": "dogs?"})
    assert possible("a bobcat sat") == {"any", "cat"}
    assert possible("") == {"any"}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(st.sampled_from(PATTERNS).flatmap(lambda pattern: st.tuples(st.just(pattern), st.from_regex(pattern))))
def test_every_text_that_a_pattern_of_the_labeler_matches_is_a_candidate(found):
    pattern, text = found
    match = re.search(pattern, text)
    assert match and any(part in match.group() for part in needed(pattern))


def test_all_expressions_that_match_a_sentence_of_the_labelers_tests_are_tried():
    texts = [path.read_text().lower() for path in Path(__file__).parent.glob("*_sentences.txt")]
    sentences = [" ".join(line.split()) for text in texts for line in text.splitlines() if line]
    assert len(sentences) > 500
    for sentence in sentences:
        matching = {key for key, pattern in labeler._COMPILED.items() if pattern.search(sentence)}
        assert matching <= labeler._candidates(sentence)
