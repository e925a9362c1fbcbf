"""Every mode that the settings accept has a reward behind it."""

import pytest

from diagcot.rewards.names import GATED, MODES
from diagcot.rewards.registry import reward
from diagcot.rewards.score import Reference

TRACE = "<think>no opacity</think>\n<answer>A) ✅</answer>\n<think>so A</think>\n<answer>A) ✅</answer>"
CORPUS = [Reference("the lungs are clear ."), Reference("the heart is large .")]


@pytest.mark.parametrize(("name", "mode"), [(name, mode) for name, modes in MODES.items() for mode in modes])
def test_every_mode_scores(name: str, mode: str) -> None:
    gold = {"grounding_pixels": [Reference("[10, 20, 30, 40]")], "classification": [Reference("Edema")]}.get(
        name, CORPUS[:1]
    )
    gold = [Reference(TRACE)] if name in GATED else gold
    scores = reward(name, mode, CORPUS)([TRACE], gold, 0.5)
    assert len(scores) == 1 and "overall" in scores[0]
