"""The Java tokeniser and METEOR: published predictions to the last digit, and every way for Java to break."""

import stat
import time
from pathlib import Path

import numpy as np
import pytest

from diagcot.metrics import java, text
from diagcot.metrics.meteor import COUNTS, Meteor, meteor_of
from diagcot.metrics.tokens import words

PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "metrics_aamn_r2gen590"


@pytest.fixture(scope="module")
def meteor():
    try:
        java.java()
    except java.JavaError as missing:
        pytest.skip(str(missing))
    with Meteor() as process:
        yield process


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


@pytest.mark.heavy
def test_published_meteor_to_the_last_digit(published, meteor):
    hyps, refs = published
    assert meteor_of(meteor.counts(hyps, refs).sum(axis=0)) == pytest.approx(0.18996068408389744, abs=1e-9, rel=0)


@pytest.mark.heavy
def test_meteor_of_odd_texts(meteor):
    hyps = ["the heart is large", "", "a ||| b", "naïve café", "line\none", "<unk> 5 %"]
    refs = ["the heart is large", "the heart", "a b", "naïve café", "line one", "<unk> 5 %"]
    scores = meteor_of(meteor.counts(hyps, refs))
    np.testing.assert_allclose(scores, [1, 0, 1, 1, 1, 1])
    assert meteor.counts([], []).shape == (0, COUNTS)
    assert meteor_of(meteor.counts(["the heart is big"], ["the heart is large"]))[0] > 0.3  # a synonym


@pytest.mark.heavy
def test_tokens_of_the_treebank(meteor):
    texts = [
        "The patient's heart (big) isn't normal.",
        "",
        "Two\nlines\u2028and\x0b three",
        "<unk> 12/24; 2.5 cm",
        "cannot exclude",
    ]
    expected = [
        "the patient 's heart -lrb- big -rrb- is n't normal",
        "",
        "two lines and three",
        "<unk> 12/24 2.5 cm",
        "can not exclude",
    ]
    assert java.tokenize(texts) == expected
    assert [words(text) for text in texts] == expected
    assert java.tokenize([]) == []


def fake_java(tmp_path, monkeypatch, script):
    program = tmp_path / "java"
    program.write_text("#!/bin/sh\n" + script)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(java, "java", lambda: program)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exec sleep 30", "no answer in 0 s"),
        ("echo 'Could not reserve heap' >&2; exit 1", "ended with 1 after 0 of 2 answers.*Could not reserve heap"),
        ("echo 1 2 3; echo 1 2 3; cat >/dev/null", "3 words where 23 numbers"),
        ("echo oh no; echo no; cat >/dev/null", "2 words where 23 numbers"),
    ],
)
def test_a_broken_meteor_is_told_in_time(tmp_path, monkeypatch, script, message):
    fake_java(tmp_path, monkeypatch, script)
    started = time.monotonic()
    with pytest.raises(java.JavaError, match=message), Meteor(start_s=0.3, answer_s=0.3) as process:
        process.counts(["a secret", "c"], ["b", "d"])
    assert time.monotonic() - started < 5


def test_more_text_than_a_pipe_holds_does_not_block(tmp_path, monkeypatch):
    fake_java(tmp_path, monkeypatch, f"while read line; do echo {' '.join(['0'] * COUNTS)}; done")
    hyps = [f"word {i} " * 100 for i in range(400)]
    with Meteor(start_s=20) as process:
        assert process.counts(hyps, hyps).shape == (400, COUNTS)


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
