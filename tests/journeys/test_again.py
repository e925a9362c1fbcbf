"""The same run a second time: equal digests through training and table; and what a run says of it before and after."""

import json
from pathlib import Path

import pytest

from diagcot.cli.main import main
from diagcot.jobs.plans import space
from launchers import digests
from launchers.chain import open_chain
from tests.journeys import small

pytestmark = pytest.mark.heavy
TRAINED = ("base", "tuned", "adapter", "merged")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs of one recipe, in other folders and under other names."""
    return small.run(tmp_path_factory.mktemp("here"), "one"), small.run(tmp_path_factory.mktemp("elsewhere"), "two")


def test_a_rerun_has_equal_digests_through_training_and_evaluation(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = map(digests.of_run, runs)
    assert [stage.stage for stage in one if stage.made] == [stage.stage for stage in one]
    differ = [a.stage for a, b in zip(one, two, strict=True) if (a.made, a.decided_by) != (b.made, b.decided_by)]
    assert differ == []
    assert len({stage.made for stage in one}) == len(one)  # what each stage made is its own
    (runs[0].parent / "two").symlink_to(runs[1])
    capsys.readouterr()
    assert main(["verify", "--run", "one", "--against", "two", "--logs", str(runs[0].parent)]) == 0
    assert "one and two have made the same, bit by bit" in capsys.readouterr().out
    (runs[0].parent / "two").unlink()


def test_an_unpacked_run_is_compared_with_one_that_was_made_here(
    runs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = runs
    archive = tmp_path / "two.tar.gz"
    monkeypatch.chdir(two.parent.parent)
    assert main(["pack", "--run", "two", "--out", str(archive), "--report-text"]) == 0
    assert main(["unpack", str(archive), "--into", str(tmp_path / "there")]) == 0
    monkeypatch.chdir(one.parent.parent)
    capsys.readouterr()
    assert main(["compare", "one", "two", "--draws", "100"]) == 0  # `two` is found where it was unpacked
    said = capsys.readouterr().out
    assert "A:tuned" in said and "B:tuned" in said and "recall@" in said
    assert "differs:" not in said and "left out" not in said and "not better than A:tuned" in said
    table = tmp_path / "there" / "logs" / "two" / "metrics.json"
    rows = [
        {row["model"]: row["scores"] for row in json.loads(path.read_text())["rows"]}
        for path in (one / "metrics.json", table)
    ]
    assert rows[0] == rows[1]


def test_the_plan_has_told_the_space_within_a_factor_of_two(runs: tuple[Path, Path]) -> None:
    folder = runs[0].parent.parent
    told = open_chain(str(folder / "small.yaml"), str(folder / "here.yaml"), "one").storage()
    used = {row.stage: row.product for row in space.stages(runs[0]) if told[row.stage] is not None}
    assert {*TRAINED, "phantoms", "shard", "retrieval"} <= used.keys()
    off = {name: (told[name], size) for name, size in used.items() if not size / 2 <= (told[name] or 0) <= size * 2}
    assert off == {}
