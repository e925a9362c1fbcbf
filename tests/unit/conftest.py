"""No time limits of Hypothesis in unit tests, and no slow library that is imported when their files are collected."""

import sys
from collections.abc import Generator
from typing import Any

import hypothesis
import pytest

# The first example of a test may be the one that imports a library, and other work on the machine takes its time too.
hypothesis.settings.register_profile("unit", deadline=None)
hypothesis.settings.load_profile("unit")

SLOW = {"torch", "transformers", "deepspeed", "peft", "vllm", "ray", "numba", "scipy", "sklearn", "pyarrow", "pandas"}


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    """Every worker imports every file, but runs the tests of some: a file's head must not import what is slow."""
    before = SLOW & set(sys.modules)
    report = yield
    if late := sorted((SLOW & set(sys.modules)) - before):
        raise pytest.UsageError(f"{collector.nodeid} imports {', '.join(late)}: do so in the tests that need it")
    return report
