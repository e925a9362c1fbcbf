"""What a person looks at before training: `diagcot shards info` and the contact sheet of `diagcot shards show`."""

import io
import os
import re
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from rich.console import Console

from diagcot.cli import main as cli
from diagcot.console.screens import shards as shards_screen
from diagcot.data.phantom.drawing import draw
from diagcot.data.phantom.findings import Effusion, Findings
from diagcot.data.pixels import Jpeg
from diagcot.data.study import SPLITS, Image, Study
from diagcot.jobs import UserError
from diagcot.shards import shard_paths
from diagcot.shards.writer import ShardWriter

REPO = Path(__file__).parents[3]
STUDIES = 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards; study k has k words of findings, every third an effusion with its box, one image was left out."""
    root = tmp_path_factory.mktemp("shards")
    for part in range(2):
        with ShardWriter(root / f"{part:05d}.h5", image_size=96) as writer:
            for k in range(part, STUDIES, 2):
                findings = Findings(effusions=(Effusion("left", "large"),)) if k % 3 == 0 else Findings()
                image = draw(str(k), findings, "PA", 96)
                study = Study(
                    dataset="phantom", id=f"s{k}", patient=f"p{k}", split=SPLITS[k % 10 % 3], findings="word " * k,
                    labels=findings.labels() | {"Edema": -1}, images=(Image(f"f{k}", "PA", 96, 96, image.boxes, True),),
                )  # fmt: skip
                writer.add(study, [Jpeg(image.jpeg(), 96, 96, True)])
            if part:
                writer.leave_out("phantom/s99", "f99", "it is not a readable image (OSError: image file is truncated)")
    return root


def printed(folder: Path, width: int = 80) -> str:
    out = io.StringIO()
    shards_screen.show(shard_paths(folder), Console(file=out, width=width, highlight=False))
    return out.getvalue()


def test_info_counts_what_the_shards_hold(folder: Path) -> None:
    screen = printed(folder)
    assert "2 shards" in screen and "30 images of 30 studies; 15 to 15 images per shard" in screen
    assert "96 pixels, schema 3, code " in screen
    splits = [SPLITS[k % 10 % 3] for k in range(STUDIES)]
    for split in SPLITS:
        count = splits.count(split)
        assert re.search(rf"^{split} +{count} +{count} +{count}$", screen, re.M), split
    assert re.search(r"^Pleural Effusion +10 +33\.3% +20 +0 +0 *$", screen, re.M)
    assert re.search(r"^Edema +0 +0\.0% +0 +30 +0 *$", screen, re.M)
    words = {"none": 1, "1-9": 9, "10-19": 10, "20-39": 10, "40-59": 0}
    for name, count in words.items():
        assert re.search(rf"^{name} +{count}\b", screen, re.M), name
    assert "images left out: 1\n  1: it is not a readable image" in screen
    assert "boxes: Pleural Effusion 10" in screen and "phantoms (drawn images, not of patients): 30" in screen
    assert max(map(len, screen.splitlines())) <= 80


def test_info_is_plain_when_piped_and_does_not_wait_for_torch(folder: Path) -> None:
    code = "import sys; from diagcot.cli import main as cli; cli.main(sys.argv[1:]); assert 'torch' not in sys.modules"
    for action in (["info"], ["show", "--out", str(folder / "x.png")]):
        command = [sys.executable, "-c", code, "shards", *action, str(folder)]
        environment = os.environ | {"PYTHONPATH": str(REPO), "PYTHONIOENCODING": "ascii", "COLUMNS": "80"}
        done = subprocess.run(command, capture_output=True, env=environment, check=True, timeout=120)
        lines = done.stdout.replace(str(folder).encode(), b"").splitlines()
        assert b"\x1b" not in done.stdout and max(map(len, lines)) <= 120
    (folder / "x.png").unlink()


def test_nothing_to_show_is_reported(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for action in ("info", "show"):
        assert cli.main(["shards", action, str(tmp_path)]) == 1
        assert "error: " in capsys.readouterr().err
    with pytest.raises(UserError, match="no shards"):
        shards_screen.show([])
    assert cli.main(["shards", "show", str(folder), "--out", str(tmp_path / "no" / "x.png")]) == 1
    assert "--out" in capsys.readouterr().err


def test_the_contact_sheet_shows_images_and_boxes_to_the_user_alone(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    out.touch(0o644)
    assert cli.main(["shards", "show", str(folder), "--out", str(out), "--count", "12"]) == 0
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    with Pillow.open(out) as sheet:
        values = np.asarray(sheet.convert("RGB")).astype(int)
    assert values.shape == (2 * (240 + 8 + 46) + 8, 6 * (240 + 8) + 8, 3)
    images = [values[y : y + 240, x : x + 240] for y in (8, 302) for x in range(8, 6 * 248, 248)]
    assert all(image.std() > 20 for image in images)
    orange = [bool((np.abs(image - [255, 170, 0]).sum(2) == 0).sum() > 100) for image in images]
    assert sum(orange) >= 6
    first = out.read_bytes()
    cli.main(["shards", "show", str(folder), "--out", str(out), "--count", "12"])
    assert out.read_bytes() == first
    cli.main(["shards", "show", str(folder), "--out", str(out), "--count", "12", "--seed", "1"])
    assert out.read_bytes() != first
    assert cli.main(["shards", "show", str(folder), "--split", "test"]) == 0
    assert (folder / "contact.png").exists()
    (folder / "contact.png").unlink()


def test_a_patient_in_two_splits_is_reported(tmp_path: Path) -> None:
    study = Study("phantom", "1", "p", "train", images=(Image("f"),))
    with ShardWriter(tmp_path / "a.h5") as writer:
        writer.add(study, [Jpeg(b"", 1, 1, False)])
        writer.add(replace(study, id="2", split="test"), [Jpeg(b"", 1, 1, False)])
    assert "patients in more than one split: 1" in printed(tmp_path)
