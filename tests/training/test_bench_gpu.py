"""`make bench-gpu` without a GPU: it says so, and its code path is whole at the tiny shape."""

import json
import math
import os
import subprocess
import sys

import pytest

from launchers.chain import ROOT

pytestmark = pytest.mark.heavy


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "bench.gpu", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def test_without_a_gpu_it_says_so() -> None:
    process = run("--shape", "7b")
    assert process.returncode == 1 and process.stdout == ""
    assert process.stderr.strip() == "no GPU here: 7b is measured on one; SHAPE=tiny runs on a CPU"


def test_every_step_runs_at_the_tiny_shape() -> None:
    process = run("--shape", "tiny")
    assert process.returncode == 0, process.stderr
    figures = json.loads(process.stdout.splitlines()[-1])["figures"]
    speeds = [figures[f"tiny_{step}_tokens_per_s"]["value"] for step in ("sft", "align", "grpo")]
    assert all(math.isfinite(speed) and speed > 0 for speed in speeds)
    assert "mfu" not in str(figures)  # a CPU has no peak to compare with
