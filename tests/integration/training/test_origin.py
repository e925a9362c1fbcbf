"""A stage goes on only from checkpoints that were made of its own settings, data, weights and code."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from diagcot.jobs.environment import code
from diagcot.jobs.testing import context
from diagcot.training.checkpoint import origin
from diagcot.training.checkpoint.checkpoint import Checkpoints
from diagcot.training.checkpoint.origin import Origin
from diagcot.training.config.settings import DeepSpeedSettings, SftSettings
from diagcot.training.models import pretrained
from tests.faults.scenarios import checkpoints as scenario
from tests.training import images

SETTINGS = SftSettings(trainable=("merger",), deepspeed=DeepSpeedSettings(steps=9, learning_rate=1e-3))
OWN = Origin(SETTINGS, seed=7, data="samples", model="weights", code="0123456789ab")


@pytest.fixture
def alone() -> Iterator[None]:
    scenario.alone()
    yield
    torch.distributed.destroy_process_group()


def saved(root: Path, made_of: Origin, step: int) -> None:
    engine: Any = scenario.Engine(step)
    with Checkpoints(context(root), engine, made_of, keep=2) as checkpoints:
        checkpoints.save(step, {"epoch": step})


def resumed(root: Path, made_of: Origin) -> int | None:
    engine: Any = scenario.Engine()
    found = Checkpoints(context(root), engine, made_of, keep=2).resume()
    assert found is None or float(engine.weights[0]) == found[0]
    return found[0] if found else None


def with_deepspeed(**changes: Any) -> Origin:
    settings = SETTINGS.model_copy(update={"deepspeed": SETTINGS.deepspeed.model_copy(update=changes)})
    return OWN._replace(settings=settings)


@pytest.mark.parametrize(
    ("now", "why"),
    [
        (with_deepspeed(learning_rate=1e-4), "deepspeed.learning_rate 0.001 (now 0.0001)"),
        (with_deepspeed(global_batch=32), "deepspeed.global_batch 64 (now 32)"),
        (OWN._replace(settings=SETTINGS.model_copy(update={"trainable": ("vision",)})), "trainable ['merger']"),
        (OWN._replace(seed=8), "seed"),
        (OWN._replace(data="others"), "data"),
        (OWN._replace(model="others"), "model"),
        (OWN._replace(code="ba9876543210"), "code"),
        (OWN._replace(code=""), "code"),
    ],
)
def test_checkpoints_of_another_training_are_set_aside(
    now: Origin, why: str, alone: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path, OWN, 4)
    assert resumed(tmp_path, now) is None
    work = context(tmp_path).workspace
    (place,) = work.glob("checkpoints-of-*")
    assert (place / "step-00000004").is_dir() and not (work / "checkpoints").exists()
    printed = capfd.readouterr().out
    assert str(place) in printed and why in printed
    rows = [json.loads(line) for line in (context(tmp_path).stage_dir / "events.jsonl").read_text().splitlines()]
    (event,) = [row for row in rows if row["event"] == "checkpoint_set_aside"]
    assert event["checkpoint"] == "step-00000004" and why in event["why"]
    saved(tmp_path, now, 2)  # training begins at its first step, and its own checkpoints count
    assert resumed(tmp_path, now) == 2


def test_the_same_training_goes_on(alone: None, tmp_path: Path) -> None:
    saved(tmp_path, OWN, 4)
    assert resumed(tmp_path, OWN) == 4
    rare = with_deepspeed(
        save_every=7,
        keep=1,
        async_save=False,
        micro_batch=4,
        micro_batch_tokens=2048,
        offload=True,
        gradient_checkpointing=True,
    )
    assert resumed(tmp_path, rare._replace(settings=rare.settings.model_copy(update={"image_cache_mb": 1}))) == 4


def test_code_that_the_run_was_given_later_goes_on(alone: None, tmp_path: Path) -> None:
    """`make retry CODE=new` keeps the snapshot of the code before; a run that was removed has lost it."""
    saved(tmp_path, OWN, 4)
    (context(tmp_path).stage_dir.parent / code.FOLDER / OWN.code).mkdir(parents=True)
    assert resumed(tmp_path, OWN._replace(code="ba9876543210")) == 4


def test_a_checkpoint_that_says_nothing_is_set_aside(
    alone: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path, OWN, 4)
    manifest = context(tmp_path).workspace / "checkpoints" / "step-00000004" / "part-0.json"
    row = json.loads(manifest.read_text())
    del row["origin"], row["checksum"]
    from diagcot.training.checkpoint import shard

    manifest.write_text(json.dumps({**row, "checksum": shard._checksum(row)}))
    assert resumed(tmp_path, OWN) is None
    assert "does not say what it was made of" in capfd.readouterr().out


def test_settings_of_older_code_are_read_as_todays(tmp_path: Path) -> None:
    old = OWN.record()
    old["settings"]["deepspeed"]["clip"] = old["settings"]["deepspeed"].pop("gradient_clipping")
    del old["settings"]["deepspeed"]["adam_beta2"]
    assert OWN.differences(old, tmp_path) == []
    old["settings"]["gone"] = 1
    assert OWN.differences(old, tmp_path) == ["settings that this version does not know"]


def test_digests_tell_data_and_weights_apart(alone: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import load_file, save_file

    from diagcot.training.config.settings import ModelSettings
    from diagcot.training.models import tiny

    base, ctx, samples = tmp_path / "base", context(tmp_path), images.samples(4)
    tiny.build(ModelSettings(), [text for sample in samples for _, text in sample.messages], base)
    monkeypatch.setenv(code.VARIABLE, str(tmp_path / "logs" / "run" / code.FOLDER / "0123456789ab"))
    own = origin.of(ctx, SETTINGS, samples, base)
    assert own == origin.of(ctx, SETTINGS, images.samples(4), base) and own.code == "0123456789ab"
    changed = [replace(samples[0], messages=(("user", "<image>"), ("assistant", "other"))), *samples[1:]]
    for other in (samples[::-1], samples[:3], changed):
        assert origin.of(ctx, SETTINGS, other, base).data != own.data

    weights = load_file(base / "model.safetensors")
    for name in ("visual.merger.mlp.0.weight", "lm_head.weight"):  # as after a stage that trains this part alone
        copy = shutil.copytree(base, tmp_path / name)
        assert pretrained.digest(copy) == own.model
        save_file({**weights, name: weights[name] * 1.001}, copy / "model.safetensors", {"format": "pt"})
        assert pretrained.digest(copy) != own.model
    (base / "diagcot.json").write_text("{}")
    assert pretrained.digest(base) == own.model
    (base / "chat_template.jinja").write_text("other")
    assert pretrained.digest(base) != own.model
