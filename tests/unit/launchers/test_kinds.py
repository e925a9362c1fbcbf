"""What the kinds of stages declare: complete, importable, and refused when a part is misspelt."""

import importlib.util
import subprocess
import sys
from typing import Any

import pytest

from diagcot.jobs import Unit, find_cluster
from diagcot.jobs.settings import Settings
from launchers import registry
from launchers.chain import ROOT, open_chain
from launchers.stage_kind import StageKind

PARTS: dict[str, Any] = {
    "work": "tests.kinds.count",
    "settings": Settings,
    "resource_profile": "cpu",
    "product": "data",
    "startup_s": 1,
    "unit_s": 1,
    "units": lambda stage, chain: [Unit("one")],
}


@pytest.mark.parametrize("name", registry.modules())
def test_a_kind_names_work_a_resource_profile_and_selectors_that_exist(name: str) -> None:
    kind = registry.find(name)
    assert kind is not None and importlib.util.find_spec(kind.work) is not None
    assert set(kind.selector_settings) <= set(kind.settings.model_fields)
    assert bool(kind.selector_settings) <= bool(kind.grows)
    for cluster in ("laptop", "example", "devcluster", "debug"):
        assert kind.resource_profile in find_cluster(cluster, ROOT).resource_profiles


def test_a_misspelt_or_missing_part_is_an_error_at_once() -> None:
    StageKind(**PARTS)
    with pytest.raises(TypeError, match="estimat"):
        StageKind(**PARTS, estimat=None)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unit_s"):
        StageKind(**{name: part for name, part in PARTS.items() if name != "unit_s"})


def test_settings_are_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = open_chain("tiny", "laptop", None)
    kind = registry.find("grpo")
    assert kind is not None
    parsed: list[object] = []
    validate = kind.settings.model_validate
    monkeypatch.setattr(kind.settings, "model_validate", lambda value: parsed.append(value) or validate(value))
    assert chain.plans and chain.storage() and chain.estimates() == {} and chain.notes()
    chain.check("grpo")
    assert len(parsed) == 1


def test_declaring_a_kind_imports_nothing_heavy() -> None:
    code = (
        "import sys; from launchers import registry; assert all(map(registry.find, registry.modules()));"
        "assert not {'torch', 'transformers', 'vllm', 'deepspeed'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
