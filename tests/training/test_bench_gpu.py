"""`make bench-gpu` without a GPU: it says so, its parts run at the tiny shape, and a part that fails stops no other."""

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bench.gpu.__main__ import PARTS
from launchers.chain import ROOT

pytestmark = pytest.mark.heavy


def run(*arguments: str, limit: int = 300) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "bench.gpu", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=limit)


def test_without_a_gpu_it_says_so() -> None:
    process = run("--shape", "7b")
    assert process.returncode == 1 and process.stdout == ""
    assert process.stderr.strip() == "no GPU here: 7b is measured on one; SHAPE=tiny runs on a CPU"


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], list[dict[str, Any]]]:
    """All parts but the server's, whose own tests start one."""
    out = tmp_path_factory.mktemp("bench") / "gpu.jsonl"
    names = [name for name in PARTS if name != "server"]
    process = run("--shape", "tiny", "--out", str(out), *names, limit=600)
    return process, [json.loads(line) for line in out.read_text().splitlines()]


def test_every_part_runs_at_the_tiny_shape(
    parts: tuple[subprocess.CompletedProcess[str], list[dict[str, Any]]],
) -> None:
    process, rows = parts
    assert process.returncode == 0, process.stderr
    assert [row["part"] for row in rows] == [name for name in PARTS if name != "server"]
    for row in rows:
        assert all(math.isfinite(value) for value in row["figures"].values()) and row["shape"] == "tiny"
    found = {row["part"]: row["figures"] for row in rows}
    assert all(found[step]["tokens_per_s"] > 0 for step in ("sft", "sft_packed", "sft_logits", "align", "grpo"))
    assert found["checkpoint"]["loss_difference"] < 1e-6 and found["checkpoint"]["write_s"] > 0
    assert found["merge"]["parameters"] > 100_000
    figures = json.loads(process.stdout.splitlines()[-1])["figures"]
    assert figures["tiny_sft_tokens_per_s"]["value"] > 0
    assert "mfu" not in str(figures)  # a CPU has no peak to compare with


def test_a_part_that_fails_or_is_late_is_a_row_and_the_next_one_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each part is a process of its own: here one that raises, one that waits for ever, and one that measures."""
    from bench.gpu import __main__ as bench

    ends = {
        "sft": "raise SystemExit('CUDA error: invalid device ordinal')",
        "align": "import time; time.sleep(600)",
        "merge": "import json, pathlib, sys; pathlib.Path(sys.argv[3], 'row.json').write_text(json.dumps({'seconds': 2.0}))",
    }
    real = subprocess.Popen

    def started(command: list[str], **options: Any) -> Any:
        return real([sys.executable, "-c", ends[command[4]], *command[3:]], **options)

    monkeypatch.setattr(bench.subprocess, "Popen", started)
    monkeypatch.setattr(
        bench, "_wait", lambda ranks, end, wait=bench._wait: wait(ranks, min(end, time.monotonic() + 5))
    )
    out = tmp_path / "rows.jsonl"
    code = bench.main(["--shape", "tiny", "--out", str(out), "sft", "align", "merge"])
    rows = {row["part"]: row for row in map(json.loads, out.read_text().splitlines())}
    assert code == 1 and list(rows) == ["sft", "align", "merge"]
    assert rows["sft"]["error"] == "a rank ended with 1" and "invalid device ordinal" in rows["sft"]["last"][0]
    assert "time was up" in rows["align"]["error"] and rows["merge"]["figures"] == {"seconds": 2.0}
    said = capsys.readouterr()
    assert "2 parts failed: sft, align" in said.err and json.loads(said.out.splitlines()[-1])["figures"]
