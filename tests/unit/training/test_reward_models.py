"""Components of rewards: weights, what models are shown, the cache, missing models, and failures that are no scores."""

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from diagcot.jobs import UserError
from diagcot.metrics.clinical import rubric
from diagcot.rewards import registry
from diagcot.rewards.score import Reference
from diagcot.serving import Reply, Request
from diagcot.text.reasoning import TASKS
from diagcot.training.config.grpo_settings import GrpoSettings
from diagcot.training.config.reward_settings import REASONED, TERMS, RewardModelsSettings, RewardSettings
from diagcot.training.reward_models import missing, scorers
from diagcot.training.reward_models.plain import Output
from diagcot.training.reward_models.scorers import Component, Pair, ReaderScorer, ServedScorer
from diagcot.training.reward_models.weighted import UNREAD, pair_of, weighted
from diagcot.training.reward_models.worker import RewardWorker
from diagcot.training.rl.rollout_pool import scoring_settings
from tests.integration.evaluation import report_models

REPORTS = [
    Reference("the heart is enlarged . small left effusion . no pneumothorax ."),
    Reference("no pleural effusion . the heart is normal ."),
]
STEPS = "<think>t</think><answer>one</answer><think>u</think><answer>two</answer>"
RIGHT, EMPTY = (
    f"<think>look at the heart first</think><answer>{REPORTS[0].answer}</answer>",
    "<think>look at the heart first</think><answer></answer>",
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("weights")
    report_models.write_chexbert(root)
    report_models.write_radgraph(root, "radgraph")
    return root


def worker(weights: Path, **components: float) -> RewardWorker:
    reward = RewardSettings(name="report", components=components)
    return RewardWorker({"": reward}, {"": REPORTS}, RewardModelsSettings(weights=weights), {})


class Listed:
    """A scorer that gives what it was told to, and remembers what it was shown."""

    def __init__(self, *values: float | None) -> None:
        self.values, self.shown = list(values), list[list[Pair]]()

    def score(self, pairs: Sequence[Pair]) -> list[float | None]:
        self.shown.append(list(pairs))
        return [self.values.pop(0) for _ in pairs]


def component(scorer: Any, kept: int = 10) -> Component:
    return Component("chexbert", lambda: scorer, kept, False)


@pytest.mark.parametrize(
    ("reward", "says"),
    [
        ({"name": "report", "components": {"chexbret": 1.0}}, "no component 'chexbret'; it has plain, format"),
        ({"name": "grounding", "components": {"radgraph": 1.0}}, "grounding has no component 'radgraph'; it has plain"),
        ({"name": "open", "components": {"green": 1.0}}, "open has no component 'green'"),
        ({"name": "report", "components": {"judge": 0.0}}, "greater than 0"),
        (
            {"name": "closed", "components": {"plain": 1.0, "judge": 1.0}},
            "closed has no component 'judge'; it has plain",
        ),
    ],
)
def test_settings_refuse(reward: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        RewardSettings.model_validate(reward)


def test_the_plain_reward_is_what_it_is_without_components(weights: Path) -> None:
    plain = worker(weights)
    assert plain.ready()
    scored = plain.score([Output(RIGHT, REPORTS[0]), Output("noise", REPORTS[0])], 0.0)
    direct = registry.reward("report", "clinical", REPORTS)([RIGHT, "noise"], [REPORTS[0]] * 2, 0.0)
    assert scored.scores == direct and scored.seconds == {}


def test_every_term_that_may_be_a_component_is_one_of_the_default_mode() -> None:
    for name, terms in TERMS.items():
        answers = ["<think>a ✅</think><answer>Edema</answer>", "<think>b ✅</think><answer>Fracture</answer>"]
        references = [Reference(text) for text in answers]
        (score,) = registry.reward(name, RewardSettings(name=name).chosen_mode, references)(answers[:1], references[:1])
        assert set(terms) <= set(score), name


def test_the_reward_is_the_weighted_sum_of_its_components(weights: Path) -> None:
    both = worker(weights, plain=0.5, format=0.1, chexbert=0.2, radgraph=0.2)
    assert both.ready()
    scored = both.score([Output(RIGHT, REPORTS[0]), Output(RIGHT.replace("left", "right"), REPORTS[0])], 0.0)
    assert set(scored.seconds) == {"chexbert", "radgraph"} and min(scored.seconds.values()) > 0
    right, near = scored.scores
    assert right["chexbert"] == right["radgraph"] == right["format"] == 1.0
    assert near["radgraph"] < 1.0
    for score in scored.scores:
        parts = 0.5 * score["plain"] + 0.1 * score["format"] + 0.2 * score["chexbert"] + 0.2 * score["radgraph"]
        assert score["overall"] == pytest.approx(parts)
        assert score[UNREAD] == 0


def test_own_rewards_are_mixed_with_those_of_the_suite(tmp_path: Path, weights: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def short(completions, reference, **rest): return [1 / len(text) for text in completions]\n"
        "def none(completions, **rest): return [None for _ in completions]\n"
    )
    mixed = {"plain": 0.5, "format": 0.1, f"{tmp_path}/mine.py:short": 0.3, f"{tmp_path}/mine.py:none": 0.1}
    both = worker(weights, **mixed)
    assert both.ready()
    for score, text in zip(
        both.score([Output(t, REPORTS[0]) for t in (RIGHT, EMPTY)], 0.0).scores, (RIGHT, EMPTY), strict=True
    ):
        assert (score["mine.short"], score["mine.none"]) == (1 / len(text), 0.0)
        parts = 0.5 * score["plain"] + 0.1 * score["format"] + 0.3 * score["mine.short"]
        assert score["overall"] == pytest.approx(parts)
    settings = RewardSettings(name="report", components=mixed)
    assert settings.calls == tuple((f"{tmp_path}/mine.py:{name}", "trl") for name in ("short", "none"))
    (tmp_path / "mine.py").write_text("def short(completions, **rest): return [0.0]\n")
    broken = worker(weights, plain=0.5, **{f"{tmp_path}/mine.py:short": 0.5})
    with pytest.raises(UserError, match="returned 1 numbers for 2 answers"):
        broken.score([Output(text, REPORTS[0]) for text in (RIGHT, EMPTY)], 0.0)


def test_the_reasoning_itself_is_a_component_that_needs_no_model(weights: Path) -> None:
    reasoned = worker(weights, plain=0.5, reasoning=0.5)
    assert reasoned.ready()
    report = "there is a small left pleural effusion . no pneumothorax ."
    true, other = "I see a small left pleural effusion and no pneumothorax.", "I see that the heart is enlarged."
    texts = [f"<think>{think}</think><answer>{report}</answer>" for think in (true, other)]
    scored = reasoned.score([Output(text, Reference(report)) for text in texts], 0.0)
    good, bad = scored.scores
    assert good["reasoning"] == good["factuality"] == good["completeness"] == good["effectiveness"] == 1.0
    assert bad["reasoning"] == 0.0 and bad["overall"] < good["overall"]
    assert good["overall"] == pytest.approx(0.5 * good["plain"] + 0.5)
    assert scored.seconds == {} and REASONED == TASKS
    with pytest.raises(ValidationError, match="reasoning: none leaves no reasoning to score"):
        GrpoSettings.model_validate(
            {
                "reasoning": "none",
                "reward": {"components": {"reasoning": 1.0}},
                "deepspeed": {"steps": 1, "global_batch": 8},
            }
        )


def test_the_reasoning_is_read_by_radgraph_too(weights: Path) -> None:
    reasoned = worker(weights, radgraph_reasoning=1.0)
    assert reasoned.ready()
    report = REPORTS[0].answer
    thoughts = [report, "the heart is mildly enlarged .", ""]
    texts = [f"<think>{think}</think><answer>{report}</answer>" for think in thoughts]
    scored = reasoned.score([Output(text, REPORTS[0]) for text in texts], 0.0)
    same, other, none = (score["overall"] for score in scored.scores)
    assert same == 1.0 and other < 1.0 and none == 0.0 and scored.seconds["radgraph_reasoning"] > 0
    with pytest.raises(
        ValidationError, match="no reasoning to score, but a reward has the component radgraph_reasoning"
    ):
        GrpoSettings.model_validate(
            {
                "reasoning": "none",
                "reward": {"components": {"radgraph_reasoning": 1.0}},
                "deepspeed": {"steps": 1, "global_batch": 8},
            }
        )


def test_replies_that_say_nothing_earn_nothing_of_a_model(weights: Path) -> None:
    models = worker(weights, chexbert=1.0, radgraph=1.0)
    replies = ["", " ", EMPTY, REPORTS[0].answer, f"<think>{REPORTS[0].answer}", f"<answer>{REPORTS[0].answer}"]
    scored = models.score([Output(reply, REPORTS[0]) for reply in replies], 0.0)
    assert [score["overall"] for score in scored.scores] == [0.0] * len(replies)
    assert scored.seconds == {"chexbert": 0.0, "radgraph": 0.0}


def test_a_text_that_a_reader_cannot_take_costs_that_score_alone(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = ReaderScorer("radgraph", weights, "cpu")
    read = scorer._reader.read

    def odd(texts: Sequence[str]) -> Sequence[Any]:
        if "odd" in texts:
            raise ValueError("no such text")
        return read(texts)

    monkeypatch.setattr(scorer._reader, "read", odd)
    answer = REPORTS[0].answer
    pairs = [Pair(answer, answer), Pair("odd", answer), Pair(answer.upper(), answer), Pair(answer, "odd")]
    assert scorer.score(pairs) == [1.0, None, 1.0, None]  # capitals change nothing


def test_a_term_that_the_mode_lacks_is_told_before_the_first_step(weights: Path) -> None:
    reward = RewardSettings(name="report", mode="released", components={"clinical": 1.0})
    other = RewardWorker({"": reward}, {"": REPORTS}, RewardModelsSettings(weights=weights), {})
    with pytest.raises(
        UserError, match="report/released has no clinical to be a component; its terms are overall, format"
    ):
        other.ready()


def test_a_reader_that_cannot_be_loaded_is_told_before_the_first_step(tmp_path: Path) -> None:
    config = report_models.write_chexbert(tmp_path) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"vocab_size": 5}))
    with pytest.raises(
        RuntimeError, match=r"component chexbert of the reward cannot be used: .*chexbert\.pth does not fit"
    ):
        worker(tmp_path, chexbert=1.0).ready()


@pytest.mark.parametrize(
    ("reward", "text", "shown"),
    [
        ({"name": "report"}, "<think>t</think><answer>one</answer><answer>two</answer>", Pair("one", "ref")),
        ({"name": "report"}, "one", Pair("", "ref")),
        ({"name": "report", "mode": "whole"}, " one ", Pair("one", "ref")),
        (
            {"name": "open"},
            "<think>t</think><answer>one</answer><think>u</think><answer>two</answer>",
            Pair("two", "ref", "what?"),
        ),
    ],
)
def test_what_models_are_shown(reward: dict[str, Any], text: str, shown: Pair) -> None:
    assert (
        pair_of(text, "<think>r</think><answer>ref</answer>", "what?", RewardSettings.model_validate(reward)) == shown
    )


def test_each_pair_of_texts_is_scored_once_in_one_batch() -> None:
    listed = Listed(0.25, 0.5, 0.75)
    scores = component(listed)
    pairs = [Pair("a", "r"), Pair("a", "r"), Pair("b", "r"), Pair("", "r")]
    assert scores.score(pairs)[0] == [0.25, 0.25, 0.5, 0.0]
    assert scores.score([Pair("b", "r"), Pair("b", "other")])[0] == [0.5, 0.75]
    assert listed.shown == [[Pair("a", "r"), Pair("b", "r")], [Pair("b", "other")]]


def test_no_more_scores_are_kept_than_the_recipe_says() -> None:
    listed = Listed(0.1, 0.2, 0.3, 0.4)
    scores = component(listed, kept=2)
    for answer in "abc":
        scores.score([Pair(answer, "r")])
    assert scores.score([Pair("c", "r"), Pair("b", "r")])[0] == [0.3, 0.2]  # the newest two
    assert scores.score([Pair("a", "r")])[0] == [0.4]


def test_a_failure_names_its_component_and_is_no_score() -> None:
    class Dead:
        def score(self, pairs: Sequence[Pair]) -> list[float | None]:
            raise RuntimeError("the process of RaTEScore ended with -9")

    scores = component(Dead())
    for _ in range(2):
        with pytest.raises(
            RuntimeError, match=r"the component chexbert of the reward failed: .*ended with -9.*resumes"
        ):
            scores.score([Pair("a", "r")])

    class Leaky:
        def score(self, pairs: Sequence[Pair]) -> list[float | None]:
            raise ValueError("words of a report")

    with pytest.raises(RuntimeError, match=r"it failed \(ValueError\)") as told:
        component(Leaky()).score([Pair("a", "r")])
    assert "words of a report" not in str(told.value)


def test_what_could_not_be_read_takes_the_mean_of_its_group_and_is_counted() -> None:
    plain = [{"overall": 0.0}] * 3
    rows = weighted(plain, {"judge": [0.2, None, 0.6]}, {"judge": 1.0})
    assert [row["overall"] for row in rows] == pytest.approx([0.2, 0.4, 0.6])
    assert [row[UNREAD] for row in rows] == [0, 1, 0]
    with pytest.raises(RuntimeError, match="judge of the reward gave no readable judgement of 3 replies"):
        weighted(plain, {"judge": [None] * 3}, {"judge": 1.0})
    listed = Listed(None, 0.5)
    scores = component(listed)
    assert [scores.score([Pair("a", "r")])[0] for _ in range(2)] == [[None], [0.5]]  # not kept: asked again


def test_readers_take_turns_and_servers_do_not() -> None:
    at_work, most = [0], [0]
    barrier = threading.Barrier(2, timeout=5)

    class Slow:
        def score(self, pairs: Sequence[Pair]) -> list[float | None]:
            at_work[0] += 1
            most[0] = max(most[0], at_work[0])
            if together:
                barrier.wait()
            at_work[0] -= 1
            return [1.0 for _ in pairs]

    for together, expected in ((False, 1), (True, 2)):
        most[0] = 0
        scores = Component("judge", Slow, 10, together)
        threads = [threading.Thread(target=scores.score, args=([Pair(name, "r")],)) for name in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert most[0] == expected


def test_chexbert_pays_noise_nothing_on_a_normal_image(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class NoFinding:
        """Says No Finding of every text, as CheXbert may say of noise."""

        def read(self, texts: Sequence[str]) -> list[dict[str, int]]:
            return [{"No Finding": 1} for _ in texts]

        def compare(self, ours: dict[str, int], theirs: dict[str, int]) -> dict[str, Any]:
            return {"chexbert": [ours, theirs]}

    monkeypatch.setattr(scorers, "missing_files", lambda *_: None)
    monkeypatch.setattr(scorers, "load", lambda *_: NoFinding())
    normal = "the heart is normal . no effusion ."
    answers = ["zz zz", "...", "chest image of a patient", "no effusion", "the lungs are clear"]
    scored = ReaderScorer("chexbert", tmp_path, "cpu").score([Pair(answer, normal) for answer in answers])
    assert scored == [0.0, 0.0, 0.0, 1.0, 1.0]


def test_ratescore_pays_nothing_for_a_text_without_entities(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Package:
        def read(self, texts: Sequence[str]) -> list[str]:
            return list(texts)

        def compare(self, ours: str, theirs: str) -> dict[str, float]:
            return {"ratescore": 0.5 if ours == "zz" else 0.5000001}

    monkeypatch.setattr(scorers, "missing_files", lambda *_: None)
    monkeypatch.setattr(scorers, "load", lambda *_: Package())
    assert ReaderScorer("ratescore", tmp_path, "cpu").score([Pair("zz", "r"), Pair("yy", "r")]) == [0.0, 0.5000001]


def test_the_judge_is_asked_by_the_rubric_and_its_verdict_read() -> None:
    asked: list[Request] = []
    verdict = '{"reason": "side differs", "missing": 5, "false": 5, "location": 1, "severity": 3}'

    def ask(requests: Sequence[Request]) -> list[Reply]:
        asked.extend(requests)
        return [Reply(texts=[verdict]), Reply(texts=['{"reason": "cut'])]

    pairs = [Pair("left effusion", "right effusion"), Pair("Edema", "Edema", "What is seen?")]
    assert ServedScorer("judge", RewardModelsSettings(), ask).score(pairs) == [pytest.approx(10 / 16), None]
    report, question = (request.messages[0][1] for request in asked)
    assert "left effusion" in report and "Question" not in report and "Question: What is seen?" in question
    assert all(request.schema == rubric.SCHEMA and request.temperature == 0 for request in asked)
    assert next(iter(rubric.SCHEMA["properties"])) == "reason"  # the verdict follows from it
    assert rubric.score(verdict.replace("side", "a\tside")) == pytest.approx(10 / 16)
    for wrong in ('{"reason": "", "missing": 5}', verdict.replace("1", "9"), verdict.replace("1", "true"), "[]", ""):
        assert rubric.score(wrong) is None


def test_a_judge_can_be_held_to_the_form_of_its_verdict() -> None:
    """By the grammar that its server makes of the schema; not every schema that is valid can be compiled."""
    import xgrammar
    from tokenizers import pre_tokenizers

    letters = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<|im_end|>"]
    info = xgrammar.TokenizerInfo(letters, vocab_type=xgrammar.VocabType.BYTE_LEVEL, stop_token_ids=[len(letters) - 1])
    grammar = xgrammar.GrammarCompiler(info).compile_json_schema(json.dumps(rubric.SCHEMA), any_whitespace=False)
    points = '"missing": 5, "false": 5, "location": 1, "severity": 3}'
    for text, fits in (
        ('{"reason": "one side", ' + points, True),
        ("{" + points, False),
        ('{"reason": "' + "x" * 201, False),
    ):
        assert xgrammar.GrammarMatcher(grammar).accept_string(text) == fits


def test_greens_model_is_asked_in_its_authors_words_and_a_failed_request_is_no_score(tmp_path: Path) -> None:
    (tmp_path / "green").mkdir()
    (tmp_path / "green" / "prompt.txt").write_text("Compare {reference} with {candidate}.")
    analysis = "[Clinically Significant Errors]:\n(a) False report: 1. x\n\n[Matched Findings]:\n3. a; b; c\n"
    replies = [Reply(texts=[analysis])]
    asked: list[Request] = []

    def ask(requests: Sequence[Request]) -> list[Reply]:
        asked.extend(requests)
        return replies

    scorer = ServedScorer(
        "green", RewardModelsSettings.model_validate({"weights": tmp_path, "green": {"words": 2}}), ask
    )
    assert scorer.score([Pair("one two three", "four five six")]) == [0.75]
    assert asked[0].messages == (("user", "Compare four five with one two."),)
    replies[0] = Reply(error="HTTP 500")
    with pytest.raises(RuntimeError, match="a request failed: HTTP 500"):
        scorer.score([Pair("one", "two")])


def test_missing_models_are_refused_by_name(weights: Path) -> None:
    reward = {"name": "report", "components": {"chexbert": 1.0, "ratescore": 1.0, "green": 1.0, "judge": 1.0}}
    settings = GrpoSettings.model_validate(
        {"reward": reward, "reward_models": {"weights": weights}, "deepspeed": {"steps": 1, "global_batch": 8}}
    )
    with pytest.raises(UserError) as told:
        missing.check(settings, {})
    for said in (
        f"ratescore: no folder {weights}/ratescore",
        "green: no folder",
        "judge: give the stage the input `judge`",
    ):
        assert said in str(told.value)
    assert "chexbert" not in str(told.value)
    missing.check(settings.model_copy(update={"reward": RewardSettings(components={"chexbert": 1.0})}), {})
    missing.check(settings.model_copy(update={"reward": RewardSettings(components={"judge": 1.0})}), {"judge": ["a"]})
    missing.check(GrpoSettings(), {})


def test_a_model_server_reads_no_images_and_sleeps_with_the_policys(context_of: Any) -> None:
    settings = GrpoSettings.model_validate({"deepspeed": {"steps": 1, "global_batch": 8}})
    green = scoring_settings("green", settings, context_of)
    assert green.images == 0 and green.extra[0] == "--chat-template"
    assert scoring_settings("judge", settings, context_of).extra == ()


@pytest.fixture
def context_of(tmp_path: Path) -> Any:
    from diagcot.jobs.testing import context

    return context(tmp_path, {})
