"""No reply without merit earns as much as an honest partial answer, in any mode of this project and for any truth."""

import random

import pytest

from diagcot.rewards import registry
from diagcot.rewards.names import GATED, MODES
from diagcot.rewards.score import Reference, Score
from tests.unit.rewards.replies import CASES, NORMAL_REPORT

PUBLISHED = ("released", "whole", "repetition", "spine", "graded", "think", "answer", "overlap_f1")
OURS = [(name, mode) for name, modes in MODES.items() for mode in modes if mode not in PUBLISHED]
CURRICULUM = ("classification", "curriculum")  # the one whose formula training progress reaches
CORPUS = [Reference(NORMAL_REPORT), Reference("findings : the heart is enlarged . impression : cardiomegaly .")]
TRUTHS = 30


def earned(name: str, score: Score) -> float:
    """What a reply earns at most: process and reason are added while training is stable."""
    return score["overall"] + (score["process"] + score["reason"] if name in GATED else 0.0)


def test_every_task_with_a_mode_of_ours_is_attacked():
    assert {name for name, _ in OURS} == set(CASES)


@pytest.mark.parametrize(("name", "mode", "progress"), [(*chosen, 0.0) for chosen in OURS] + [(*CURRICULUM, 1.0)])
def test_no_attack_earns_as_much_as_an_honest_partial_answer(name, mode, progress):
    reward, rng = registry.reward(name, mode, CORPUS), random.Random(f"{name}/{mode}")
    for _ in range(TRUTHS):
        case = CASES[name](rng)
        for honest in case.honest:
            attacks = case.attacks(honest)
            replies = [honest, *attacks.values()]
            fair, *others = (earned(name, s) for s in reward(replies, [case.reference] * len(replies), progress))
            most, attack = max(zip(others, attacks, strict=True))
            assert most < fair - 1e-6, (
                f"{attack}: {most}, honest: {fair}\n{attacks[attack][:500]}\n{honest}\n{case.reference}"
            )
