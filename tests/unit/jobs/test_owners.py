"""Runs and clusters of other users: they are looked at, and neither change the viewer's process nor are changed."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from diagcot.cli import main as cli
from diagcot.jobs import Pipeline, UserError, owners, pipeline
from diagcot.jobs.execution import local
from diagcot.jobs.slurm import commands as slurm
from diagcot.jobs.state import ledger
from launchers import reuse
from launchers.chain import settings_model
from tests import chains

NAMES = ("LD_PRELOAD", "SLURM_CONF", "SLURM_CLUSTERS", "DIAGCOT_TEST_NAME")
SCREENS = (["status"], ["watch"], ["logs", "--stage", "stage"], ["failures"], ["traces"], ["table"])
TOOL = chains.ROOT / "slurm" / "devcluster"


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in NAMES:  # so that what a verb sets is forgotten after the test
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    made = chains.plan(tmp_path, "stage", 2)
    found = chains.write(tmp_path, [made], chains.cluster("local", environment={name: "/theirs" for name in NAMES}))
    (found / "runner.json").write_text(json.dumps({"code": 1}))
    return found


@pytest.fixture
def somebody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is on disk belongs to another user."""
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)


def call(verb: list[str], run_dir: Path) -> int:
    return cli.main([*verb, "--logs", str(run_dir.parent), "--run", run_dir.name])


@pytest.mark.usefixtures("somebody_else")
@pytest.mark.parametrize("verb", SCREENS, ids=lambda verb: verb[0])
def test_screens_use_no_environment_of_another_users_run(
    run_dir: Path, verb: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diagcot.console.screens.watch.show", lambda path: 0)  # it would wait for the end of the run
    call(verb, run_dir)
    assert not set(NAMES) & set(os.environ)
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "belongs to" in line]
    assert said.startswith(f"run {run_dir.name} belongs to ") and said.endswith("was not used")


def test_screens_of_ones_own_run_use_its_environment(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["status"], run_dir) == 0
    assert all(os.environ[name] == "/theirs" for name in NAMES) and "belongs to" not in capsys.readouterr().err


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give a file away")
def test_a_cluster_file_of_another_user_makes_the_run_another_users(run_dir: Path) -> None:
    assert not owners.other_owner(run_dir)
    os.chown(run_dir / "cluster.yaml", 65534, 65534)
    assert owners.other_owner(run_dir)


@pytest.mark.usefixtures("somebody_else")
def test_another_users_run_is_not_changed(
    run_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "stop", lambda path: pytest.fail("the runner was stopped"))
    before = sorted(run_dir.rglob("*"))
    for verb in (["retry", "--stage", "stage"], ["cancel"]):
        assert call(verb, run_dir) == 1
        assert "may change it" in capsys.readouterr().err
    with pytest.raises(UserError, match="may change it"):
        pipeline.retry_stage(run_dir, "stage")
    flow = Pipeline(run_dir.name, chains.cluster(roots={"logs": run_dir.parent}), run_dir.parent)
    flow.stage("stage", "tests.kinds.count", ["a"], "small")
    with pytest.raises(UserError, match="may change it"):
        flow.submit()
    assert sorted(run_dir.rglob("*")) == before and not set(NAMES) & set(os.environ)


def test_a_slurm_conf_that_others_may_have_written_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    public = tmp_path / "public"
    conf = public / "devcluster-me" / "etc" / "slurm.conf"
    conf.parent.mkdir(parents=True)
    conf.touch(mode=0o600)
    for folder in (conf.parent, conf.parent.parent):
        folder.chmod(0o755)
    public.chmod(0o1777)
    assert not owners.distrust(conf) and not owners.distrust(public / "absent" / "slurm.conf")
    link = tmp_path / "link"
    link.symlink_to(conf)
    conf.parent.chmod(0o777)
    monkeypatch.setenv("SLURM_CONF", str(conf))
    with pytest.raises(slurm.SlurmError, match="etc can be changed by other users"):
        slurm.call("true")
    assert "changed by other users" in owners.distrust(link)
    conf.parent.chmod(0o755)
    assert slurm.call("true") == ""


@pytest.mark.usefixtures("somebody_else")
def test_a_slurm_conf_that_another_user_put_into_a_public_folder_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.getuid() == 0:
        os.chown(tmp_path, 65534, 65534)
    (tmp_path / "slurm.conf").touch()
    if os.getuid() == 0:
        os.chown(tmp_path / "slurm.conf", 65534, 65534)
    tmp_path.chmod(0o1777)
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    with pytest.raises(slurm.SlurmError, match="belongs to"):
        slurm.call("true")


@pytest.mark.parametrize("verb", ["status", "env", "down", "wipe", "up", "exec"])
def test_no_verb_of_the_development_cluster_obeys_a_folder_that_others_may_write_to(tmp_path: Path, verb: str) -> None:
    tmp_path.chmod(0o777)
    command = [sys.executable, str(TOOL / "devcluster.py"), "--directory", str(tmp_path), verb]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "other users may write" in done.stderr and not list(tmp_path.iterdir())


def test_the_development_cluster_obeys_no_folder_of_another_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_own = runpy.run_path(str(TOOL / "settings.py"))["require_own"]
    require_own(tmp_path / "absent")
    require_own(tmp_path)
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
    with pytest.raises(ValueError, match="belongs to another user"):
        require_own(tmp_path)


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give a folder away")
def test_planning_with_another_users_stage_imports_no_code_of_theirs(tmp_path: Path) -> None:
    made = chains.plan(tmp_path, "stage", 1)
    run_dir = chains.write(tmp_path, [made], chains.cluster())
    ledger.publish(made.path, "00000", {}, {}, {})
    theirs = tmp_path / "theirs.py"
    theirs.write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    stage = {"name": "stage", "kind": f"{theirs}:KIND", "number": 0, "settings": {"a": 1}}
    (run_dir / "recipe.yaml").write_text(json.dumps({"name": "theirs", "stages": [stage]}))
    os.chown(run_dir, 65534, 65534)
    with pytest.raises(UserError, match=r"is of a kind of nobody's own code .* which is not run here"):
        reuse.find("mine", f"{run_dir.name}/stage", run_dir.parent, chains.ROOT, settings_model)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("file", "damage", "why"),
    [
        ("places.json", "[" * 100_000, "it is not JSON"),
        ("places.json", '[{"folder": "x", "moves": []}]', "`[0].moves` is not a mapping"),
        ("places.json", '[{"folder": "x", "moves": {"a": 5}}]', "`[0].moves.a` is not a text"),
        ("places.json", '[{"folder": 5, "moves": {}}]', "`[0].folder` is not a text"),
        ("places.json", '{"folder": "x"}', "it is not a list"),
        ("stage/plan.json", {"stage_dir": 5}, "`stage_dir` is not a text"),
        ("stage/plan.json", {"workspace": True}, "`workspace` is not a text"),
        ("stage/plan.json", {"workspace": "x"}, "`workspace` is no folder models/<run>/.work/<stage>"),
        ("stage/plan.json", {"stage_dir": "/a\0b/stage"}, "a path holds the character 0"),
    ],
)
def test_a_file_that_says_wrongly_where_a_run_is_is_named(
    run_dir: Path, file: str, damage: str | dict[str, object], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = run_dir.parents[1]
    sound = {"run": "sound", "path": run_dir.with_name("sound") / "stage", "output": root / "made/sound/stage"}
    sound |= {"workspace": root / "work/sound/.work/stage"}
    other = chains.write(root, [chains.plan(root, "stage", 2, **sound)], chains.cluster())
    path = run_dir / file
    path.write_text(damage if isinstance(damage, str) else json.dumps(json.loads(path.read_bytes()) | damage))
    named = "".join(f"{path} is damaged: {why}. ".split())  # screens wrap lines
    for verb in (["status"], ["failures"], ["verify"], ["cancel"], ["retry", "--stage", "stage"], ["remove", "--yes"]):
        code = call(verb, run_dir)
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        unconcerned = "verify" if file == "places.json" else "cancel"  # jobs are cancelled whatever a plan says
        if verb[0] != unconcerned:
            assert code == 1 and named in "".join((said.out + said.err).split()), verb
    assert path.exists()
    code = cli.main(["space", "--logs", str(run_dir.parent)])
    said = capsys.readouterr()
    assert "  sound\n" in said.out and "Traceback" not in said.err
    assert file == "places.json" or (code == 1 and named in "".join((said.out + said.err).split()))
    if file == "places.json":
        assert call(["remove", "--yes"], other) == 0 and not other.exists()
