"""`make plan` and `DRY=1`: what they show, how fast, and without torch, data or Slurm."""

import io
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from diagcot.console import text
from diagcot.console.screens import plan as plan_screen
from diagcot.jobs.forecast import Forecast
from diagcot.shards import storage as shard_storage
from diagcot.shards.settings import BuildSettings
from diagcot.training import cost
from diagcot.training.config.settings import DeepSpeedSettings, LoraSettings, ModelSettings
from tests.unit.console.console_run import SIZE, fake_slurm

ROOT = Path(__file__).parents[3]
DEEPSPEED = DeepSpeedSettings(steps=1, keep=2, precision="bf16")


def plan(stage: str, root: str, **more: Any) -> dict[str, Any]:
    made = {"stage": stage, "number": "eval", "units": 1, "tasks": 1, "after": [], "resources": SIZE}
    return made | {"output": f"{root}/{stage}"} | more


def test_space_starts_and_warnings_are_sentences() -> None:
    forecast = Forecast(
        storage={"shard": 41_000_000_000, "cot": None, "sft": 6_400_000},
        work={"sft": 20_000_000},
        free=dict.fromkeys(("shard", "cot", "sft"), 78_000_000_000),
        starts={"shard": "2026-01-02T05:00:00", "sft": "2026-01-02T03:00:10", "cot": ""},
        warnings=["cot: too short"],
        notes=["cot: 3000 tasks are split into 3 arrays"],
        unknown=["limits of the queue: no answer"],
    )
    now = time.mktime((2026, 1, 2, 3, 0, 0, 0, 0, -1))
    plans = [plan("shard", "/s"), plan("cot", "/s"), plan("sft", "/m")]
    assert list(plan_screen.expected(plans, forecast, now)) == [
        "/s: about 41 GB will be written (shard 41 GB); what cot will write is not known; 78 GB free",
        "/m: about 6.4 MB will be written (sft 6.4 MB); and for a time up to 20 MB of checkpoints (sft); 78 GB free",
        "shard would start in 2:00:00, at 2026-01-02 05:00:00",
        "sft would start immediately",
        "cot: 3000 tasks are split into 3 arrays",
        "! cot: too short",
        "? limits of the queue: no answer",
    ]


def test_no_column_is_lost_at_80_columns() -> None:
    follows = [{"stage": f"a-long-name-{k}", "each": False} for k in range(6)]
    big = SIZE | {"nodes": 4, "gpus": 1, "tasks_per_node": 8, "minutes": 720}
    plans = [plan("a-stage-of-a-very-long-name", "/s", after=follows, units=1_000_000, tasks=4000, resources=big)]
    out = io.StringIO()
    screen = Console(width=80, file=out)
    screen.print(plan_screen.render(plans, screen))
    head, row = out.getvalue().splitlines()[:2]
    assert max(len(head), len(row)) <= 80
    assert head.split()[-4:] == ["tasks", "task", "limit", "GPU-h"]
    assert "4 × 8 GPU 12 h " in " ".join(row.split()) + " " and "1M" in row and "eval" in row and "1.54M" in row


@pytest.mark.parametrize(
    ("count", "shown"), [(12, "12 B"), (3_400, "3.4 kB"), (57_710_592, "58 MB"), (2.5e9, "2.5 GB"), (1e13, "10 TB")]
)
def test_sizes(count: float, shown: str) -> None:
    assert text.size(count) == shown


def test_space_for_shards_is_that_of_their_films() -> None:
    mimic = {"kind": "mimic_cxr", "path": "/m"}
    whole = shard_storage.shards(BuildSettings(sources=[mimic], image_size=1024), {})
    assert 30e9 < whole < 45e9  # 377,110 films of about 100 kB
    part = shard_storage.shards(BuildSettings(sources=[mimic | {"max_studies": 1000}], image_size=512), {})
    assert 1000 * 1.65 * 33_300 < part < 1000 * 1.66 * 33_300 + 1_600_000
    drawn = BuildSettings(sources=[{"kind": "mimic_cxr", "input": "phantoms", "frontal_only": True}], image_size=112)
    assert 7e6 < shard_storage.shards(drawn, {"phantoms": (2000, 4000)}) < 11e6


def test_space_for_weights_is_that_of_checkpoints_too(tmp_path: Path) -> None:
    tiny = cost.shape_of(ModelSettings())
    assert cost.model_storage(ModelSettings()) == 4 * sum(tiny.counts.values())
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_5_vl"}')
    header = b'{"a":{"dtype":"U8","shape":[1900],"data_offsets":[0,1900]}}'
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(1900))
    assert cost.model_storage(ModelSettings(pretrained=tmp_path)) == 8 + len(header) + 1900
    whole, merger, adapter = sum(tiny.counts.values()), tiny.counts["merger"], tiny.lora(LoraSettings())
    for trainable, lora, product, trained in (
        (list(tiny.counts), None, whole, whole),
        (["merger"], None, whole, merger),
        (["lora"], LoraSettings(), adapter, adapter),
    ):
        assert cost.training_storage(tiny, trainable, lora, DEEPSPEED) == product * 2
        assert cost.checkpoint_storage(tiny, trainable, lora, DEEPSPEED) == 3 * trained * 14


def diagcot(*arguments: str, path: str = "") -> subprocess.CompletedProcess[str]:
    """The command at 80 columns, which must not import torch."""
    code = (
        "import sys; from diagcot.cli import main as cli; end = cli.main(sys.argv[1:]);"
        "sys.exit('torch was imported' if 'torch' in sys.modules else end)"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "80", "PATH": f"{path}:{os.environ['PATH']}"}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_without_slurm_the_plan_is_shown_with_what_could_not_be_asked(tmp_path: Path) -> None:
    away = "!error: Unable to contact slurm controller (connect failure)\n"
    commands = fake_slurm(tmp_path / "bin", **dict.fromkeys(("sinfo", "scontrol", "squeue", "sbatch"), away))
    plain = diagcot("plan", "--cluster", "example", path=str(commands))
    assert "? Slurm did not answer" in plain.stdout
    assert "phantoms" in plain.stdout and "nothing was submitted" in plain.stdout
    assert "\x1b" not in plain.stdout and "#SBATCH" not in plain.stdout
    dry = diagcot("submit", "--dry", "--cluster", "example", "--stage", "2", path=str(commands))
    assert dry.stdout.count("#SBATCH --job-name=tiny.") == 5
    calls = (commands / "calls").read_text().splitlines()
    assert all("--test-only" in line for line in calls if line.startswith("sbatch"))


def test_what_is_lacking_is_a_warning_of_the_plan(tmp_path: Path) -> None:
    recipe = (ROOT / "recipes" / "tiny.yaml").read_text().replace("path: data/iu_xray", f"path: {tmp_path}/none")
    (tmp_path / "r.yaml").write_text(recipe)
    shown = diagcot("plan", "--recipe", str(tmp_path / "r.yaml"))
    assert (
        re.search(r"r.yaml:\d+: The data is not complete", shown.stdout.replace("\n", ""))
        and f"{tmp_path}/none" in shown.stdout
    )
    assert not list((ROOT / "logs").glob("r/run.json"))
