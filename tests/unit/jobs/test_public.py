"""The public interface of diagcot.jobs: documented, and light to import."""

import inspect
import json
import re
import subprocess
import sys

import pytest

from diagcot import jobs
from tests import chains

HEAVY = ("numpy", "torch", "h5py", "transformers", "scipy", "numba")


def test_docs_list_every_public_name_and_no_other() -> None:
    text = (chains.ROOT / "docs" / "jobs.md").read_text().split("## The public interface")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    assert sorted(name for row in rows for name in re.findall(r"`(\w+)`", row)) == sorted(jobs.__all__) == dir(jobs)


@pytest.mark.parametrize("name", jobs.__all__)
def test_a_public_name_and_its_methods_say_what_they_do(name: str) -> None:
    value = getattr(jobs, name)
    assert inspect.getdoc(value)
    members = inspect.getmembers(value, inspect.isfunction) if inspect.isclass(value) else []
    own = [
        member for key, member in members if not key.startswith("_") and member.__module__.startswith("diagcot.jobs")
    ]
    assert [member.__qualname__ for member in own if not inspect.getdoc(member)] == []


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Pipelin'"):
        _ = jobs.Pipelin


@pytest.mark.parametrize(
    ("names", "heavy"), [("", (*HEAVY, "pydantic", "submitit", "yaml")), (", ".join(jobs.__all__), HEAVY)]
)
def test_importing_it_loads_nothing_heavy(names: str, heavy: tuple[str, ...]) -> None:
    statement = f"from diagcot.jobs import {names}" if names else "import diagcot.jobs"
    code = f"import sys, json; {statement}; print(json.dumps([name for name in {heavy!r} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], cwd=chains.ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
