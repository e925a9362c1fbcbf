"""Products of other runs (`from: run/stage`): used without a copy, through a chain of runs, and never after a silent change."""

import json
import shlex
from pathlib import Path

import h5py
import pytest

from diagcot.cli.main import main
from diagcot.jobs import UserError
from diagcot.jobs.plans import plan as plans
from diagcot.jobs.state import ledger
from tests.integration.launchers.conftest import FIRST, SECOND, Start


def test_a_product_of_another_run_is_read_where_it_is(start: Start, tmp_path: Path) -> None:
    start(FIRST)
    second = start(SECOND)
    assert [plan.stage for plan in second.plans] == ["texts"]
    assert {path.name for path in second.run_dir.iterdir() if path.is_dir()} == {"texts", "code"}
    link = tmp_path / "shards" / "second" / "films"
    assert link.is_symlink() and link.resolve() == tmp_path / "shards" / "first" / "shard"
    with h5py.File(link / "00000.h5") as shard:
        assert len(shard) > 0
    for key in ("00000", "00001"):
        assert (tmp_path / "shards" / "second" / "texts" / f"{key}.jsonl").read_text().count("\n") > 0
    assert json.loads((second.run_dir / "reused.json").read_text())["films"]["run"] == "first"

    third = start(
        SECOND.replace("second", "third").replace("first/shard", "second/films")
    )  # which has it from the first
    assert json.loads((third.run_dir / "reused.json").read_text()) == json.loads(
        (second.run_dir / "reused.json").read_text()
    )
    of_second, of_third = (
        (tmp_path / "shards" / name / "texts" / "00000.jsonl").read_text() for name in ("second", "third")
    )
    assert of_second.replace("second/films", "third/films") == of_third
    fourth = start(  # a stage that was made from one that its own run had taken
        "name: fourth\nstages:\n  - {name: texts, from: third/texts}\n  - {name: films, from: third/films}\n"
        "  - {name: more, kind: questions, number: 0, inputs: {shards: films}, settings: {tasks: {open: [0, 1]}}}\n"
    )
    assert [spec.name for spec in fourth.recipe.stages][3:] == ["first/phantoms", "third/films"]
    fifth = start(f"name: fifth\nextends: {tmp_path / 'second.yaml'}\nchange: {{films: {{from: third/films}}}}\n")
    assert fifth.stage("first/phantoms").settings.studies == 12
    assert fifth.document.where(("stages", 2, "settings")) == f"{tmp_path}/fifth.yaml:1"


def test_what_is_not_complete_or_has_changed_is_refused(start: Start, tmp_path: Path) -> None:
    first = start(FIRST)
    second = start(SECOND)
    stage = plans.read(first.run_dir / "shard")
    ledger.withdraw(stage.path, "00001")
    with pytest.raises(UserError, match=r"third.yaml:3: stage shard of run first is not complete \(1 of 2 units"):
        start(SECOND.replace("second", "third"))
    changed = ledger.manifest(stage.path, "00000") or {}
    for row in changed["outputs"].values():
        row["sha256"] = "0" * 64
    (stage.path / "done" / "00001.json").write_text(json.dumps(changed))
    with pytest.raises(
        UserError, match="stage shard of run first was made again, with another result, since run second"
    ):
        start(SECOND)
    assert not plans.read(second.run_dir / "texts").missing()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("firts/shard", r"there is no run 'firts'; did you mean 'first'\?"),
        ("first/shards", r"run first has no stage 'shards'; did you mean 'shard'\?"),
    ],
)
def test_mistyped_sources(start: Start, source: str, said: str) -> None:
    start(FIRST)
    with pytest.raises(UserError, match=rf"second.yaml:3: {said}"):
        start(SECOND.replace("first/shard", source))


def test_a_product_of_another_run_is_read_only_as_what_it_is(start: Start) -> None:
    start(FIRST)
    with pytest.raises(
        UserError, match="stage texts reads films as shards, and films is of kind phantoms: shards are made by"
    ):
        start(SECOND.replace("first/shard", "first/phantoms"))


def test_a_stage_that_joined_a_run_is_used_like_any_other(start: Start) -> None:
    start(FIRST)
    joined = (
        "  - {name: asked, kind: questions, number: 0, inputs: {shards: shard}, settings: {tasks: {binary: [0, 1]}}}\n"
    )
    start(FIRST + joined)
    third = "name: third\nstages:\n  - {name: films, from: first/shard}\n  - {name: texts, from: first/asked}\n"
    base = "  - {name: base, kind: model, number: 1, inputs: {shards: films, samples: texts}}\n"
    plans_of = {plan.stage: plan for plan in start(third + base).plans}
    assert [Path(root).name for root in plans_of["base"].inputs["samples"]] == ["texts"]


def test_what_is_not_complete_is_continued_by_the_command_that_is_told(
    start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    first = start(FIRST)
    next((first.run_dir / "shard" / "done").iterdir()).unlink()
    with pytest.raises(UserError, match="continue that run first") as told:
        start(SECOND)
    words = shlex.split(str(told.value).partition("`")[2].partition("`")[0])
    options = {word.partition("=")[0]: word.partition("=")[2] for word in words[2:]}
    assert words[:2] == ["make", "submit-all"] and options["RUN"] == "first"
    assert main(["plan", "--recipe", options["RECIPE"], "--cluster", options["CLUSTER"], "--run", "first"]) == 0
    assert "a submission would be refused" not in capsys.readouterr().out


def test_status_names_the_source_and_says_when_it_is_gone(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = start(FIRST), start(SECOND)
    logs = ["--logs", str(second.run_dir.parent)]
    assert main(["status", "--run", "second", *logs]) == 0
    assert "films: taken from first/shard\n" in capsys.readouterr().out
    first.run_dir.rename(first.run_dir.with_name("moved"))
    assert main(["status", "--run", "second", *logs]) == 0
    assert "films: taken from first/shard, which is gone" in capsys.readouterr().out
    for damaged in ("", "[]", '{"films": 1}', "\x00", '{"films": {"run": "first"}}'):
        (second.run_dir / "reused.json").write_text(damaged)
        assert main(["status", "--run", "second", *logs]) == 1
        assert "reused.json" in capsys.readouterr().out.replace("\n", "")
        assert main(["space", *logs]) == 1
        assert "reused.json" in capsys.readouterr().err
