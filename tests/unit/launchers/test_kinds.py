"""What the kinds of stages declare: complete, importable, and refused when a part is misspelt."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

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


def test_the_space_of_answers_and_traces_is_that_of_a_measured_demo_within_a_factor_of_two() -> None:
    measured = {"cot": 1_413_688, "filter": 600_121, "evaluate": 5_117_139, "retrieval": 955_490}  # bytes
    told = open_chain("tiny", "laptop", None).storage()
    assert {
        name: told[name] for name in measured if not measured[name] / 2 <= (told[name] or 0) <= measured[name] * 2
    } == {}


def test_the_space_of_answers_follows_the_data_where_the_recipe_sets_no_limit(tmp_path: Path) -> None:
    change: dict[str, Any] = {"phantoms": {"settings": {"studies": 200, "held_out": 0.25}}}
    change |= {name: {"settings": {"samples_per_shard": None}} for name in ("cot", "evaluate", "retrieval")}
    (tmp_path / "whole.yaml").write_text(yaml.safe_dump({"name": "whole", "extends": "tiny", "change": change}))
    told = open_chain(str(tmp_path / "whole.yaml"), "laptop", None).storage()
    test, train = 200 * 0.25 + 300 * 0.2, 200 * 0.5 + 300 * 0.7
    assert told["retrieval"] == 2 * test * 1200 and told["evaluate"] == 6 * test * (1200 + 675)
    assert told["cot"] == train * 3400
    change["shard"] = {"settings": {"sources": [{"kind": "chexpert", "path": "nowhere"}]}}  # whose size is not known
    (tmp_path / "whole.yaml").write_text(yaml.safe_dump({"name": "whole", "extends": "tiny", "change": change}))
    told = open_chain(str(tmp_path / "whole.yaml"), "laptop", None).storage()
    assert [told[name] for name in ("cot", "filter", "evaluate", "retrieval")] == [None] * 4


def test_declaring_a_kind_imports_nothing_heavy() -> None:
    code = (
        "import sys; from launchers import registry; assert all(map(registry.find, registry.modules()));"
        "assert not {'torch', 'transformers', 'vllm', 'deepspeed'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
