"""`diagcot space` and `diagcot remove`: what runs occupy, and that no file of another run goes."""

import json
from pathlib import Path

import pytest

from diagcot.cli.main import main
from diagcot.jobs import UserError
from diagcot.jobs.plans import space
from tests.integration.launchers.conftest import FIRST, SECOND, Start


@pytest.fixture
def runs(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    start(FIRST)
    start(SECOND)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_space_shows_runs_their_stages_and_who_uses_them(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["space"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2:] for line in lines] == [["first", "used", "by", "second"], ["second"]]
    assert main(["space", "--run", "first"]) == 0
    stages = {line.split()[2]: line for line in capsys.readouterr().out.splitlines()}
    assert list(stages) == ["phantoms", "shard", "logs,"]
    assert stages["shard"].endswith("used by second") and "used" not in stages["phantoms"]
    shard = next(row for row in space.stages(runs / "logs" / "first") if row.stage == "shard")
    assert shard.product == sum(path.stat().st_size for path in (runs / "shards" / "first" / "shard").iterdir())
    assert not any(row.product for row in space.stages(runs / "logs" / "second") if row.stage == "films")


def test_a_report_is_counted_with_the_runs_folder_however_that_is_named(runs: Path) -> None:
    """Its product is the run's own folder; make names runs by a relative path."""
    plan = runs / "logs" / "second" / "texts" / "plan.json"
    plan.write_text(json.dumps(json.loads(plan.read_text()) | {"output": str(runs / "logs" / "second")}))
    second = Path("logs/second")  # the current folder is that of the runs
    assert {row.stage: row.product for row in space.stages(second)}["texts"] == 0
    assert second in list(space.remove_run(second)) and not second.exists()


def test_remove_takes_a_run_and_leaves_what_it_only_used(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["remove", "--run", "first", "--yes"]) == 1
    assert "used by other runs (shard by second)" in capsys.readouterr().err
    assert main(["remove", "--run", "second"]) == 1
    assert "no terminal to ask at; --yes" in capsys.readouterr().err
    (runs / "shards" / "second" / "mine.txt").write_text("")  # no stage made it
    assert main(["remove", "--run", "second", "--yes"]) == 0
    assert [path.name for path in (runs / "shards" / "second").iterdir()] == ["mine.txt"]
    assert not (runs / "logs" / "second").exists()
    assert len(list((runs / "shards" / "first" / "shard").glob("*.h5"))) == 2
    assert main(["remove", "--run", "first", "--yes"]) == 0
    assert not (runs / "shards" / "first").exists() and not (runs / "logs" / "first").exists()
    assert main(["space"]) == 1 and "no run" in capsys.readouterr().err


def test_a_damaged_run_that_may_use_a_run_is_named_with_what_helps(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (runs / "logs" / "second" / "texts" / "plan.json").write_text("{")
    assert main(["remove", "--run", "first", "--yes"]) == 1
    said = capsys.readouterr().err
    assert (
        f"the other run in {runs}/logs/second is damaged" in said or "the other run in logs/second is damaged" in said
    )
    assert "remove its folder by hand" in said and (runs / "logs" / "first").exists()


def test_a_run_whose_weights_another_has_links_to_stays(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As `pretrained: models/first/…` makes them."""
    (runs / "logs" / "second" / "reused.json").unlink()
    model = runs / "shards" / "second" / "texts" / "model"
    model.mkdir()
    (model / "model.safetensors").symlink_to(runs / "shards" / "first" / "shard" / "00000.h5")
    assert main(["remove", "--run", "first", "--yes"]) == 1
    assert "used by other runs (shard by second)" in capsys.readouterr().err
    model.joinpath("model.safetensors").unlink()
    assert main(["remove", "--run", "first", "--yes"]) == 0


@pytest.mark.parametrize(
    "output", ["/", "{root}/keep", "{root}/shards/first", "{root}/shards/other/shard", "{root}/shards/first/../shard"]
)
def test_a_plan_that_names_a_foreign_folder_removes_nothing(runs: Path, output: str) -> None:
    (runs / "keep").mkdir()
    (runs / "shards" / "other" / "shard").mkdir(parents=True)
    plan = runs / "logs" / "first" / "shard" / "plan.json"
    plan.write_text(json.dumps(json.loads(plan.read_text()) | {"output": output.format(root=runs)}))
    with pytest.raises(UserError, match="does not belong to run first: nothing was removed"):
        list(space.remove_run(runs / "logs" / "first"))
    assert (runs / "keep").exists() and (runs / "shards" / "first" / "phantoms").exists()
    assert (runs / "shards" / "other" / "shard").exists()
