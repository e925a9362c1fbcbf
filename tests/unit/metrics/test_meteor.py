"""METEOR without Java: its parts by hand, and its counts against the Java program's."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from diagcot.evaluation.failures import unmatched
from diagcot.evaluation.scores.text_tools import TextTools, meteor_metric
from diagcot.jobs.errors import StorageError
from diagcot.jobs.state import reading
from diagcot.metrics import java
from diagcot.metrics.intervals import Bootstrap
from diagcot.metrics.meteor import meteor
from diagcot.metrics.meteor.meteor import COUNTS, MeteorError, counts, meteor_of
from diagcot.metrics.meteor.stems import stem

PUBLISHED = Path(__file__).parents[4] / "shared" / "data" / "metrics_aamn_r2gen590"


def test_published_meteor_to_the_last_digit():
    if not PUBLISHED.exists():
        pytest.skip(f"the published predictions are not at {PUBLISHED}")
    hyps, refs = ((PUBLISHED / name).read_text().splitlines() for name in ("res.csv", "gts.csv"))
    assert meteor_of(counts(hyps, refs).sum(axis=0)) == pytest.approx(0.18996068408389744, abs=1e-12, rel=0)


def test_odd_texts():
    hyps = ["the heart is large", "", "a ||| b", "naïve café", "line\none", "<unk> 5 %"]
    refs = ["the heart is large", "the heart", "a b", "naïve café", "line one", "<unk> 5 %"]
    np.testing.assert_allclose(meteor_of(counts(hyps, refs)), [1, 0, 1, 1, 1, 1])
    assert counts([], []).shape == (0, COUNTS)
    with pytest.raises(ValueError, match="one reference each"):
        counts(["a"], [])


def test_words_may_be_forgotten(monkeypatch):
    pair = ["the heart is enlarging", "no effusion"], ["the heart is enlarged", "no fluid"]
    before = counts(*pair)
    monkeypatch.setattr("diagcot.metrics.meteor.lexicon._WORDS", 1)
    for _ in range(2):
        np.testing.assert_array_equal(counts(*pair), before)


def test_many_texts_are_counted_as_each_by_itself():
    known = "the heart is enlarged enlarging big large lung lungs clear no effusion fluid of a number several"
    words = known.split()
    texts = [" ".join(words[place % 17 :: 1 + place % 5] * (1 + place % 3)) for place in range(600)]
    refs = texts[::-1]
    together = counts(texts, refs)
    np.testing.assert_array_equal(
        together, np.concatenate([counts([a], [b]) for a, b in zip(texts, refs, strict=True)])
    )


@pytest.mark.parametrize(
    ("hyp", "ref", "kind"),
    [("lungs", "lungs", 0), ("frobbing", "frobs", 1), ("infirmary", "hospital", 2), ("a number of", "several", 3)],
)
def test_every_kind_of_match(hyp, ref, kind):
    matches = counts([hyp], [ref])[0, 4:20].reshape(4, 4)
    assert matches[kind].sum() == matches.sum() > 0


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        *[("enlargement", "enlarg"), ("opacities", "opac"), ("hopping", "hop"), ("hoping", "hope"), ("skies", "sky")],
        *[("generically", "generic"), ("rational", "ration"), ("y", "y"), ("sayings", "say"), ("'s", "'s")],
        *[("added", "ad"), ("evening", "even"), ("emergency", "emerg")],  # as in METEOR 1.5; Snowball 3 differs
    ],
)
def test_stems(word, expected):
    assert stem(word) == expected


def test_broken_files_are_told(tmp_path, monkeypatch):
    (tmp_path / "meteor-1.5.jar").write_bytes(b"no jar")
    monkeypatch.setattr(meteor, "jar", lambda name: tmp_path / "meteor-1.5.jar")
    with pytest.raises(MeteorError, match="make env"):
        meteor.read_lexicon()

    def missing(name):
        raise java.JavaError("meteor-1.5.jar of the pycocoevalcap wheel is missing")

    monkeypatch.setattr(meteor, "jar", missing)
    with pytest.raises(MeteorError, match="wheel is missing"):
        meteor.read_lexicon()


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EACCES, errno.EMFILE])
@pytest.mark.parametrize("part", ["meteor-1.5.jar", "paraphrase-en.gz"])
def test_a_storage_that_fails_is_told_as_that(part, number, monkeypatch):
    class Failing(reading.File):
        def __init__(self, path):
            if path.name == part:
                raise OSError(number, os.strerror(number), str(path))
            super().__init__(path)

    monkeypatch.setattr(reading, "File", Failing)
    monkeypatch.setattr(reading, "PAUSES", ())
    with pytest.raises(StorageError, match=rf"{part}: .*{errno.errorcode[number]}.*no damage of the file") as told:
        meteor.read_lexicon()
    assert "install" not in str(told.value)


def test_of_several_references_the_best_counts_and_a_failed_request_matches_none():
    """As METEOR's own program scores several references, each sample by its best one."""
    hyp, refs = "the heart is large", ("no effusion is seen", "the heart is large", "a nodule")
    known = TextTools().meteor([(hyp, ref) for ref in refs])
    both = meteor_metric([[(hyp, ref) for ref in refs], [(hyp, refs[0])]], known)
    assert Bootstrap(["a", "b"]).value(both) == pytest.approx(
        meteor_of(known[hyp, refs[1]] + known[hyp, refs[0]]), abs=1e-12
    )
    lost = counts([unmatched(refs[1])], [refs[1]])[0]
    assert lost[0] == lost[1] == 4 and meteor_of(lost) == 0
    assert meteor_of(lost + known[hyp, refs[1]]) < meteor_of(known[hyp, refs[1]])


def test_a_whole_match_is_not_fragmented_in_sums_either():
    """pycocoevalcap's corpus score, of Java: the chunk of the text that matches as a whole does not count."""
    rows = counts(["the heart is large", "no effusion is seen"], ["the heart is large", "no pleural effusion"])
    assert rows[0, 20] == 0 < rows[1, 20]
    assert meteor_of(rows[0]) == pytest.approx(1)
