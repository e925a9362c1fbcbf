"""Cluster files: profiles and files that extend others, one cluster of several, what a run keeps of them."""

import json
import os
import sys
from pathlib import Path

import pytest

from diagcot.cli.main import main
from diagcot.jobs import UserError
from diagcot.jobs.cluster import Cluster, Size, find_cluster, load_cluster
from diagcot.jobs.environment import variables
from diagcot.jobs.slurm import commands as slurm
from diagcot.jobs.slurm import sbatch
from diagcot.jobs.slurm.hostlist import hostnames
from tests import chains
from tests.unit.console.console_run import fake_slurm

BASE = """name: base
executor: slurm
setup: [module load cuda]
slurm: {account: lab, partition: gpu}
resource_profiles:
  cpu: {cpus: 8, mem_gb: 32, partition: cpu}
  small: {extends: cpu, cpus: 2, mem_per_cpu_gb: 4}
  train: {gpus: 1, tasks_per_node: 8, cpus: 8, mem_gb: 800}
"""


def test_profiles_and_files_extend_others(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(BASE)
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: mine\nextends: base\nslurm: {qos: long}\nresource_profiles:\n  train: {mem_gb: 400}\n"
        "  grpo: {extends: train, nodes: 2, minutes: 9}\n"
    )
    found = load_cluster(path)
    assert (found.name, found.setup, found.file) == ("mine", ["module load cuda"], path)
    assert (found.slurm.account, found.slurm.qos, found.slurm.partition) == ("lab", "long", "gpu")
    profiles = found.resource_profiles
    assert profiles["small"] == Size(cpus=2, mem_per_cpu_gb=4, partition="cpu")  # one form of memory replaces the other
    assert profiles["grpo"] == Size(nodes=2, tasks_per_node=8, cpus=8, gpus=1, mem_gb=400, minutes=9)
    path.write_text("name: mine\nextends: base\nresource_profiles:\n  grpo: {nodes: 2, minuts: 9}\n")
    with pytest.raises(UserError, match=r"mine.yaml:4: unknown key 'minuts'"):
        load_cluster(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: bases", r"mine.yaml:2: extends 'bases', and there is no"),
        ("extends: mine", r"mine.yaml:2: extends itself"),
        ("extends: base\nresource_profiles:\n  a: {extends: trian}", r":4: profile a extends 'trian'.*'train'"),
        ("extends: base\nresource_profiles:\n  a: {extends: b}\n  b: {extends: a}", r":5: profile b extends itself"),
        ("extends: base\nslurm: {cluster: 'east,west'}", r":3: .*one cluster, not 'east,west'"),
        (
            "extends: base\nresource_profiles:\n  a: {mem_gb: 1, mem_per_cpu_gb: 1}",
            r":4: mem_gb and mem_per_cpu_gb excl",
        ),
        ("extends: base\nresource_profiles:\n  a: {gres: 'gpu:4'}", r":4: gres: write GPUs as"),
        ("extends: base\nslurm: {dependency: 'afterok:1?afterok:2'}", r":3: dependency: `\?`"),
    ],
)
def test_faults_are_named_with_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "base.yaml").write_text(BASE)
    path = tmp_path / "mine.yaml"
    path.write_text(f"name: mine\n{text}\n")
    with pytest.raises(UserError, match=message):
        load_cluster(path)


def test_what_a_run_keeps_is_read_by_earlier_code_too(tmp_path: Path) -> None:
    general = {"account": "lab", "mail_type": "FAIL", "reservation": "week", "extra": {"hold": True}}
    made = chains.cluster("slurm", slurm=general, resource_profiles={"small": {"cpus": 2}})
    stored = made.stored()
    assert set(stored["slurm"]) == {"partition", "account", "qos", "constraint", "extra"}
    assert stored["slurm"]["extra"] == {"hold": True, "mail-type": "FAIL", "reservation": "week"}
    assert len(stored["sizes"]["small"]) == 11 and "container" not in stored
    (tmp_path / "cluster.yaml").write_text(json.dumps(stored))
    assert Cluster.read(tmp_path) == made and Cluster.read(tmp_path).differences(made) == []
    typed = chains.cluster("slurm", resource_profiles={"small": {"gpu_type": "h100", "gpus": 1}})
    (tmp_path / "cluster.yaml").write_text(json.dumps(typed.stored()))
    assert Cluster.read(tmp_path) == typed and typed.differences(made) == ["slurm", "resource_profiles"]


def test_site_row_12_a_shell_that_names_another_cluster_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CLUSTERS", "west")
    with pytest.raises(UserError, match=r"SLURM_CLUSTERS=west is set in this shell.*write west there, or unset"):
        chains.cluster("slurm").enter()
    with pytest.raises(UserError, match="`cluster: east`"):
        chains.cluster("slurm", slurm={"cluster": "east"}).enter()
    chains.cluster("local").enter()
    chains.cluster("slurm", slurm={"cluster": "west"}).enter()
    assert variables.outside_job(os.environ)["SLURM_CLUSTERS"] == "west"
    inside = dict(os.environ) | {"SLURM_CLUSTER_NAME": "west"}  # a job of that cluster asks its own controller
    assert "SLURM_CLUSTERS" not in variables.outside_job(inside)


def test_site_row_12_every_command_speaks_to_the_named_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"sacct": "7|COMPLETED||r.s.1||0:0\n", "squeue": "CLUSTER: west\n7|RUNNING|None|r.s.1|gpu|q|a\n"}
    monkeypatch.setenv("PATH", f"{fake_slurm(tmp_path / 'bin', **said)}:{os.environ['PATH']}")
    monkeypatch.delenv("SLURM_CLUSTERS", raising=False)
    chains.cluster("slurm", slurm={"cluster": "west"}).enter()
    assert slurm.history(["7"])["7"].state == "COMPLETED"
    assert [job.partition for job in slurm.queue()] == ["gpu"]
    (call,) = [line for line in (tmp_path / "bin" / "calls").read_text().splitlines() if line.startswith("sacct")]
    assert "-M west" in call


def test_lists_of_nodes() -> None:
    assert hostnames("gpu[03-05,9],x1") == ["gpu03", "gpu04", "gpu05", "gpu9", "x1"]
    assert hostnames("rack[1-2]n[08-09]") == ["rack1n08", "rack1n09", "rack2n08", "rack2n09"]
    assert hostnames("localhost") == ["localhost"]


SITES = sorted(path.stem for path in (chains.ROOT / "slurm" / "clusters").glob("site-*.yaml"))


@pytest.mark.parametrize("name", ["example", *SITES])
def test_the_files_of_kinds_of_sites_and_the_jobs_that_follow(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The options of a finaliser, and the scripts of a stage on CPUs, of a server and of training."""
    monkeypatch.setattr(sys, "executable", "/site/.venv/bin/python")
    site = find_cluster(name, chains.ROOT)
    assert site.name == name
    plan = chains.plan(Path("/site/first"), "stage", 1, code="/site/code/1a2b")
    text = "".join(
        f"=== {profile}\n{sbatch.work(plan, site, site.resources(profile, profile), (0,))}"
        for profile in ("cpu", "server", "train")
    )
    text += f"=== finaliser\n{sbatch.finalise(plan, site)}"
    path = Path(__file__).parent / "golden" / "sites" / f"{name}.txt"
    assert text == path.read_text(), f"the scripts have changed; if that is meant, write them to {path}"


def test_six_kinds_of_sites_have_a_file() -> None:
    assert len(SITES) == 5  # and example.yaml, with partitions for CPUs and for GPUs


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"environment": {"A=B": "x"}}, "'A=B' cannot name a variable"),
        ({"environment": {"1A": "x"}}, "'1A' cannot name a variable"),
        ({"environment": {"": "x"}}, "'' cannot name a variable"),
        ({"environment": {"A": "x\0y"}}, "character 0"),
        ({"name": "../../x"}, "name='../../x' cannot name a folder"),
    ],
)
def test_names_that_no_variable_and_no_folder_can_have_are_refused(
    tmp_path: Path, change: dict[str, object], why: str
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps(chains.cluster().model_dump(mode="json") | change))
    with pytest.raises(UserError, match=why) as raised:
        load_cluster(path)
    assert f"{path}:" in str(raised.value)


@pytest.mark.parametrize("environment", [{"A=B": "x"}, {"A": "x\0y"}])
def test_a_run_whose_variables_are_impossible_is_shown_without_them(
    tmp_path: Path, environment: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = chains.write(tmp_path, [chains.plan(tmp_path, "stage", 2)], chains.cluster())
    path = run_dir / "cluster.yaml"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"environment": environment}))
    for verb in ("status", "cancel"):
        main([verb, "--run", run_dir.name, "--logs", str(run_dir.parent)])
        assert "its environment was not used" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"cluster.yaml is damaged: .*(environment|character 0)"):
        Cluster.read(run_dir)


def test_roots_are_filled_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Else a folder named `~` would hold the reports of patients."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PLACE", "/scratch/one")
    made = chains.cluster(roots={"logs": "~/logs", "shards": "$PLACE/shards", "models": "${PLACE}/models"})
    assert made.roots.logs == tmp_path / "logs"
    assert (made.roots.shards, made.roots.models) == (Path("/scratch/one/shards"), Path("/scratch/one/models"))
    for wrong in ("$NOT_SET/x", "${NOT_SET}/x", "~nobody-has-this-name/x"):
        with pytest.raises(ValueError, match="write the folder itself"):
            chains.cluster(roots={"logs": wrong})
