"""What the command answers to mistakes on its command line."""

from pathlib import Path

import pytest

from diagcot.cli.main import main
from tests.unit.console.console_run import FakeStage

ROOT = Path(__file__).resolve().parents[3]
COUNTS = """\
name: counts
stages:
  - {name: phantoms, kind: phantoms, number: 0, settings: {studies: 8}}
  - {name: shard, kind: shard, number: 1, inputs: {tree: phantoms}, settings: {sources: [{kind: mimic_cxr, input: tree}]}}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "counts.yaml").write_text(COUNTS)
    roots = f"roots: {{logs: {tmp_path}/logs, shards: {tmp_path}/shards, models: {tmp_path}/models}}\n"
    (tmp_path / "here.yaml").write_text(
        "name: here\nexecutor: debug\nresource_profiles: {cpu: {}, small: {}}\n" + roots
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(folder: Path, name: str, kind: str = "count") -> None:
    FakeStage(folder / "logs" / name, kind, 1)
    (folder / "logs" / name / "run.json").write_text(f'{{"run": "{name}", "recipe": "counts"}}')
    (folder / "logs" / name / "cluster.yaml").write_text('{"executor": "local"}')


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["statsu"], "unknown verb 'statsu'; did you mean 'status'?"),
        (["retry", "--stage", "a", "--mem", "lots"], "argument --mem: must be a number of gigabytes, is 'lots'"),
        (["retry", "--stage", "a", "--mem", "-1"], "argument --mem: must be a number of gigabytes, is '-1'"),
    ],
)
def test_wrong_usage(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_help_of_a_kind_and_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "shard"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("kind shard\n") and "\nsources\n" in text and "\njpeg_quality\n" in text
    assert main(["help"]) == 0
    assert capsys.readouterr().out.startswith("usage: diagcot")


@pytest.mark.parametrize("name", ["my run", "a/b", "../up"])
def test_a_run_has_the_name_of_a_folder(name: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(project, "one")
    for arguments in (["submit", "--recipe", "counts.yaml", "--cluster", "here.yaml"], ["status"]):
        assert main([*arguments, "--run", name]) == 1
        answer = f"RUN={name!r} cannot name a folder: use at most 64 letters, digits, '-', '_' and '.',"
        assert answer in capsys.readouterr().err


@pytest.mark.parametrize("verb", [["cancel"], ["retry", "--stage", "a"], ["remove", "--yes"], ["pack"]])
@pytest.mark.parametrize("given", [[], ["--run", ""], ["--run", " "], ["--run", "$(id)"], ["--run", "x" * 300]])
def test_no_verb_that_changes_a_run_takes_one_that_was_not_named(
    verb: list[str], given: list[str], project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(project, "one")
    before = sorted(project.rglob("*"))
    assert main([*verb, *given]) == 1
    said = capsys.readouterr().err
    assert ("the run is missing: RUN=name says which one; the newest is one" in said) or "cannot name a folder" in said
    assert sorted(project.rglob("*")) == before


def test_an_unknown_run_lists_the_newest(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(project, "one")
    assert main(["status", "--run", "nope"]) == 1
    assert "no run 'nope' in logs/; the newest are one\n" in capsys.readouterr().err
    assert main(["status", "--run", "onne"]) == 1
    assert "no run 'onne' in logs/; did you mean 'one'?" in capsys.readouterr().err


def test_metrics_of_a_recipe_without_evaluation(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(project, "one")
    for arguments in (["table", "--run", "one"], ["compare", "one", "one"]):
        assert main(arguments) == 1
        assert "recipe counts has no evaluation stage" in capsys.readouterr().err


def test_plan_names_the_command_that_submits_it(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chain = ["--recipe", "counts.yaml", "--cluster", "here.yaml", "--run", "q"]
    assert main(["plan", *chain, "--stage", "0"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "1 stage, 1 unit in 1 task;" in shown
    assert "to submit: `make submit-stage0 RECIPE=counts.yaml CLUSTER=here.yaml RUN=q`" in shown


def test_plan_names_no_command_where_something_is_missing(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "counts.yaml").write_text(
        COUNTS.replace("{kind: mimic_cxr, input: tree}", "{kind: iu_xray, path: none}")
    )
    assert main(["plan", "--recipe", "counts.yaml", "--cluster", "here.yaml"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "submission would be refused" in shown and "to submit" not in shown


def test_a_refused_submission_leaves_no_run(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chain = ["--recipe", "counts.yaml", "--cluster", "here.yaml", "--run", "q"]
    assert main(["submit", *chain, "--stage", "1"]) == 1
    assert "stage shard follows phantoms, which is not complete" in capsys.readouterr().err
    assert not (project / "logs").exists()
