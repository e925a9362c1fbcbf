"""What is the same for all unit tests: which of them share a worker, and no time limits of Hypothesis."""

from pathlib import Path

import hypothesis
import pytest

# The first example of a test may be the one that imports torch, and other work on the machine takes its time too.
hypothesis.settings.register_profile("unit", deadline=None)
hypothesis.settings.load_profile("unit")

# Under `--dist loadgroup` files that load the same costly thing are run by one worker, so that one worker loads it.
TOGETHER = {"torch": ("grpo_", "training_", "shards_files"), "METEOR": ("evaluation_", "metrics_", "rewards_")}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            name = item.path.stem.removeprefix("test_")
            together = next((group for group, heads in TOGETHER.items() if name.startswith(heads)), name)
            item.add_marker(pytest.mark.xdist_group(together))
