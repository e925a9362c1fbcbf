"""What sites do differently, on real daemons: how GPUs and memory are asked for, limits, refusals, who may submit."""

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diagcot.console.screens import failures, logs
from diagcot.console.state import executor, remarks
from diagcot.console.state.run import Run
from diagcot.console.state.status import snapshot
from diagcot.jobs import Pipeline, Plan, UserError, chain, forecast, pipeline
from diagcot.jobs.cluster import Cluster, Size, load_cluster
from diagcot.jobs.plans.plan import read
from diagcot.jobs.slurm import cancellation, capacity, limits
from diagcot.jobs.slurm import commands as slurm
from diagcot.jobs.state import attempts
from diagcot.preflight.checks import fits
from diagcot.preflight.doctor import slurm as doctor
from diagcot.preflight.site import command
from tests import chains
from tests.chains import Edge
from tests.conftest import DevCluster
from tests.faults import runs

pytestmark = pytest.mark.slurm
Start = Callable[..., DevCluster]
ENFORCED = "AccountingStorageEnforce=associations,limits,qos,wckeys;TrackWCKey=yes"


def on(**general: Any) -> Cluster:
    return chains.cluster("slurm", resource_profiles={"small": runs.SMALL}, slurm=general, warning_seconds=20)


def snapshot_of(plan: Plan) -> Run:
    return snapshot(plan.path.parent, executor.query(plan.path.parent))


def remarks_of(plan: Plan) -> str:
    return " ".join(remarks.remarks(snapshot_of(plan)))


def test_site_row_01_a_site_that_enforces_wckeys(tmp_path: Path, devcluster_with: Start) -> None:
    cluster = devcluster_with(enforce=True, extra=ENFORCED)
    cluster.wckey("own")
    for name, wckey in (("without", None), ("named", "own")):
        plan = chains.plan(tmp_path / name, "stage", 1, resources=runs.SIZE)
        runs.submit(tmp_path / name, [plan], on(wckey=wckey))
        assert ("--wckey" in (plan.path / "job.sbatch").read_text()) == (wckey is not None)
        runs.finished([plan])
        runs.whole(plan)


def test_site_row_02_the_limit_of_a_partitions_qos_is_kept_by_waves(tmp_path: Path, devcluster_with: Start) -> None:
    cluster = devcluster_with(enforce=True, extra=ENFORCED)
    cluster.wckey("other")
    cluster.qos("narrow", MaxSubmitJobsPerUser=4)
    slurm.call("scontrol", "update", "PartitionName=cpu", "QoS=narrow")
    plan = chains.plan(tmp_path, "stage", 6, resources=runs.SIZE)
    try:
        found = limits.limits([on().options(runs.SIZE)])
        assert "that of partition cpu" in found.bounds[0].name and found.bounds[0].most == 4
        (told,) = runs.submit(tmp_path, [plan])
        assert (told.tasks, told.later) == (2, 4)
        runs.finished([plan])
    finally:
        slurm.call("scontrol", "update", "PartitionName=cpu", "QoS=")
    runs.whole(plan)
    assert "the submit limit left no room for it before" in " ".join(runs.why(plan))


def test_plan_doctor_and_rehearsal_name_each_kind_before_a_submission(
    tmp_path: Path, devcluster_with: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of docs/cluster.md, "What is known before". Nothing is submitted; a rehearsal makes these checks as well."""
    cluster = devcluster_with(enforce=True, extra=ENFORCED)
    cluster.wckey("known")
    cluster.qos("tight", MaxSubmitJobsPerUser=3)
    names = iter("abcdefgh")

    def planned(size: Size) -> str:
        """What `make plan` says of a stage of six tasks."""
        plan = chains.plan(tmp_path / next(names), "stage", 6, resources=size)
        found = forecast.forecast([plan], on(), {})
        return "\n".join([*found.warnings, *found.notes])

    def of_site(partition: str) -> str:
        """What `make doctor` and `make rehearse` say of the site."""
        site = chains.cluster("slurm", resource_profiles={"small": runs.SMALL | {"partition": partition}})
        return "\n".join(f"{one.subject}: {one.text}" for one in doctor.site(site) if one.level != "good")

    update = ("scontrol", "update")
    slurm.call(*update, "PartitionName=cpu", "QoS=tight")
    slurm.call(*update, "PartitionName=spot", "GraceTime=0")
    try:
        assert "wckeys: this site checks wckeys" in of_site("cpu")  # 1
        assert "queue takes 3 more (the submit limit of QOS tight, that of partition cpu" in planned(runs.SIZE)  # 2
        assert "preemption: jobs in spot are preempted without a warning" in of_site("spot")  # 3, 4
        assert "a100" in planned(runs.size(partition="gpu", gpus=1, gpu_type="a100"))  # 5
        assert "could never start" in planned(runs.size(mem_gb=1000))  # 6
        assert "could never start: partition 'cpus' does not exist" in planned(runs.size(partition="cpus"))  # 7
        assert "partition 'gpus' does not exist" in planned(runs.size(partition="cpu,gpus"))  # 11
        assert "asks for 9 nodes" in planned(runs.size(nodes=9))  # 13
        slurm.call(*update, "PartitionName=cpu", "AllocNodes=cpu1")
        assert "submission: only cpu1 may submit to cpu" in of_site("cpu")  # 10
        assert "Slurm would refuse it: Access/permission denied" in planned(runs.SIZE)
        with monkeypatch.context() as shell:
            shell.setenv("SBATCH_EXPORT", "NONE")
            assert "defaults: SBATCH_EXPORT: set in this shell, and not used" in of_site("cpu")  # 9
            shell.setenv("SLURM_CLUSTERS", "other")
            with pytest.raises(UserError, match="SLURM_CLUSTERS=other is set in this shell"):
                on().enter()  # 12
    finally:
        slurm.call(*update, "PartitionName=cpu", "QoS=", "AllocNodes=ALL")
        slurm.call(*update, "PartitionName=spot", "GraceTime=10")


@pytest.mark.parametrize(
    ("how", "first"), [("idle_on_node_suspend", "SIGTERM"), ("preempt_send_user_signal", "SIGUSR2")]
)
def test_rows_03_and_04_preemption_is_one_more_execution_however_it_is_announced(
    tmp_path: Path, devcluster_with: Start, how: str, first: str
) -> None:
    devcluster_with(gpu_nodes=1, cpu_nodes=1, extra=f"SlurmctldParameters={how}")
    plan = chains.plan(
        tmp_path, "stage", 1, settings={"records": 120, "seconds": 0.25},
        resources=runs.size(partition="spot", gpus=4, minutes=10),
    )  # fmt: skip
    runs.submit(tmp_path, [plan])
    runs.until(lambda: runs.records(plan) > 4, "work has begun")
    slurm.call("sbatch", "-p", "urgent", "--gres=gpu:4", "--mem=50", "-o", "/dev/null", "--wrap", "sleep 1")
    runs.finished([plan])
    runs.whole(plan)
    assert [token[-2:] for token in runs.executions(plan, 0)] == ["-0", "-1"]
    log = runs.log(plan, 0)
    assert runs.why(plan) == ["submitted"] and f"{first}: stopping" in log and "Slurm requeues this job" in log


@pytest.mark.usefixtures("devcluster")
@pytest.mark.parametrize("way", ["gpus-per-node", "gpus-per-task", "gres"])
def test_site_row_05_typed_gpus_in_the_spelling_of_the_site(tmp_path: Path, way: str) -> None:
    size = runs.size(partition="gpu", gpus=2)
    plan = chains.plan(tmp_path, "stage", 2, resources=size)
    runs.submit(tmp_path, [plan], on(gpu_type="h100", gpu_request=way))  # the finaliser runs on cpu
    job = attempts.read(plan.path)[0].arrays[0].job
    row = slurm.show("job", job)[0]
    assert re.search("gpu:h100[:=]2", " ".join(row.values()))  # the request, or what it comes to (24.11)
    runs.finished([plan])
    runs.whole(plan)


@pytest.mark.usefixtures("devcluster")
def test_site_row_06_memory_of_a_whole_node_and_of_a_cpu(tmp_path: Path) -> None:
    whole = chains.plan(tmp_path / "whole", "stage", 1, resources=runs.size(mem_gb=0))
    each = chains.plan(tmp_path / "each", "stage", 1, resources=runs.size(mem_gb=None, mem_per_cpu_gb=0.5, cpus=2))
    for plan, memory in ((whole, "62.50G"), (each, "1G")):
        runs.submit(tmp_path / plan.run, [plan])
        runs.finished([plan])
        runs.whole(plan)
        job = attempts.read(plan.path)[0].arrays[0].job
        asked = ("sacct", "-X", "-n", "-P", "-j", job, "-o", "AllocTRES")
        runs.until(lambda: slurm.call(*asked).strip(), "accounting")  # noqa: B023
        assert f"mem={memory}" in slurm.call(*asked)


@pytest.mark.usefixtures("devcluster")
@pytest.mark.parametrize("refused", ["array", "finaliser"])
def test_site_row_07_a_refused_submission_decides_nothing_later(tmp_path: Path, refused: str) -> None:
    wrong = runs.size(partition="cpus")
    size, small = (wrong, runs.SMALL) if refused == "array" else (runs.SIZE, wrong.model_dump())
    plans = [chains.plan(tmp_path, name, 2, resources=size) for name in ("first", "second")]
    with pytest.raises(slurm.SlurmError, match=r"sbatch refused stage first: .*invalid partition"):
        runs.submit(tmp_path, plans, chains.cluster("slurm", resource_profiles={"small": small}))
    assert not list(plans[0].path.glob("attempts/*.intent"))
    runs.until(lambda: not runs.queued(tmp_path.name), "nothing of it is left")
    corrected = [chains.plan(tmp_path, name, 2, resources=runs.SIZE) for name in ("first", "second")]
    assert [row.state for row in runs.submit(tmp_path, corrected)] == ["submitted"] * 2
    runs.finished(corrected)
    runs.whole(*corrected)


@pytest.mark.usefixtures("devcluster")
def test_rows_08_and_09_what_fails_before_the_work_is_shown_and_a_corrected_setup_is_taken(
    tmp_path: Path,
) -> None:
    file = tmp_path / "site.yaml"
    site = {"name": "site", "executor": "slurm", "max_attempts": 1, "resource_profiles": {"small": runs.SMALL}}
    file.write_text(json.dumps(site | {"setup": ["echo 'module: cuda/99 not found' >&2; exit 7"]}))
    flow = Pipeline("setup", load_cluster(file), tmp_path, code=[chains.ROOT / "tests"])
    flow.stage("only", "tests.kinds.count", ["00000"], "small")
    flow.submit()
    plan = read(flow.run_dir / "only")
    runs.finished([plan])
    assert plan.missing()
    runs.until(lambda: list(failures.failures(snapshot_of(plan).stages[0])), "accounting")
    (shown,) = failures.failures(snapshot_of(plan).stages[0])
    assert "before its work began: module: cuda/99 not found" in shown.message
    assert logs.find(flow.run_dir, "only") == shown.log and "cuda/99" in logs.find(flow.run_dir).read_text()
    # Submitted again under the same RUN, as well as retried, with an environment that sbatch does not export.
    general = {"extra": {"export": "NONE"}}
    file.write_text(json.dumps(site | {"setup": ["export A_SITE=1"], "slurm": general}))
    (told,) = pipeline.retry_stage(flow.run_dir, "only")
    assert told.state == "submitted"
    assert attempts.read(plan.path)[-1].why == "retry cluster file: setup, slurm"
    runs.finished([plan])
    assert not plan.missing() and runs.summary(plan)["state"] == "done"
    again = Pipeline("setup", load_cluster(file), tmp_path, code=[chains.ROOT / "tests"])
    again.stage("only", "tests.kinds.count", ["00000"], "small")
    assert [row.state for row in again.submit()] == ["complete"]


def test_site_row_10_where_nodes_may_not_submit_a_person_does_and_nothing_is_cancelled(
    tmp_path: Path, devcluster: DevCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = chains.plan(tmp_path, "first", 2, resources=runs.SIZE, settings={"mishaps": {"00001": ["exit 3"]}})
    second = chains.plan(tmp_path, "second", 2, resources=runs.SIZE, after=(Edge("first"),))
    plans = [first, second]
    denied = "sbatch: error: Batch job submission failed: Access/permission denied"
    runs.shim(tmp_path / "bin", "sbatch", f"if {runs.IN_A_JOB}; then echo '{denied}' >&2; exit 1; fi", monkeypatch)
    runs.submit(tmp_path, plans)
    runs.until(lambda: attempts.handed_over(first.path)[0], "the finaliser gives up")
    runs.until(lambda: any("held" in job.reason.lower() for job in runs.queued(first.run)), "held")
    said = remarks_of(first)
    assert f"make retry STAGE=first RUN={first.run}" in said and "from the login node" in said
    assert {job.reason for job in runs.queued(first.run) if ".second." in job.name} == {"Dependency"}
    (shown,) = [one for one in failures.failures(snapshot_of(first).stages[0]) if one.kind == "stopped"]
    assert "permission denied" in shown.message
    told = chain.retry(plans, first, runs.CLUSTER, {}, "")
    assert [(row.stage, row.state) for row in told] == [("first", "submitted"), ("second", "queued")]
    runs.finished(plans)
    runs.whole(first, second)
    assert [len(attempts.read(plan.path)) for plan in plans] == [2, 1]
    assert attempts.handed_over(first.path) == ("", "")


@pytest.mark.usefixtures("devcluster")
def test_site_row_11_a_list_of_partitions(tmp_path: Path) -> None:
    size = runs.size(partition="cpu,gpu")
    known = capacity.partitions()
    assert fits("size", size, size.partition, known).level == "good"
    assert capacity.most_minutes(size, size.partition, known) == 1440
    assert capacity.most_memory(size, size.partition, known) == 62.5
    plan = chains.plan(tmp_path, "stage", 2, resources=size, settings={"mishaps": {"00001": ["exit 137"]}})
    runs.submit(tmp_path, [plan])
    runs.finished([plan])
    runs.whole(plan)
    assert attempts.read(plan.path)[1].arrays[0].resources["mem_gb"] == 0.75


@pytest.mark.usefixtures("devcluster")
def test_site_row_12_a_named_cluster(tmp_path: Path) -> None:
    site = on(cluster="dev")
    site.enter()
    plan = chains.plan(tmp_path, "stage", 2, resources=runs.SIZE, settings={"mishaps": {"00001": ["exit 3"]}})
    runs.submit(tmp_path, [plan], site)
    again = chain.submit_chain([plan], {"stage"}, site)
    assert [row.state for row in again] == ["queued"]  # not a second chain beside the first
    assert snapshot(plan.path.parent, executor.query(plan.path.parent)).note == ""
    runs.finished([plan])
    runs.whole(plan)
    assert len(attempts.read(plan.path)) == 2 and os.environ["SLURM_CLUSTERS"] == "dev"
    later = chains.plan(tmp_path, "later", 1, resources=runs.SIZE, settings={"records": 200, "seconds": 0.5})
    runs.submit(tmp_path, [plan, later], site)
    time.sleep(1)
    assert len(cancellation.cancel(plan.path.parent)) == 2
    runs.finished([later])


@pytest.mark.usefixtures("devcluster")
def test_a_cluster_file_made_from_what_slurm_says_has_a_clean_bill(tmp_path: Path) -> None:
    made = load_cluster(command.init("mine", tmp_path))
    assert (made.slurm.partition, made.slurm.gpu_type) == ("gpu", "h100")
    assert made.resource_profiles["small"].partition == "cpu" and made.resource_profiles["train"].tasks_per_node == 4
    assert [finding for finding in doctor.answers(made) if finding.level == "bad"] == []
    with pytest.raises(UserError, match="is there already"):
        command.init("mine", tmp_path)
    wrong = made.model_copy(update={"slurm": made.slurm.model_copy(update={"reservation": "none", "gpu_type": "a100"})})
    bad = {finding.subject: finding.text for finding in doctor.answers(wrong) if finding.level == "bad"}
    assert "Slurm would refuse it" in bad["size small"] and "reservation" in bad["size small"].lower()
    plan = chains.plan(tmp_path, "stage", 2, resources=made.resource_profiles["server"])
    runs.submit(tmp_path, [plan], made)
    runs.finished([plan])
    runs.whole(plan)
