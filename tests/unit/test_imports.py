"""The structure of the code: which package may import which, no circles, and bounds of size."""

import statistics
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import structure as tool  # noqa: E402  a script, not a package


@pytest.fixture(scope="module")
def structure() -> tool.Structure:
    return tool.Structure()


def test_packages_import_only_what_the_map_allows(structure: tool.Structure) -> None:
    assert structure.forbidden() == []


def test_the_map_itself_has_no_way_back() -> None:
    order = list(tool.PACKAGES)
    backwards = [
        (one, other)
        for one, others in tool.PACKAGES.items()
        for other in others
        if order.index(other) < order.index(one)
    ]
    assert [pair for pair in backwards if pair[0] != "environment"] == []


def test_every_package_stands_in_the_map(structure: tool.Structure) -> None:
    packages = {module.package for module in structure.modules.values()}
    assert packages - {"", "__main__", "torchvision_ops"} <= set(tool.PACKAGES)


def test_no_modules_or_folders_import_each_other(structure: tool.Structure) -> None:
    assert structure.circles() == []
    assert structure.folder_circles() == []


def test_folders_and_modules_are_small(structure: tool.Structure) -> None:
    crowded = {folder: len(modules) for folder, modules in structure.folders().items()}
    crowded |= {folder: len(modules) for folder, modules in tool.Structure(sources=["bench"]).folders().items()}
    assert {folder: count for folder, count in crowded.items() if count > tool.MOST_MODULES} == {}
    long = {module.name: module.lines for module in structure.modules.values() if module.lines > tool.MOST_LINES}
    assert long == {}
    assert statistics.median(module.lines for module in structure.modules.values()) <= tool.MEDIAN_LINES


def test_a_forbidden_import_is_named_with_both_files(tmp_path: Path) -> None:
    for name, text in {"jobs/plan.py": "from diagcot.data import study\n", "data/study.py": ""}.items():
        path = tmp_path / "diagcot" / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
    lines = tool.Structure(tmp_path, ["diagcot"]).forbidden()
    assert lines == ["diagcot/jobs/plan.py imports diagcot/data/study.py: jobs may not import data"]


def test_a_circle_is_found_through_a_third_module(tmp_path: Path) -> None:
    folder = tmp_path / "diagcot" / "jobs"
    folder.mkdir(parents=True)
    for name, target in (("a", "b"), ("b", "c"), ("c", "a"), ("d", "a")):
        (folder / f"{name}.py").write_text(f"import diagcot.jobs.{target}\n")
    assert tool.Structure(tmp_path, ["diagcot"]).circles() == [["diagcot.jobs.a", "diagcot.jobs.b", "diagcot.jobs.c"]]
