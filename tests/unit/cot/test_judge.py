"""What the judge is asked, how its replies are read, and the agreement of repeated judgements."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagcot.cot.filtration import judge
from diagcot.cot.filtration.agreement import Agreement
from diagcot.cot.settings import FilterSettings
from diagcot.serving import Reply
from tests.unit.cot.cot_traces import closed, trace

FILM = (b"jpeg",)


def told(*scores: int) -> str:
    """A reply of the judge with one score, or five."""
    five = scores * 5 if len(scores) == 1 else scores
    return json.dumps({name: {"reason": "so it is", "score": s} for name, s in zip(judge.CRITERIA, five, strict=True)})


def read(*texts: str, finish: str = "stop", **settings: object) -> list[judge.Judgement]:
    return judge.parse(Reply(list(texts), [finish] * len(texts)), FilterSettings(repeats=len(texts), **settings))


def test_the_judge_sees_the_films_unless_it_is_not_to():
    seen = judge.request(trace(), FILM, FilterSettings(), 3)
    assert seen.images == FILM and seen.messages[1][1].startswith("<image>Reference report: findings : ")
    assert (seen.n, seen.temperature, seen.seed) == (1, 0.0, None)
    blind = judge.request(trace(), FILM, FilterSettings(image=False), 3)
    assert blind.images == () and "<image>" not in blind.messages[0][1] and "X-ray" not in blind.messages[0][1]


def test_repeated_judgements_are_one_request_with_a_seed():
    asked = judge.request(trace(), FILM, FilterSettings(repeats=3), 3)
    assert (asked.n, asked.seed) == (3, 3) and asked.temperature > 0


def test_of_a_question_the_judge_is_told_question_right_answer_and_all_pairs():
    asked = judge.trace_prompt(closed(), FilterSettings())
    assert "Question: Does this chest X-ray show edema?\nA) No\nB) Yes\nCorrect answer: B) ✅\n" in asked
    assert "<think>" not in asked and asked.count("<image>") == 1 and "So: A) ❌" in asked


def test_every_criterion_has_a_reason_and_then_a_score():
    schema = judge.schema(40)
    assert tuple(schema["properties"]) == judge.CRITERIA and schema["additionalProperties"] is False
    for one in schema["properties"].values():
        assert list(one["properties"]) == ["reason", "score"] == one["required"]
        assert one["properties"]["reason"]["maxLength"] == 40 and one["properties"]["score"]["enum"] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("scores", "settings", "keep"),
    [
        ((5, 5, 5, 5, 5), {}, True),
        ((5, 4, 5, 4, 5), {}, True),
        ((5, 3, 5, 5, 5), {}, False),
        ((5, 3, 5, 5, 5), {"criteria": 4}, True),
        ((5, 3, 5, 5, 5), {"score": 3}, True),
        ((4, 4, 4, 4, 4), {"score": 5, "criteria": 1}, False),
    ],
)
def test_thresholds_decide(scores, settings, keep):
    (found,) = read(told(*scores), **settings)
    assert found.keep is keep and found.error is None and found.reasons["location"] == "so it is"
    assert judge.keeps([found], FilterSettings(**settings)) is keep


@pytest.mark.parametrize(
    "text",
    ["", "true", "[]", told(6), told(0), told(5).replace("5", '"5"'), told(5).replace("5", "5.0"), told(1).replace("1", "true"),
     told(5)[:-9], json.dumps({"location": {"score": 5, "reason": "x"}}), told(5).replace('"so it is"', "null")],
)  # fmt: skip
def test_what_cannot_be_read_keeps_nothing(text):
    (found,) = read(text)
    assert not found.keep and found.error == "the reply does not follow the schema" and not found.scores
    (cut,) = read(told(5), finish="length")
    assert not cut.keep and "cut" in str(cut.error)
    assert judge.keeps([found], FilterSettings(criteria=0))  # such a judge is heard, not obeyed


def test_an_error_of_the_server_is_that_of_every_judgement():
    found = judge.parse(Reply(error="HTTP 400: no"), FilterSettings(repeats=3))
    assert [one.error for one in found] == ["HTTP 400: no"] * 3 and not judge.keeps(found, FilterSettings(repeats=3))


def test_more_than_half_of_the_judgements_must_keep_a_trace():
    assert judge.keeps(read(told(5), told(5), told(1)), FilterSettings(repeats=3))
    assert not judge.keeps(read(told(5), told(1)), FilterSettings(repeats=2))
    assert not judge.keeps(read(told(5), "nothing to read", told(1)), FilterSettings(repeats=3))


@pytest.mark.parametrize(
    ("text", "keep", "error"),
    [
        ("true", True, False),
        ("False.", False, False),
        ("**TRUE**", True, False),
        ("untrue", False, True),
        ("", False, True),
    ],
)
def test_as_released_one_word_without_films_decides(text, keep, error):
    settings = FilterSettings(preset="as-released")
    asked = judge.request(trace(), FILM, settings, 3)
    assert (asked.images, asked.schema, asked.max_tokens, asked.temperature, asked.n) == ((), None, 20, 0.0, 1)
    (found,) = judge.parse(Reply([text], ["length"]), settings)
    assert found.keep is keep and bool(found.error) is error and judge.keeps([found], settings) is keep


def test_kappa_of_a_worked_example():
    """Four items, three votes each: 3, 2, 1 and 0 of yes. P = (1 + 1/3 + 1/3 + 1) / 4 = 2/3, chance 1/2, kappa 1/3."""
    votes = [[True] * yes + [False] * (3 - yes) for yes in (3, 2, 1, 0)]
    found = sum(map(Agreement.of, votes), Agreement())
    assert found.raw == pytest.approx(2 / 3) and found.kappa == pytest.approx(1 / 3)


@given(
    st.integers(2, 5).flatmap(
        lambda n: st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=1, max_size=9)
    )
)
def test_agreement_is_fleiss_over_any_votes(items):
    """Against the formula as it is printed: per item, then averaged."""
    n, found = len(items[0]), sum(map(Agreement.of, items), Agreement())
    each = [(sum(v) ** 2 + (n - sum(v)) ** 2 - n) / (n * (n - 1)) for v in items]
    share = sum(map(sum, items)) / (n * len(items))
    chance = share**2 + (1 - share) ** 2
    assert found.raw == pytest.approx(sum(each) / len(each))
    if share in (0, 1):
        assert found.kappa is None
    else:
        assert found.kappa == pytest.approx((sum(each) / len(each) - chance) / (1 - chance))


def test_a_single_judgement_agrees_with_nobody():
    assert Agreement.of([True]) == Agreement() and Agreement().raw is None and Agreement().kappa is None
