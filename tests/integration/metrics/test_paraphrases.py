"""METEOR's paraphrase table from the cache: the same as read, and never from a file that is damaged or not one's own."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from diagcot.jobs.environment import compiled
from diagcot.metrics.meteor import paraphrases

LINES = ("0.5", "no effusion", "without effusion", "0.25", "heart is", "the heart is", "0.1", "no effusion", "no fluid")


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(compiled, "cache_folder", lambda: tmp_path / "cache")
    path = tmp_path / "paraphrase-en.gz"
    path.write_bytes(gzip.compress("\n".join([*LINES, ""]).encode()))
    return path


def same(one: paraphrases.Paraphrases, other: paraphrases.Paraphrases) -> bool:
    return all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(one, other, strict=True))


def test_the_cached_table_equals_the_one_that_was_read(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = paraphrases._read(table)
    assert len(read.keys) == 3 and read.most == 3 and read.lengths.sum() == 7
    assert same(paraphrases.load(table), read)
    monkeypatch.setattr(paraphrases, "_read", lambda path: pytest.fail("read again"))
    assert same(paraphrases.load(table), read)
    (folder,) = (table.parent / "cache").iterdir()
    assert folder.stat().st_mode & 0o077 == 0


def test_another_table_has_another_place(table: Path) -> None:
    paraphrases.load(table)
    table.write_bytes(gzip.compress("\n".join([*LINES[:3], ""]).encode()))
    assert len(paraphrases.load(table).keys) == 1


@pytest.mark.parametrize("name", ["keys.npy", "lengths.npy", "most.npy"])
@pytest.mark.parametrize("size", [0, 40, 100])
def test_a_damaged_cache_is_written_again(table: Path, name: str, size: int) -> None:
    paraphrases.load(table)
    read = paraphrases._read(table)
    (folder,) = (table.parent / "cache").iterdir()
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:size])
    assert same(paraphrases.load(table), read)
    assert (folder / name).read_bytes() == content


def test_a_cache_that_others_could_have_written_is_not_used(table: Path) -> None:
    paraphrases.load(table)
    (folder,) = (table.parent / "cache").iterdir()
    np.save(folder / "most.npy", 9)
    folder.chmod(0o770)
    assert paraphrases.load(table).most == 3


def test_without_a_cache_the_table_is_read(table: Path) -> None:
    (table.parent / "cache").write_text("no folder")
    assert len(paraphrases.load(table).keys) == 3
