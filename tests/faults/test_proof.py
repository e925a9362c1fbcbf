"""The proof at the end of a round finds what it is there to find."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults import proof
from tests.faults.project import Project


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A small run that nothing has disturbed."""
    project = Project(tmp_path_factory.mktemp("finished"), "small")
    project.write(pairs=2)
    project.declare("debug").submit()
    return project


def test_a_whole_run_has_its_units_and_records(finished: Project, tmp_path: Path) -> None:
    assert proof.whole(finished, tmp_path / "quiet") == {"units": 10, "records": 60}


def twice(project: Project) -> None:
    product = project.products / "first" / "00-a.txt"
    product.write_text(product.read_text() + product.read_text().splitlines(keepends=True)[0])


def unexplained(project: Project) -> None:
    path = project.run_dir / "third" / "summary.json"
    row = json.loads(path.read_text())
    path.write_text(json.dumps(row | {"submissions": [{"why": ""}]}))


DAMAGES: dict[str, Callable[[Project], object]] = {
    "products differ .* first/00-a.txt": twice,
    "products differ .* third/01.txt": lambda project: (project.products / "third" / "01.txt").unlink(),
    "products differ .* second/.half": lambda project: (project.products / "second" / ".half").touch(),
    "second/done holds other files": lambda project: (project.run_dir / "second/done/01-b.json").unlink(),
    "first/done holds other files": lambda project: (project.run_dir / "first/done/.01-b.json.7").touch(),
    "left partial work": lambda project: (project.run_dir / "first/partial").mkdir() or (
        project.run_dir / "first/partial/00-a.0.jsonl"
    ).touch(),
    "of third is not explained": unexplained,
    "summary of first does not say done": lambda project: (project.run_dir / "first/summary.json").write_text(
        '{"state": "failed", "missing": []}'
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGES)
def test_damage_is_found(finished: Project, tmp_path: Path, what: str) -> None:
    project = Project(tmp_path / "moved", finished.run)
    shutil.copytree(finished.folder, project.folder)
    moved = finished.folder.with_name("away")
    finished.folder.rename(moved)  # else it would be a copy, which is nobody's run
    try:
        DAMAGES[what](project)
        with pytest.raises(proof.Violation, match=what):
            proof.whole(project, tmp_path / "quiet")
    finally:
        moved.rename(finished.folder)


def test_a_manifest_that_changes_is_found(finished: Project) -> None:
    witness = proof.Witness(finished)
    witness.look()
    witness.look()
    path = finished.run_dir / "first" / "done" / "00-a.json"
    before = path.read_text()
    path.write_text(before.replace('"time"', '"Time"'))
    with pytest.raises(proof.Violation, match=r"first/done/00-a\.json was published a second time"):
        witness.look()
    witness.forget("first", ["00-a"])
    witness.look()
    path.write_text(before)
