"""Rewards as other trainers hold them: by name, mode and a file of references, built once for a process."""

import os
from functools import lru_cache
from pathlib import Path

from diagcot.rewards import registry
from diagcot.rewards.names import MODES
from diagcot.rewards.score import Reference, Reward

CORPUS = "DIAGCOT_REWARD_CORPUS"
"""Environment variable for the file of references, for trainers whose settings cannot give it."""


@lru_cache(maxsize=16)
def cached(name: str, mode: str = "", corpus: str = "") -> Reward:
    """`registry.reward`. mode: the first of the reward if empty. corpus: a text file with a reference on each line."""
    file = corpus or os.environ.get(CORPUS, "")
    references = [Reference(line) for line in Path(file).read_text(encoding="utf-8").splitlines()] if file else []
    return registry.reward(name, mode or MODES[name][0], references)
