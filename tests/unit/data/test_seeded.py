"""Seeded choices: fixed by their keys, and the same numbers as in runs of earlier versions."""

import hashlib

import numpy as np
import pytest

from diagcot.data import seeded


def test_numbers_of_earlier_versions() -> None:
    """Splits, shards, questions, held-out samples and phantoms of existing runs depend on these numbers."""
    assert seeded.rank("patient", bits=128) == 43639248571971466561821111081911318913
    assert seeded.rank(7, "mimic-cxr/1", "binary") == 11274149642087942434
    assert (
        seeded.rank(7, "sample", separator="/", algorithm="sha256")
        == 4406754820159847615160086045349987140686039603950025908429531594146829868405
    )
    assert seeded.uniform("iu-xray/CXR1") == 0.11814573112432811
    assert seeded.generator("build", 0, "study").random() == 0.31866539279837525


def test_ranks_sort_as_their_digests_do() -> None:
    names = [str(number) for number in range(500)]
    digests = sorted(names, key=lambda name: hashlib.blake2b(name.encode(), digest_size=8).digest())
    assert sorted(names, key=seeded.rank) == digests


@pytest.mark.parametrize("bits", [32, 48, 64, 128])
def test_uniform_fills_the_unit_interval(bits: int) -> None:
    values = np.array([seeded.uniform(number, bits=bits) for number in range(4000)])
    assert 0 <= values.min() < 0.01 and 0.99 < values.max() < 1
    assert np.histogram(values, 10, (0, 1))[0].min() > 330


def test_keys_are_apart_from_each_other() -> None:
    assert seeded.rank("a", "bc") != seeded.rank("ab", "c") and seeded.rank(1, "a") != seeded.rank("a", 1)
