"""The Java tokeniser, every way for it to break, and published predictions to the last digit."""

import stat
from pathlib import Path

import numpy as np
import pytest

from diagcot.metrics import java, text

PUBLISHED = Path(__file__).parents[4] / "shared" / "data" / "metrics_aamn_r2gen590"


@pytest.fixture(scope="module")
def published():
    if not PUBLISHED.exists():
        pytest.skip(f"the published predictions are not at {PUBLISHED}")
    return [(PUBLISHED / name).read_text().splitlines() for name in ("res.csv", "gts.csv")]


def test_published_predictions_to_the_last_digit(published):
    hyps, refs = published
    expected = [0.4663585002567814, 0.30406670439818306, 0.21196702724455507, 0.1550815136619543]
    np.testing.assert_allclose(text.bleu(hyps, refs), expected, atol=1e-12, rtol=0)
    assert text.rouge_l(hyps, refs).mean() == pytest.approx(0.3579692959728304, abs=1e-12, rel=0)
    assert text.cider(hyps, refs).mean() == pytest.approx(0.3367191843236283, abs=1e-12, rel=0)


def fake_java(tmp_path, monkeypatch, script):
    program = tmp_path / "java"
    program.write_text("#!/bin/sh\n" + script)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(java, "java", lambda: program)


@pytest.mark.parametrize("script", ["exit 3", "echo one line only", "exec sleep 30"])
def test_a_broken_tokeniser_is_told_in_time(tmp_path, monkeypatch, script):
    fake_java(tmp_path, monkeypatch, script)
    with pytest.raises(java.JavaError, match="Java tokeniser"):
        java.tokenize(["a secret", "another"], deadline_s=0.5)


def test_no_java_says_what_to_do(monkeypatch):
    monkeypatch.setattr(java.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(java.shutil, "which", lambda name: None)
    with pytest.raises(java.JavaError, match="make env"):
        java.java()
    with pytest.raises(java.JavaError, match="make env"):
        java.tokenize(["a"])
