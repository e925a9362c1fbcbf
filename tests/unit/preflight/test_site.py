"""A cluster file from what a site's Slurm says: each choice fits the site, and has a comment."""

from pathlib import Path
from typing import Any

import pytest

from diagcot.jobs.cluster import load_cluster
from diagcot.jobs.slurm import capacity
from diagcot.jobs.slurm.limits import Bound
from diagcot.preflight.checks import fits
from diagcot.preflight.doctor import slurm as doctor
from diagcot.preflight.site.draft import draft
from diagcot.preflight.site.facts import Facts

SINFO = """\
cpu*|up|1-00:00:00|1-infinite|40|64|256000|(null)
gpu|up|2-00:00:00|1-infinite|8|64|1024000|gpu:h100:8(S:0-1)
spot|up|infinite|1-infinite|32|64|1024000|gpu:h100:8(S:0-1)
old|down|infinite|1-infinite|4|16|64000|gpu:v100:4
"""
SETTINGS = {
    "gpu": {"PreemptMode": "OFF", "GraceTime": "0", "AllocNodes": "login1"},
    "spot": {"PreemptMode": "REQUEUE", "GraceTime": "60"},
}
CONFIG = {
    "PreemptType": "preempt/partition_prio", "SelectTypeParameters": "CR_CORE_MEMORY", "TmpFS": "/local",
    "AccountingStorageEnforce": "associations,limits,qos,wckeys", "JobSubmitPlugins": "lua", "DefMemPerCPU": "2000",
}  # fmt: skip


def facts(**more: Any) -> Facts:
    rows: dict[str, Any] = {
        "version": "slurm 24.11.5", "config": CONFIG, "partitions": capacity.parse(SINFO), "settings": SETTINGS,
        "accounts": ("lab",), "qos": ("normal", "long"), "array_size": 1001,
        "bounds": (Bound(50, "MaxSubmitJobs of account lab", "lab"),),
    }  # fmt: skip
    return Facts(**rows | more)


def test_the_file_of_a_large_site(tmp_path: Path) -> None:
    text = draft("large", facts())
    (tmp_path / "large.yaml").write_text(text)
    site = load_cluster(tmp_path / "large.yaml")
    assert (site.slurm.partition, site.slurm.account, site.slurm.gpu_type) == ("gpu", "lab", "h100")
    assert site.scratch == "/local"
    profiles = site.resource_profiles
    assert (profiles["cpu"].partition, profiles["small"].partition, profiles["small"].cpus) == ("cpu", "cpu", 2)
    assert (profiles["train"].nodes, profiles["train"].tasks_per_node, profiles["train"].cpus) == (2, 8, 8)
    assert profiles["grpo"].minutes == 2880 and profiles["cpu"].minutes == 240 and profiles["train"].mem_gb == 950
    for name, size in profiles.items():
        found = fits(name, size, size.partition or site.slurm.partition, facts().partitions)
        assert found.level == "good", (name, found.text)
    for said in (
        "gpu # or spot", "Jobs in spot are preempted (PreemptMode REQUEUE, GraceTime 60 s)", "At most 50 jobs in the queue",
        "Only login1 may submit to gpu", "JobSubmitPlugins=lua", "gets 2000 MB for each CPU", "wckey", "normal, long",
    ):  # fmt: skip
        assert said in text


@pytest.mark.parametrize(
    ("sinfo", "train"),
    [
        ("all*|up|1:00:00|1-infinite|1|16|64000|gpu:4\n", {"tasks_per_node": 4, "gpus": 1, "minutes": 60}),
        ("all*|up|infinite|1-infinite|9|16|64000|(null)\n", {"nodes": 2, "tasks_per_node": 1, "gpus": 0}),
        ("all*|down|infinite|1-infinite|9|16|64000|(null)\n", {"minutes": 60}),
    ],
)
def test_files_of_small_sites_fit_them(tmp_path: Path, sinfo: str, train: dict[str, Any]) -> None:
    known = capacity.parse(sinfo)
    bare = facts(partitions=known, config={}, settings={}, accounts=("a", "b"), qos=(), bounds=())
    (tmp_path / "small.yaml").write_text(draft("small", bare))
    site = load_cluster(tmp_path / "small.yaml")
    assert site.resource_profiles["train"].model_dump() | train == site.resource_profiles["train"].model_dump()
    assert site.slurm.account == "<a>" and site.slurm.gpu_type is None
    assert all(size.mem_gb is None for size in site.resource_profiles.values())  # not scheduled there
    if known["all"].up:
        assert all(fits("size", size, "all", known).level == "good" for size in site.resource_profiles.values())


def test_the_doctor_names_what_a_site_does_differently() -> None:
    rows = {"gpu": SETTINGS["gpu"], "spot": SETTINGS["spot"] | {"GraceTime": "0"}}
    first, second = doctor._partitions(rows, CONFIG)
    assert "only login1 may submit to gpu" in first.text and first.level == "note"
    assert "spot are preempted without a warning" in second.text
    (found,) = doctor._shell({"SBATCH_ACCOUNT": "x", "SBATCH_EXPORT": "NONE", "HOME": "/"})
    assert found.text.startswith("SBATCH_ACCOUNT, SBATCH_EXPORT: set in this shell, and not used")
