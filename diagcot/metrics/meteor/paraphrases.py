"""METEOR's paraphrase table as hashes, computed once for a user and then mapped into memory, where processes share it.

Reading the table takes some three seconds of processor and 390 MB; mapping what was read takes no time that could be measured.
The files lie beside the compiled code, in a folder named after the content of the table and of the sources that read it.
"""

import gzip
import hashlib
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diagcot.jobs.environment import compiled
from diagcot.jobs.state import reading
from diagcot.jobs.state.files import remove
from diagcot.metrics.meteor import phrases


class Paraphrases(NamedTuple):
    """Sorted hashes of phrases, buckets of them, what each is put as, the words of that, the most words of a phrase.

    Two of the table's phrases, or of a text's, share 64 bits of hash with a probability below 1e-5.
    """

    keys: NDArray[np.uint64]
    buckets: NDArray[np.int32]
    values: NDArray[np.uint64]
    lengths: NDArray[np.uint8]
    most: int


def load(table: Path) -> Paraphrases:
    """The paraphrases of METEOR's `paraphrase-en.gz`, from the cache, which is filled if it can be written.

    Raises StorageError, and OSError or EOFError where the table is missing or broken.
    """
    digest = hashlib.sha256(Path(__file__).read_bytes() + Path(phrases.__file__).read_bytes())
    for block in reading.blocks(table, 1 << 20):
        digest.update(block)
    folder = compiled.cache_folder() / f"paraphrases-{digest.hexdigest()[:32]}"
    if (cached := _mapped(folder)) is not None:
        return cached
    read = _read(table)
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(read, folder)
    except OSError:  # without a cache each process reads the table
        return read
    return _mapped(folder) or read


def _mapped(folder: Path) -> Paraphrases | None:
    """The cached table, or None if it is absent, cut short, or could have been written by others."""
    try:
        compiled.require_own(folder)
        # Mode c, although nothing writes: the compiled code takes arrays that could be written.
        keys, buckets, values, lengths = (
            np.asarray(np.load(folder / f"{name}.npy", mmap_mode="c")) for name in Paraphrases._fields[:-1]
        )
        return Paraphrases(keys, buckets, values, lengths, int(np.load(folder / "most.npy")))
    except (OSError, ValueError, EOFError):
        return None


def _write(table: Paraphrases, folder: Path) -> None:
    staged = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        for name, part in zip(Paraphrases._fields, table, strict=True):
            with (staged / f"{name}.npy").open("wb") as file:
                np.save(file, np.asarray(part))
                file.flush()
                os.fsync(file.fileno())
        remove(folder, compiled.cache_folder())  # a damaged one
        staged.rename(folder)
    finally:
        remove(staged, compiled.cache_folder())


def _unpacked(table: Path) -> bytes:
    with reading.opened(table) as file, gzip.open(file) as unpacked:
        return unpacked.read()


def _read(table: Path) -> Paraphrases:
    text = np.frombuffer(reading.patient(table, lambda: _unpacked(table)), np.uint8)
    room = np.count_nonzero(text == 10) // 3 + 1
    keys, values, lengths = np.zeros(room, np.uint64), np.zeros(room, np.uint64), np.zeros(room, np.uint8)
    records, most = phrases.scan(text, keys, values, lengths)
    order = np.argsort(keys[:records], kind="stable")
    keys = keys[order]
    return Paraphrases(keys, phrases.buckets(keys), values[order], lengths[order], int(most))
