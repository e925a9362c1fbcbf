"""Whether a job could ever start: the same answer for the plan, the doctor, the rehearsal and resubmission."""

from pathlib import Path
from typing import Any

import pytest

from diagcot.jobs import chain
from diagcot.jobs.causes import RULES
from diagcot.jobs.cluster import Size
from diagcot.jobs.forecast import misfits
from diagcot.jobs.slurm import capacity
from diagcot.jobs.slurm import commands as slurm
from diagcot.preflight.doctor import slurm as doctor
from tests import chains

KNOWN = capacity.parse("""\
gpu*|up|1-00:00:00|1-infinite|3|16|64000|gpu:4
gpu*|up|1-00:00:00|1-infinite|1|64|512000|gpu:h100:8(S:0-1),nvme:1
long|up|7-00:00:00|1-infinite|2|32|128000|(null)
cpu|up|infinite|1-2|4|16|64000|(null)
mixed|up|infinite|1-infinite|2|32+|64000+|(null)
mixed|up|infinite|1-infinite|2|8|64000|gpu:a100:4
old|down|infinite|1-infinite|4|16|64000|(null)
""")
CASES: list[tuple[dict[str, Any], str | None, str]] = [
    ({}, "gpu", ""),
    ({}, None, ""),
    ({"gpus": 8, "mem_gb": 400}, "gpu", ""),
    ({"nodes": 4, "gpus": 4, "mem_gb": 60}, "gpu", ""),
    ({"nodes": 5}, "gpu", "asks for 5 nodes, gpu has 4"),
    ({"nodes": 2, "gpus": 8}, "gpu", "asks for 2 nodes with 1 CPUs, 8 GPUs each, gpu has 1"),
    ({"gpus": 2, "tasks_per_node": 8}, "gpu", "asks for 16 GPUs per node, the nodes of gpu have at most 8"),
    ({"cpus": 17}, "cpu", "asks for 17 CPUs per node, the nodes of cpu have at most 16"),
    ({"mem_gb": 600}, "gpu", "asks for 600 GB of memory per node, the nodes of gpu have at most 500"),
    ({"minutes": 2000}, "gpu", "asks for 2000 minutes, gpu allows 1440"),
    ({"minutes": 200_000}, "cpu", ""),
    ({"nodes": 3}, "cpu", "asks for 3 nodes, cpu allows a job 2"),
    ({}, "old", "partition old is down"),
    ({}, "gpv", "partition 'gpv' does not exist; did you mean 'gpu'?"),
    # 32 CPUs and 4 GPUs exist in the partition, but on different nodes.
    ({"cpus": 32, "gpus": 4}, "mixed", "asks for 1 node with 32 CPUs, 4 GPUs each, mixed has 0"),
    # One of several partitions is enough.
    ({"minutes": 2000}, "gpu,long", ""),
    ({"minutes": 2000, "gpus": 1}, "gpu,long", "gpu allows 1440; asks for 1 GPUs per node, the nodes of long have at"),
    ({"minutes": 2000}, "gpu,lang", "partition 'lang' does not exist; did you mean 'long'?"),
]


@pytest.mark.parametrize(("size", "partition", "fault"), CASES)
def test_every_caller_gives_the_same_answer(
    tmp_path: Path, size: dict[str, Any], partition: str | None, fault: str
) -> None:
    said = capacity.misfit(Size(**size), partition, KNOWN)
    assert fault in said and bool(fault) == bool(said)

    cluster = chains.cluster("slurm", slurm={"partition": partition})
    plan = chains.plan(tmp_path, "a", 1, resources=Size(**size))
    assert misfits([plan], cluster, KNOWN) == ({"a": said} if said else {})

    finding = doctor.fits("size a", Size(**size), partition, KNOWN)
    assert finding.level == ("bad" if fault else "good") and said in finding.text


def test_a_cluster_without_a_default_partition() -> None:
    assert "no partition is named" in capacity.misfit(Size(), None, {"cpu": KNOWN["cpu"]})


@pytest.mark.parametrize(
    ("size", "partition", "memory", "minutes"),
    [
        ({}, "gpu", 500, 1440),
        ({"nodes": 2}, "gpu", 62.5, 1440),  # the second largest node bounds a job of two
        ({"gpus": 4, "nodes": 3}, "gpu", 62.5, 1440),
        ({}, "gpu,long", 500, 10080),
        ({"mem_gb": 200}, "gpu,long", 500, 1440),  # so much memory is in gpu alone
        ({"gpus": 1}, "gpu,long", 500, 1440),
        ({}, "cpu", 62.5, None),
        ({"gpus": 4}, "mixed", 62.5, None),
        ({}, "gone", None, None),
    ],
)
def test_the_most_that_a_resubmission_may_ask_for(
    size: dict[str, Any], partition: str, memory: float | None, minutes: int | None
) -> None:
    assert capacity.most_memory(Size(**size), partition, KNOWN) == memory
    assert capacity.most_minutes(Size(**size), partition, KNOWN) == minutes


@pytest.mark.parametrize(
    ("size", "partition"),
    [
        ({"mem_gb": 60}, None),
        ({"mem_gb": 60}, "cpu"),
        ({"mem_gb": 124, "minutes": 1400}, "gpu"),
        ({"mem_gb": 124, "minutes": 1400}, "gpu,long"),
        ({"mem_gb": 124, "minutes": 10_000}, "gpu,long"),
        ({"mem_gb": 60, "nodes": 2, "minutes": 1400}, "gpu"),
        ({"cpus": 32, "mem_gb": 50}, "mixed"),
        ({"gpus": 4, "mem_gb": 40}, "mixed"),
    ],
)
def test_a_resubmission_never_asks_for_more_than_can_start(size: dict[str, Any], partition: str | None) -> None:
    planned = Size(**size)
    assert capacity.misfit(planned, partition, KNOWN) == ""
    for cause in ("OUT_OF_MEMORY", "STUCK"):
        grown = chain._escalated(planned, planned, RULES[cause], partition, KNOWN)
        assert capacity.misfit(grown, partition, KNOWN) == ""


@pytest.mark.parametrize(
    ("text", "value"), [("1-02:03:30", 1563), ("30:00", 30), ("infinite", None), ("2:00:00", 120), ("n/a", None)]
)
def test_minutes(text: str, value: int | None) -> None:
    assert capacity.minutes(text) == value


@pytest.mark.parametrize(("text", "count"), [("(null)", 0), ("gpu", 1), ("gpu:2", 2), ("gpu:h100:4(S:0-1),nvme:1", 4)])
def test_gpus(text: str, count: int) -> None:
    assert capacity.gpus(text) == count


def test_answers_of_slurm_that_are_no_numbers_or_no_utf8_are_no_traceback() -> None:
    with pytest.raises(slurm.SlurmError, match="sinfo says of partition odd: many nodes"):
        capacity.parse("odd*|up|infinite|1-infinite|many|8|1000|(null)\n")
    assert slurm.call("printf", r"caf\351|x") == "caf\ufffd|x"


def test_a_cluster_without_partitions_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "call", lambda *command, timeout: "")
    with pytest.raises(slurm.SlurmError, match="no partition"):
        capacity.partitions()


@pytest.mark.parametrize(
    ("said", "released"), [("", True), ("Job has already finished", False), ("Invalid job id specified", False)]
)
def test_a_job_that_has_ended_is_not_released(monkeypatch: pytest.MonkeyPatch, said: str, released: bool) -> None:
    """A cancelled job keeps the reason `held` while its node cleans up."""

    def call(*command: str) -> str:
        if said:
            raise slurm.SlurmError(f"scontrol failed: 592_9: {said}")
        return ""

    monkeypatch.setattr(slurm, "call", call)
    assert slurm.release("592_9") is released
