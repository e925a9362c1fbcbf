"""What differs between two runs is told down to the key, once for all stages that share it."""

import json
from pathlib import Path
from typing import Any

from diagcot.jobs.plans.differences import between
from tests import chains


def run(root: Path, *stages: str, units: int = 2, **more: Any) -> Path:
    return chains.write(root, [chains.plan(root, name, units, **more) for name in stages], chains.cluster())


def test_equal_runs_do_not_differ_wherever_they_are(tmp_path: Path) -> None:
    one, two = (run(tmp_path / name, "a", "b", settings={"rate": {"start": 1}}) for name in ("one", "two"))
    assert list(between(one, two)) == []


def test_each_difference_is_named(tmp_path: Path) -> None:
    one = run(tmp_path / "one", "a", "b", "c", settings={"rate": {"start": 1}}, code="/x/123")
    two = run(
        tmp_path / "two", "a", "b", "d", settings={"rate": {"start": 2}, "kind": "é"}, units=3, seed=8, code="/y/456"
    )
    assert list(between(one, two)) == [
        "only in A: c",
        "only in B: d",
        "code: 123 in A, 456 in B (folders in logs/<run>/code)",
        "settings.rate.start: 1 in A, 2 in B (a, b)",
        "seed: 1 in A, 8 in B (a, b)",
        "units: 2 in A, 3 in B (a, b)",
        'settings.kind: nothing in A, "\\u00e9" in B (a, b)',
    ]


def test_a_product_of_another_run_differs_by_its_content(tmp_path: Path) -> None:
    runs = [run(tmp_path / name, "b", inputs={"data": [f"/shards/{name}/a"]}) for name in ("one", "two", "three")]
    assert list(between(runs[0], runs[1])) == []
    for folder, product in ((runs[1], "1" * 64), (runs[2], "2" * 64)):
        row = {"run": "r", "stage": "a", "folder": "/logs/r", "product": product}
        (folder / "reused.json").write_text(json.dumps({"a": row}))
    (line,) = between(runs[1], runs[2])
    assert line.startswith('inputs.data: ["a (product 111111111111)"] in A')
