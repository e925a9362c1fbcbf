"""Choices that depend on a seed and on the ids of what is chosen, and on nothing else.

Each choice is a hash of its keys. So it does not depend on the order in which samples are read, on the other samples,
or on the number of workers, and it is the same on every machine.

The separator between the keys, the number of bits and the hash function differ between callers. They are arguments,
not one convention, because each of them decides data that runs have already written: splits, shards, questions, held-out
samples and the images of phantoms would all change with it. New callers leave them at their defaults.
"""

import hashlib
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np


def rank(
    *keys: object, separator: str = "\0", bits: int = 64, algorithm: Literal["blake2b", "sha256"] = "blake2b"
) -> int:
    """A number from 0 to 2**bits - 1 that is fixed by `keys`: to sort by, or to pick with a remainder.

    bits: a multiple of 8 up to 512. `sha256` always gives 256 bits.
    """
    text = separator.join(map(str, keys)).encode()
    digest = hashlib.sha256(text) if algorithm == "sha256" else hashlib.blake2b(text, digest_size=bits // 8)
    return int.from_bytes(digest.digest(), "big")


def uniform(*keys: object, bits: int = 64) -> float:
    """A number in [0, 1) that is fixed by `keys`."""
    return float(rank(*keys, bits=bits) / 2**bits)


def generator(*keys: object) -> "np.random.Generator":
    """A numpy generator whose stream is fixed by `keys`."""
    import numpy as np  # commands that only plan read this module, and must not wait for numpy

    return np.random.Generator(np.random.Philox(rank(*keys, separator=":", bits=128)))
