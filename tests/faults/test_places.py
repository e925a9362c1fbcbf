"""Runs that were copied or moved, products that vanish, and files of other users. Rows 37 to 39."""

import json
import os
import shutil
from pathlib import Path

import pytest

from diagcot.cli.main import main
from diagcot.jobs import Pipeline, UserError, pipeline, summary
from diagcot.jobs.execution import place, worker
from diagcot.jobs.plans import plan as plans
from diagcot.jobs.state import ledger
from tests import chains, grids

OTHER = 65534


def flow(root: Path, name: str = "run", executor: str = "debug", **settings: object) -> Pipeline:
    roots = {name: root / name for name in ("logs", "shards", "models")}
    made = Pipeline(name, chains.cluster(executor, roots=roots), root, code=[chains.ROOT / "tests"])
    first = made.stage("first", "tests.kinds.count", ["a", "b"], "small")
    made.stage("second", "tests.kinds.count", ["c"], "small", inputs={"numbers": [first]}, settings=settings)
    return made


def half_done(root: Path) -> Pipeline:
    """A run whose second stage has failed."""
    made = flow(root, fail_until=str(root / "mended"))
    with pytest.raises(RuntimeError, match="asked to fail until"):
        made.submit()
    (root / "mended").touch()
    return made


def tree(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.mark.row(
    37,
    promise="the copy can be looked at; retry, cancel, remove and workers refuse it; the original keeps every byte",
    injected="cp -r of a run's logs, beside the original and under its own name elsewhere",
    daemons="real",
)
@pytest.mark.parametrize("copy", ["elsewhere/run", "logs/another"])
def test_row_37_a_copied_run_does_nothing_to_its_original(
    tmp_path: Path, copy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made = half_done(tmp_path)
    copied = tmp_path / copy
    copied.parent.mkdir(exist_ok=True)
    shutil.copytree(made.run_dir, copied, symlinks=True)
    before = tree(tmp_path / "logs" / "run") | tree(tmp_path / "shards") | tree(tmp_path / "models")
    options = ["--run", copied.name, "--logs", str(copied.parent)]
    main(["status", *options])
    assert "Traceback" not in capsys.readouterr().err
    for verb in (["retry", "--stage", "second"], ["retry", "--stage", "first"], ["cancel"], ["remove", "--yes"]):
        assert main([*verb, *options]) == 1
        assert f"{copied} is a copy of the run in {made.run_dir}" in capsys.readouterr().err
    with pytest.raises(UserError, match="is a copy of the run"):
        worker.work(copied / "second", 0)
    with pytest.raises(UserError, match="is a copy of the run"):
        ledger.withdraw(copied / "first", "a")
    assert before == tree(tmp_path / "logs" / "run") | tree(tmp_path / "shards") | tree(tmp_path / "models")
    pipeline.retry_stage(made.run_dir, "second")
    assert not made.plans[1].missing()


@pytest.mark.row(
    37,
    promise="the run goes on in its new place and nothing is written to the old one; under another name it is refused",
    injected="mv of a project's folder, of its logs alone, and of a run's folder to another name",
    daemons="real",
)
@pytest.mark.parametrize("what", ["", "logs"])
def test_row_37_a_moved_run_goes_on(tmp_path: Path, what: str) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    made = half_done(old)
    products = (new if not what else old) / "shards" / "run"
    new.mkdir()
    if what:
        (old / what).rename(new / what)
    else:
        new.rmdir()
        old.rename(new)
        old.mkdir()
        (old / "mended").touch()
    run_dir = new / "logs" / "run"
    for renamed in (run_dir.with_name("other"), run_dir):
        (run_dir if renamed != run_dir else run_dir.with_name("other")).rename(renamed)
        if renamed != run_dir:
            with pytest.raises(UserError, match="give the folders these names again"):
                pipeline.retry_stage(renamed, "second")
    pipeline.retry_stage(run_dir, "second")
    first, second = (plans.read(run_dir / stage) for stage in ("first", "second"))
    assert not second.missing() and (products / "second" / "c.txt").is_file()
    assert second.path == run_dir / "second" and second.output == products / "second"
    assert second.inputs == {"numbers": [str(products / "first")]} and summary.check(first) == []
    assert Path(second.code).parent == run_dir / "code" and not (old / "logs").exists()
    if not what:
        again = flow(new, fail_until=str(old / "mended"))
        assert [row.state for row in again.submit()] == ["complete", "complete"]
        assert [path.name for path in old.iterdir()] == ["mended"]
    assert made.run_dir.name == "run"


@pytest.mark.row(
    37,
    promise="a copy of a run that was moved and went on is known as one, too; the run keeps every byte",
    injected="mv of a project's folder, a retry, and cp -r of the run's logs",
    daemons="real",
)
@pytest.mark.parametrize("copy", ["new/elsewhere/run", "new/logs/another", "third/logs/run"])
def test_row_37_a_copy_of_a_moved_run_does_nothing_to_it(
    tmp_path: Path, copy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "old").mkdir()
    half_done(tmp_path / "old")
    (tmp_path / "old").rename(tmp_path / "new")
    (tmp_path / "old").mkdir()
    (tmp_path / "old/mended").touch()
    run_dir, copied = tmp_path / "new/logs/run", tmp_path / copy
    pipeline.retry_stage(run_dir, "second")
    copied.parent.mkdir(exist_ok=True, parents=True)
    shutil.copytree(run_dir, copied, symlinks=True)
    before = tree(tmp_path)
    options = ["--run", copied.name, "--logs", str(copied.parent)]
    for verb in (["retry", "--stage", "second"], ["cancel"], ["remove", "--yes"]):
        assert main([*verb, *options]) == 1
        assert f"{copied} is a copy of the run in {run_dir}" in capsys.readouterr().err
    with pytest.raises(UserError, match="is a copy of the run"):
        worker.work(copied / "second", 0)
    assert before == tree(tmp_path)


@pytest.mark.row(
    37,
    promise="a copy of a run that was moved and did not go on is refused; the run itself goes on and can be removed",
    injected="mv of a run's logs alone, cp -r of the moved logs, the copy also in the place of the run, which is gone",
    daemons="real",
)
@pytest.mark.parametrize("gone", [False, True])
def test_row_37_a_copy_of_a_run_that_was_moved_and_did_not_go_on_is_refused(
    tmp_path: Path, gone: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    half_done(tmp_path)
    run_dir, copied = tmp_path / "new/run", tmp_path / "other/run"
    (tmp_path / "logs").rename(run_dir.parent)
    shutil.copytree(run_dir.parent, copied.parent, symlinks=True)
    if gone:  # as after a move to another file system
        run_dir.rename(tmp_path / "away")
    before = tree(tmp_path)
    options = ["--run", "run", "--logs", str(copied.parent)]
    for verb in (["retry", "--stage", "second"], ["cancel"], ["remove", "--yes"]):
        assert main([*verb, *options]) == 1
        assert f"{copied} may be a copy of run run, whose products in {tmp_path / 'shards'}" in capsys.readouterr().err
    with pytest.raises(UserError, match="may be a copy"):
        worker.work(copied / "second", 0)
    main(["status", *options])
    assert before == tree(tmp_path)
    if gone:  # what the message says
        (tmp_path / "logs").mkdir()
        (tmp_path / "logs/run").symlink_to(copied)
        options[-1] = str(tmp_path / "logs")
    else:
        options[-1] = str(run_dir.parent)
        assert main(["remove", "--yes", *options]) == 0 and not run_dir.exists()
        assert not (tmp_path / "shards/run").exists() and copied.exists()
        return
    assert main(["retry", "--stage", "second", *options]) == 0
    assert (tmp_path / "shards/run/second/c.txt").is_file()


@pytest.mark.row(
    37,
    promise="a run that is moved again, or back, goes on too: what it published in any of its places counts",
    injected="mv of a project's folder to three places, a submission in each, the last one a growth",
    daemons="real",
)
def test_row_37_a_run_that_is_moved_again_and_back_goes_on(tmp_path: Path) -> None:
    def moved(before: str, now: str) -> Pipeline:
        (tmp_path / before).rename(tmp_path / now)
        return grid(tmp_path / now / "run", models)

    def grid(root: Path, models: list[str]) -> Pipeline:
        return grids.grid(root, "debug", models)

    models = ["a"]
    grid(tmp_path / "old/run", models).submit()
    for before, now in (("old", "new"), ("new", "newer"), ("newer", "old"), ("old", "new")):
        made = moved(before, now)
        whole = tree(tmp_path / now / "run/shards")
        assert {row.state for row in made.submit()} == {"complete"}
        assert all(summary.check(plan) == [] for plan in made.plans) and whole == tree(tmp_path / now / "run/shards")
        models.append(f"m{len(models)}")
        rows = {row.stage: row.state for row in grid(tmp_path / now / "run", models).submit()}
        assert rows["cells"] == rows["table"] == "done" and rows[models[-2]] == "complete"
        next(iter((tmp_path / now / "run/shards/run" / models[-1]).glob("*.txt"))).unlink()
        pipeline.retry_stage(made.run_dir, models[-1])
        assert [path.name for path in tmp_path.iterdir()] == [now]


@pytest.mark.row(
    38,
    promise="the next submission or retry of the stage says how many units have lost files, and makes those alone again",
    injected="a product removed after its stage, the folder of a whole stage removed",
    daemons="real",
)
def test_row_38_products_that_vanish_are_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = flow(tmp_path)
    made.submit()
    expected = tree(tmp_path / "shards")
    (tmp_path / "shards/run/first/b.txt").unlink()
    assert [row.state for row in flow(tmp_path).submit()] == ["done", "complete"]
    assert "stage first: files of 1 finished units are gone or damaged; these run again" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "shards/run/second")
    pipeline.retry_stage(made.run_dir, "second")
    assert "stage second: files of 1 finished" in capsys.readouterr().out and tree(tmp_path / "shards") == expected
    with pytest.raises(UserError, match="stage second is complete"):
        pipeline.retry_stage(made.run_dir, "second")


@pytest.mark.parametrize(
    "victim", ["/etc/hostname", "{root}/kept", "{root}/shards/run/first/../../../kept", "link/kept"]
)
def test_a_manifest_that_names_a_file_of_others_removes_and_moves_nothing(tmp_path: Path, victim: str) -> None:
    made = flow(tmp_path)
    made.submit()
    (tmp_path / "kept").write_text("mine")
    (tmp_path / "shards/run/first/link").symlink_to(tmp_path)
    name = victim.format(root=tmp_path) if victim[0] in "/{" else str(tmp_path / "shards/run/first" / victim)
    done = made.plans[0].path / "done" / "a.json"
    own = str(tmp_path / "shards/run/first/a.txt")
    for act, final, staged in (
        (ledger.withdraw, name, "/absent"),
        (ledger.settle, own, name),
        (ledger.settle, name, own),
    ):
        row = {"unit": "a", "counts": {}, "outputs": {final: {"staged": staged, "sha256": ""}}}
        done.write_text(json.dumps(row))
        before = tree(tmp_path)
        with pytest.raises(UserError, match="is not inside"):
            act(made.plans[0].path, "a")
        assert before == tree(tmp_path) and Path("/etc/hostname").exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give a folder away")
@pytest.mark.row(
    39,
    promise="no user reads, writes or loads anything there; the message names the folder and its owner",
    injected="another user makes the folders that a stage will use, in /tmp and in a shared models folder, beforehand",
    daemons="real",
)
def test_row_39_folders_that_another_user_has_made_are_not_used(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    with place.shared(tmp_path) as predictable:
        pass
    for make in (lambda: predictable.mkdir(mode=0o777), lambda: predictable.symlink_to("/etc")):
        make()
        if not predictable.is_symlink():
            os.chown(predictable, OTHER, OTHER)
        with pytest.raises(PermissionError, match="made by another user"), place.shared(tmp_path):
            pytest.fail("it was used")
        predictable.unlink() if predictable.is_symlink() else predictable.rmdir()
    made = flow(tmp_path)
    made.write()
    checkpoints = made.plans[0].workspace / "checkpoints"
    checkpoints.mkdir(parents=True)
    for folder in (made.plans[0].workspace, made.plans[0].workspace.parent, made.plans[0].workspace.parents[1]):
        os.chown(folder, OTHER, OTHER)
        with pytest.raises(UserError, match=rf"{folder.name} belongs to nobody, so nothing is read"):
            made.submit()
        with pytest.raises(UserError, match="belongs to nobody"):
            summary.clean(made.plans[0])
        os.chown(folder, os.getuid(), os.getgid())
    assert checkpoints.is_dir()
