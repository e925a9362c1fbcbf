"""What a rehearsal makes of jobs that end early, never start or are refused, and the table of it all."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from diagcot.jobs import Cluster, Plan, entrypoints
from diagcot.jobs.cluster import Size
from diagcot.jobs.slurm import commands as slurm
from diagcot.preflight.finding import bad, good, note
from diagcot.preflight.rehearsal import chain as rehearsals
from diagcot.preflight.rehearsal import rows, table, wait
from diagcot.preflight.rehearsal.rows import Row
from diagcot.preflight.rehearsal.stage import RehearsedStage
from launchers.chain import open_chain
from tests import chains

GOOD = good("space", "9 GB free")


def plan(root: Path, stage: str = "train", ranks: int = 2) -> Plan:
    made = chains.plan(root, stage, 1, resources=Size(nodes=ranks, minutes=2))
    for folder in ("slurm", "submitit"):
        (made.path / folder).mkdir(parents=True)
    (made.path / "checks").mkdir()
    return made


def rank(made: Plan, number: int, *found: Any, doing: str = "", host: str = "") -> None:
    row = {
        "rank": number,
        "host": host or f"gpu{number + 1}",
        "began": 1.0,
        "ended": None if doing else 2.0,
        "doing": doing,
        "findings": [vars(finding) for finding in found],
    }
    (made.path / "checks" / f"{number}.json").write_text(json.dumps(row))


def test_findings_of_the_ranks_are_joined(tmp_path: Path) -> None:
    made = plan(tmp_path)
    rank(made, 0, GOOD, bad("Java", "none"))
    rank(made, 1, GOOD)
    first, second = rows.of_stage(made)
    assert first == Row("train", GOOD, ("gpu1", "gpu2"))
    assert second.hosts == ("gpu1",)


def test_a_job_that_was_ended_tells_at_what(tmp_path: Path) -> None:
    made = plan(tmp_path)
    rank(made, 0, GOOD, doing="imports")
    rank(made, 1, GOOD)
    *_, row = rows.of_stage(made, "TIMEOUT")
    assert row.finding.level == "bad" and row.hosts == ("gpu1",)
    assert "(TIMEOUT) during the check of imports: 2 minutes were not enough" in row.finding.text


def test_a_rank_that_never_spoke(tmp_path: Path) -> None:
    made = plan(tmp_path)
    rank(made, 0, GOOD)
    *_, row = rows.of_stage(made, "FAILED, exit code 1:0")
    assert "before rank 1 of 2 began its checks" in row.finding.text


def test_an_environment_that_does_not_start(tmp_path: Path) -> None:
    made = plan(tmp_path)
    log = "/var/spool/slurmd/job7/slurm_script: line 20: /opt/.venv/bin/python: No such file or directory\n"
    (made.path / "slurm" / "7.log").write_text(log + "srun: error: gpu1: task 0: Exited with exit code 127\n")
    row, setup = rows.of_stage(made, "FAILED, exit code 127:0")
    assert "before its first check: /var/spool" in row.finding.text and row.finding.level == "bad"
    assert setup.finding.subject == "setup"


def test_an_option_that_srun_does_not_know_is_told(tmp_path: Path) -> None:
    """As where Pyxis is not installed."""
    made = plan(tmp_path)
    said = "srun: unrecognized option '--container-image=x'\nTry \"srun --help\" for more information\n"
    (made.path / "slurm" / "7.log").write_text(f"{entrypoints.STARTED} work\n{said}")
    (row,) = rows.of_stage(made, "FAILED, exit code 127:0")
    assert row.finding.text.endswith("before its first check: srun: unrecognized option '--container-image=x'")


def test_a_job_that_leaves_no_word(tmp_path: Path) -> None:
    (row,) = rows.of_stage(plan(tmp_path), "FAILED, exit code 1:0")
    assert "before its first check" in row.finding.text and "share that folder" in row.finding.remedy


@pytest.mark.parametrize(
    ("name", "start"), [("slurm/7.log", entrypoints.STARTED), ("submitit/7_0_log.out", "submitit INFO (…) - Starting")]
)
def test_setup_lines_that_fail_are_reported(tmp_path: Path, name: str, start: str) -> None:
    made = plan(tmp_path, ranks=1)
    rank(made, 0, GOOD)
    log = made.path / name
    log.write_text(f"/spool/job7/slurm_script: line 18: module: command not found\n{start}\n")
    *_, row = rows.of_stage(made)
    assert row.finding.level == "note" and row.finding.text.endswith(": module: command not found")
    log.write_text(f"Loading cuda/12.8\n{start}\nKeyError: not of setup\n")
    assert [row.finding for row in rows.of_stage(made)] == [GOOD]


class Scripted:
    """squeue as a waiting rehearsal meets it: one answer after the other, the last one for ever."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: list[slurm.Job] | Exception) -> None:
        self.answers = list(answers)
        self.cancelled: list[Any] = []
        monkeypatch.setattr(wait, "POLL_S", 0.01)
        monkeypatch.setattr(wait, "LAG_S", 0.05)
        monkeypatch.setattr(slurm, "queue", self.queue)
        monkeypatch.setattr(slurm, "cancel", self.cancelled.extend)
        job = slurm.Job("7", "FAILED", name="run.train.12345678", exit="3:0")
        monkeypatch.setattr(slurm, "history", lambda ids: {"7": job})

    def queue(self) -> list[slurm.Job]:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def waited(made: Plan, patience_s: float, tell: Callable[[str], None] = lambda line: None) -> list[Row]:
    rehearsal: Any = SimpleNamespace(plans=[made], jobs={made.stage: "7"}, rows=[])
    wait.Waiting(rehearsal, patience_s, tell).run()
    return rehearsal.rows  # type: ignore[no-any-return]


def test_a_job_that_does_not_start_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    dependent, pending = slurm.Job("7", "PENDING", "Dependency"), slurm.Job("7", "PENDING", "Resources")
    fake = Scripted(monkeypatch, [dependent], [pending])
    (row,) = waited(plan(tmp_path), 0.1, said.append)
    assert "did not start within" in row.finding.text and "Resources" in row.finding.text
    assert fake.cancelled == ["7"]
    assert "rehearsed 0 of 1 stages; waiting: train (Resources)" in said


def test_a_job_that_waits_for_another_is_given_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = plan(tmp_path, ranks=1)
    rank(made, 0, GOOD)
    Scripted(monkeypatch, *[[slurm.Job("7", "PENDING", "Dependency")]] * 20, [])
    assert [row.finding for row in waited(made, 0.05)] == [GOOD]


def test_a_job_that_can_never_start_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Scripted(monkeypatch, [slurm.Job("7", "PENDING", "InvalidQOS")])
    (row,) = waited(plan(tmp_path), 600)
    assert "can never start" in row.finding.text and "correct qos" in row.finding.text
    assert fake.cancelled == ["7"]


def test_a_job_that_does_not_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wait, "OVERTIME_S", 0.1 - 60 * wait.MINUTES)
    fake = Scripted(monkeypatch, [slurm.Job("7", "COMPLETING", nodes="gpu1")])
    (row,) = waited(plan(tmp_path), 600)
    assert "still COMPLETING" in row.finding.text and fake.cancelled == ["7"]


def test_a_job_that_failed_is_told_with_slurms_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = chains.plan(tmp_path, "train", 1, run="run")
    Scripted(monkeypatch, [])
    (row,) = waited(made, 600)
    assert "(FAILED, exit code 3:0)" in row.finding.text


def test_a_controller_that_is_away_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = plan(tmp_path, ranks=1)
    rank(made, 0, GOOD)
    Scripted(monkeypatch, slurm.SlurmError("no answer"), slurm.SlurmError("no answer"), [])
    assert [row.finding for row in waited(made, 600)] == [GOOD]
    Scripted(monkeypatch, slurm.SlurmError("no answer"))
    with pytest.raises(slurm.SlurmError):
        waited(made, 0.05)


def test_the_table() -> None:
    skewed = note("clock", "differs by 9 s", "ask")
    found = [
        *(Row(stage, bad("folders", "cannot write to /models", "mend roots"), ("gpu1",)) for stage in ("base", "cot")),
        Row("cot", GOOD, ("gpu1",)),
        *(Row("grpo", skewed, (f"gpu{k}",)) for k in range(9)),
        Row("shard", GOOD, ("cpu1",)),
        Row("shard", good("Java", "25"), ("cpu1", "cpu2")),
    ]
    screen = Console(width=80, file=io.StringIO(), record=True)
    screen.print(table.render(screen, ["shard", "base", "cot", "grpo"], found))
    said = screen.export_text().splitlines()
    assert max(map(len, said)) <= 80
    assert said[0].split()[1:4] == ["base,", "cot", "folders"] and "[gpu1]" in said[0]
    assert "[gpu0, gpu1, gpu2, gpu3 and 5 more]" in " ".join(line[30:].strip() for line in said)
    (line,) = [line for line in said if "all good" in line]
    assert "shard" in line and "2 checks [cpu1, cpu2]" in line
    assert said[-1] == "1 problem to fix before submitting"


def test_the_rehearsals_cluster_is_the_real_one_but_for_time() -> None:
    sizes = {"train": Size(nodes=4, gpus=8, minutes=1440), "small": Size(minutes=60)}
    stages = {"grpo": {"partition": "big", "minutes": 2880}}
    real = Cluster(name="site", executor="slurm", resource_profiles=sizes, stages=stages, setup=["module load cuda"])
    made = rehearsals.rehearsed(real)
    assert made.resources("train", "grpo") == Size(nodes=4, gpus=8, minutes=2, partition="big")
    assert made.setup == real.setup and made.slurm == real.slurm
    assert real.resources("train", "grpo").minutes == 2880
    assert made.roots.models == made.roots.shards and made.roots.logs != real.roots.logs


def test_launchers_name_known_needs() -> None:
    made = open_chain("tiny", "laptop", "real")
    needs = {spec.kind: made.kind(spec).needs for spec in made.recipe.stages}
    assert "collective" in needs["sft"] and "ray" in needs["grpo"] and "java" in needs["aggregate"]
    for given in needs.values():
        RehearsedStage(output=Path(), workspace=Path(), probe="", needs=given)


def test_old_rehearsals_of_the_run_are_removed(tmp_path: Path) -> None:
    made = open_chain("tiny", "laptop", "real", chains.ROOT)
    cluster = made.cluster.model_copy(update={"roots": made.cluster.roots.model_copy(update={"logs": tmp_path})})
    made = type(made)(made.recipe, made.document, cluster, "real")
    assert rehearsals._number(made) == 1
    for name in ("real.rehearsal1", "real.rehearsal2", "real.rehearsal-of-mine", "other.rehearsal7"):
        (tmp_path / rehearsals.FOLDER / name).mkdir(parents=True)
        (tmp_path / rehearsals.FOLDER / name / rehearsals.RESULT).touch()
    (tmp_path / rehearsals.FOLDER / "real.rehearsal3").mkdir()  # its command still waits
    assert rehearsals._number(made) == 4
    left = sorted(path.name for path in (tmp_path / rehearsals.FOLDER).iterdir())
    assert left == ["other.rehearsal7", "real.rehearsal-of-mine", "real.rehearsal3"]


def test_plans_of_a_rehearsal_stay_in_its_own_folders(tmp_path: Path) -> None:
    made = open_chain("tiny", "laptop", "real", chains.ROOT)
    roots = {name: tmp_path / "roots" / name for name in ("logs", "shards", "models")}
    cluster = made.cluster.model_copy(update={"roots": type(made.cluster.roots)(**roots)})
    rehearsal = rehearsals.prepare(type(made)(made.recipe, made.document, cluster, "real"))
    for one in rehearsal.pipeline.plans:
        assert Path(one.output).is_relative_to(rehearsal.run_dir) and Path(one.workspace).is_relative_to(
            rehearsal.run_dir
        )
        assert (one.tasks, one.resources.minutes, one.after) == (1, 2, ())
    assert [one.stage for one in rehearsal.pipeline.plans] == [one.stage for one in rehearsal.chain.plans]
    rehearsal.clean()
    assert not (tmp_path / "roots").exists()  # nothing is left of folders that were made for the probe files


def test_the_command_never_imports_torch() -> None:
    told = "import sys; import diagcot.preflight.rehearsal.command; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", told], cwd=chains.ROOT).returncode == 0
