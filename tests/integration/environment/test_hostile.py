"""What a run starts computes the same under a hostile environment as under a clean one."""

from pathlib import Path

import pytest

from diagcot.jobs.cluster import Size
from diagcot.jobs.environment import variables
from diagcot.jobs.execution import local
from diagcot.metrics import java
from diagcot.preflight import checks
from tests import chains
from tests.integration.environment import hostile

REPORTS = ["The heart isn't enlarged; 3.5 cm nodule (left).", "No acute cardiopulmonary process, é à İ."]


def export(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in hostile.environment().items():
        monkeypatch.setenv(name, value)


def test_of_all_names_that_packages_read_only_places_and_devices_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    export(monkeypatch)
    for name in hostile.PASSING - {"PATH", "HOME"}:
        monkeypatch.setenv(name, "site")
    passed = {name for name in variables.child() if name in hostile.NAMES} - set(variables.SET)
    assert len(hostile.NAMES) > 1000 and passed == hostile.PASSING
    assert all(variables.child()[name] == value for name, value in variables.SET.items())


def test_java_splits_words_as_in_a_clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    clean = java.tokenize(REPORTS)
    export(monkeypatch)
    assert java.tokenize(REPORTS) == clean


def test_the_doctor_shows_the_version_of_java_and_no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    export(monkeypatch)
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Dpassword=secret")
    (finding,) = checks.java()
    assert finding.level == "good" and "version" in finding.text and "secret" not in finding.text


def laptop(root: Path) -> tuple[dict[str, str], str]:
    """Outputs of a chain of a task alone and of two ranks that form a group, and the runner's log."""
    first = chains.plan(root, "first", 2)
    ranks = chains.plan(
        root, "meet", 1, kind="tests.kinds.meet", resources=Size(tasks_per_node=2), settings={"meet_s": 120}
    )
    run_dir = chains.write(root, [first, ranks], chains.cluster())
    assert local.start(run_dir, ["first", "meet"])
    chains.wait_for_end(run_dir, 0, 300)
    outputs = {str(path.relative_to(root)): path.read_text() for path in sorted((root / "out").rglob("*.txt"))}
    return outputs, (run_dir / "runner.log").read_text()


@pytest.mark.heavy
def test_tasks_and_ranks_on_a_laptop_compute_as_in_a_clean_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean, _ = laptop(tmp_path / "clean")
    export(monkeypatch)
    monkeypatch.setenv("SLURM_JOB_ID", "7")  # as in a shell of salloc
    monkeypatch.setenv("SLURM_NTASKS", "4")
    outputs, log = laptop(tmp_path / "hostile")
    assert outputs == clean and outputs["out/meet/00000.txt"] == "3.0\n"
    told = [line for line in log.splitlines() if "are not used" in line]
    assert len(told) == 1 and " RAY_ADDRESS " in told[0] and "10.0.0.9" not in log  # named once, and no value
