"""The HDF5 shards: what is written is read, by us, by plain h5py, across processes; damage is found and named."""

import json
import multiprocessing
import os
import pickle
import re
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diagcot.data.errors import DataError
from diagcot.data.phantom.drawing import VIEWS, draw
from diagcot.data.phantom.findings import Effusion, Findings
from diagcot.data.pixels import Jpeg
from diagcot.data.study import SPLITS, Image, Study
from diagcot.jobs.execution import copies
from diagcot.shards import Shard, shard_paths
from diagcot.shards.partition import partition, partitions
from diagcot.shards.verify import faults
from diagcot.shards.writer import ShardWriter
from tests.kinds.reading import opened


def made(number: int) -> tuple[Study, list[Jpeg]]:
    """A study of one to two phantom images, with text outside ASCII."""
    findings = Findings(effusions=(Effusion("left", "small"),)) if number % 2 else Findings()
    drawn = [draw(str(number), findings, view, 64) for view in VIEWS[: 1 + number % 2]]
    images = tuple(Image(f"{number}-{d.view}", d.view, 64, 64, d.boxes, phantom=True) for d in drawn)
    study = Study(
        dataset="phantom",
        id=str(number),
        patient=f"p{number // 2}",
        split=SPLITS[number % 3],
        findings="Größe unauffällig." if number % 3 else "",
        impression=f"Study {number}.",
        tags=findings.tags(),
        labels=findings.labels() | {"Edema": -1},
        images=images,
    )
    return study, [Jpeg(phantom.jpeg(), 64, 64, True) for phantom in drawn]


STUDIES = [made(number) for number in range(9)]


def write(path: Path, studies: list[tuple[Study, list[Jpeg]]] = STUDIES) -> Path:
    with ShardWriter(path, part=0, sources=[{"dataset": "phantom"}]) as writer:
        for study, jpegs in studies:
            writer.add(study, jpegs)
    return path


def test_the_fingerprint_follows_texts_and_images(tmp_path: Path) -> None:
    own = Shard(write(tmp_path / "a.h5")).fingerprint
    assert own == Shard(write(tmp_path / "b.h5")).fingerprint
    study, jpegs = STUDIES[0]
    text = [(replace(study, impression="Other."), jpegs), *STUDIES[1:]]
    image = [(study, [Jpeg(jpegs[0].data + b"\0", 64, 64, True), *jpegs[1:]]), *STUDIES[1:]]
    found = {Shard(write(tmp_path / f"{n}.h5", rows)).fingerprint for n, rows in enumerate((text, image))}
    assert len({own, *found}) == 3


def test_a_shard_is_read_from_the_copy_on_the_nodes_disk(tmp_path: Path) -> None:
    path = write(tmp_path / "00000.h5")
    with tempfile.TemporaryDirectory(dir="/tmp") as disk:
        with copies.opened(disk):
            shard = Shard(path)
            assert shard.study(1) == STUDIES[1][0] and shard.jpeg(0) == STUDIES[0][1][0].data
            (copy,) = Path(disk).glob("dc*/f/*.h5")
            assert str(copy) in opened() and str(path) not in opened() and shard.path == path
        assert not os.listdir(disk)


SURROGATE = "no \ud800 effusion"


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda study: replace(study, findings=SURROGATE), "findings of study phantom/1"),
        (lambda study: replace(study, tags=("a", SURROGATE)), "tags of study phantom/1"),
        (lambda study: replace(study, id="1\udcff"), "id of study phantom/1\\udcff"),
        (
            lambda study: replace(study, images=(study.images[0], replace(study.images[1], id=SURROGATE))),
            "id of image 1 of study phantom/1",
        ),
    ],
)
def test_a_text_with_half_a_surrogate_pair_is_refused_by_study_and_field(tmp_path, change, place):
    study, jpegs = made(1)
    with pytest.raises(DataError) as refused:
        write(tmp_path / "00000.h5", [(change(study), jpegs)])
    assert str(refused.value).startswith(f"{place}: character ") and "effusion" not in str(refused.value)
    assert str(refused.value).encode() and not (tmp_path / "00000.h5").exists()


def test_an_image_that_is_left_out_is_refused_likewise(tmp_path):
    with (
        pytest.raises(DataError, match="image of an image of study phantom/1 that is left out: character 4 "),
        ShardWriter(tmp_path / "00000.h5") as writer,
    ):
        writer.leave_out("phantom/1", SURROGATE, "gone")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("shards") / "00000.h5")


def test_what_was_written_is_read(path: Path) -> None:
    shard = Shard(path)
    assert [shard.study(i) for i in range(len(shard))] == [study for study, _ in STUDIES]
    jpegs = [jpeg.data for _, jpegs in STUDIES for jpeg in jpegs]
    assert [shard.jpeg(row) for row in range(shard.images)] == jpegs
    for i, (study, _) in enumerate(STUDIES):
        assert [shard.image(row) for row in shard.rows(i)] == list(study.images)
        assert {shard.study_of(row) for row in shard.rows(i)} == {i}
        assert shard.split(i) == study.split
    assert shard.pixels(0).mode == "RGB"
    assert json.loads(shard.attrs["sources"]) == [{"dataset": "phantom"}]
    with pytest.raises(IndexError, match="no row"):
        shard.jpeg(shard.images)


def test_plain_h5py_needs_the_five_lines_of_the_documentation(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "data.md").read_text()
    (lines,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "h5py.File" in block]
    code = [line for line in lines.splitlines() if line and not line.startswith("import ")]
    assert len(code) == 5
    monkeypatch.chdir(path.parent)
    found: dict[str, Any] = {}
    exec(lines, found)
    assert found["image"].size == (64, 64) and found["image"].convert("RGB") == Shard(path).pixels(3)
    assert found["findings"] == STUDIES[2][0].findings == "Größe unauffällig."


def test_the_documented_loader_goes_on_within_an_epoch(path: Path) -> None:
    from torch.utils import data as loading

    from diagcot.shards import dataset

    text = (Path(__file__).resolve().parents[3] / "docs" / "data.md").read_text()
    (lines,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "ShardSampler" in block]
    known: dict[str, Any] = {
        "folder": path.parent,
        "rank": 0,
        "world_size": 1,
        "epoch": 1,
        "steps_done": 1,
        "batch_size": 2,
    }
    known |= {
        "ShardDataset": dataset.ShardDataset,
        "ShardSampler": dataset.ShardSampler,
        "DataLoader": loading.DataLoader,
    }
    found: dict[str, Any] = {}
    exec(lines.replace("num_workers=8", "num_workers=0"), {"shard_paths": shard_paths} | known, found)
    train = [image for study, _ in STUDIES if study.split == "train" for image in study.images]
    assert [image.size for batch in found["loader"] for image in batch] == [(64, 64)] * (len(train) - 2)


def test_same_studies_same_bytes(path: Path, tmp_path: Path) -> None:
    time.sleep(1.1)  # HDF5 time stamps count whole seconds
    assert write(tmp_path / "again.h5").read_bytes() == path.read_bytes()


def test_an_empty_shard_is_a_shard(tmp_path: Path) -> None:
    shard = Shard(write(tmp_path / "empty.h5", []))
    assert (len(shard), shard.images) == (0, 0)
    assert list(faults(shard.path)) == [f"{shard.path}: holds no study"]


def test_nothing_is_left_of_a_shard_that_failed_or_was_discarded(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), ShardWriter(tmp_path / "a.h5") as writer:
        writer.add(*STUDIES[0])
        raise RuntimeError
    with ShardWriter(tmp_path / "b.h5") as writer:
        writer.add(*STUDIES[0])
        writer.discard()
    assert list(tmp_path.iterdir()) == []


def test_staged_shards_are_not_listed(tmp_path: Path) -> None:
    write(tmp_path / "00001.h5", [])
    write(tmp_path / "00000.h5", [])
    write(tmp_path / ".00002.h5.abc", [])
    write(tmp_path / ".00003.h5", [])
    assert [p.name for p in shard_paths(tmp_path)] == ["00000.h5", "00001.h5"]


def test_a_shard_pickles_as_its_path_and_survives_a_fork(path: Path) -> None:
    SHARED.path = path
    rows = list(range(SHARED.images)) * 50
    jpegs = [SHARED.jpeg(row) for row in rows]
    assert len(pickle.dumps(SHARED)) < 500
    assert pickle.loads(pickle.dumps(SHARED)).jpeg(0) == jpegs[0]
    with multiprocessing.get_context("fork").Pool(3) as pool:  # the children inherit the open file
        assert pool.map(_jpeg, rows, chunksize=5) == jpegs


SHARED = Shard("set by the test")


def _jpeg(row: int) -> bytes:
    return SHARED.jpeg(row)


@pytest.mark.parametrize("content", [b"", b"not HDF5 at all" * 100])
def test_what_is_no_shard_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.h5").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.h5 is not a whole shard"):
        len(Shard(tmp_path / "x.h5"))
    with pytest.raises(DataError, match="does not exist"):
        len(Shard(tmp_path / "y.h5"))


def test_another_schema_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "old.h5")
    with h5py.File(tmp_path / "old.h5", "a") as f:
        f.attrs["schema"] = 0
    with pytest.raises(DataError, match="schema"):
        len(Shard(tmp_path / "old.h5"))


def test_a_whole_shard_has_no_faults(path: Path) -> None:
    assert list(faults(path)) == []


def test_a_flipped_byte_is_found_in_its_image(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.h5"
    copy.write_bytes(path.read_bytes())
    with h5py.File(copy, "a") as f:
        f["images/jpeg"][f["images/offset"][4] + 200] ^= 1
    (fault,) = faults(copy)
    image, study = Shard(copy).image(4), Shard(copy).study(Shard(copy).study_of(4))
    assert image.id in fault and study.key in fault and str(copy) in fault


def test_a_changed_column_is_found(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.h5"
    copy.write_bytes(path.read_bytes())
    with h5py.File(copy, "a") as f:
        f["studies/labels"][2, 3] = 1
    (fault,) = faults(copy)
    assert fault.startswith(f"{copy}: the column studies/labels is damaged")


def test_a_shard_cut_short_is_found(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.h5"
    copy.write_bytes(path.read_bytes()[:-2000])
    assert len(list(faults(copy))) == 1


PATIENTS = st.dictionaries(st.text(min_size=1, max_size=6), st.integers(0, 9), max_size=25)


@settings(max_examples=50, deadline=None)
@given(PATIENTS, st.integers(1, 9))
def test_every_patient_is_in_exactly_one_part(patients: dict[str, int], parts: int) -> None:
    dealt = [patient for part in range(parts) for patient in partition(patients, part, parts)]
    assert Counter(dealt) == Counter(patients.keys())


@settings(max_examples=50, deadline=None)
@given(PATIENTS, st.integers(1, 9))
def test_parts_differ_from_their_share_by_less_than_two_patients(patients: dict[str, int], parts: int) -> None:
    share = sum(patients.values()) / parts
    most = max(patients.values(), default=0)
    for part in range(parts):
        images = sum(patients[patient] for patient in partition(patients, part, parts))
        assert abs(images - share) <= most


@settings(max_examples=25, deadline=None)
@given(PATIENTS, st.integers(1, 5))
def test_the_order_of_reading_does_not_matter(patients: dict[str, int], parts: int) -> None:
    turned = dict(reversed(patients.items()))
    assert [partition(patients, k, parts) for k in range(parts)] == [partition(turned, k, parts) for k in range(parts)]


@pytest.fixture(scope="module")
def collection() -> tuple[dict[str, int], dict[str, float]]:
    """Images and kilobytes of 65,379 patients: 3.5 studies each on average but a few with 174, and 1 to 4 images a study."""
    rng = np.random.default_rng(0)
    studies = np.minimum(np.ceil(rng.pareto(1.3, 65_379) * 1.2), 174).astype(int).clip(1)
    more = rng.choice(4, studies.sum(), p=[0.5, 0.37, 0.11, 0.02])
    images = studies + np.add.reduceat(more, np.cumsum(studies) - studies)
    assert images.max() > 250 and 350_000 < images.sum() < 420_000
    bytes_ = np.add.reduceat(rng.lognormal(4.5, 0.3, images.sum()), np.cumsum(images) - images)
    names = [str(k) for k in range(len(images))]
    return dict(zip(names, images.tolist(), strict=True)), dict(zip(names, bytes_.tolist(), strict=True))


@pytest.mark.parametrize("parts", [16, 64, 256, 1000])
def test_shards_of_a_collection_like_mimic_differ_by_less_than_5_percent(
    collection: tuple[dict[str, int], dict[str, float]], parts: int
) -> None:
    patients, kilobytes = collection
    dealt = partitions(patients, parts)
    assert Counter(patient for part in dealt for patient in part) == Counter(patients.keys())
    for sizes, allowed in ((patients, 0.01), (kilobytes, 0.05 if parts <= 256 else 0.08)):
        sums = [sum(sizes[patient] for patient in part) for part in dealt]
        assert max(sums) / np.mean(sums) - 1 < allowed and 1 - min(sums) / np.mean(sums) < allowed


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("many")
    return [write(root / f"{k}.h5", STUDIES[k::2]) for k in range(2)]


def row(shard: Shard, row: int) -> str:
    return shard.image(row).id


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (3, 0), (2, 2)])
def test_ranks_and_workers_share_the_images(paths: list[Path], world: int, workers: int) -> None:
    from torch.utils import data as loading

    from diagcot.shards import dataset

    data, met = dataset.ShardDataset(paths, transform=row), []
    for rank in range(world):
        sampler = dataset.ShardSampler(len(data), rank=rank, world_size=world)
        loaded = list(loading.DataLoader(data, batch_size=None, sampler=sampler, num_workers=workers))
        assert len(loaded) == len(sampler)
        met += loaded
    assert sorted(met) == sorted(image.id for study, _ in STUDIES for image in study.images)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_ranks_epochs_and_positions_lose_and_repeat_nothing(data: st.DataObject) -> None:
    from diagcot.shards import dataset

    images, seed, epoch = data.draw(st.integers(0, 60)), data.draw(st.integers(0, 3)), data.draw(st.integers(0, 3))
    before, after = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5))
    position = data.draw(st.integers(0, 12)) * before
    shuffle = data.draw(st.booleans())

    def ranks(count: int, position: int = 0) -> list[list[int]]:
        found = []
        for rank in range(count):
            sampler = dataset.ShardSampler(images, seed, shuffle, rank, count)
            sampler.set_epoch(epoch, position)
            found.append(list(sampler))
            assert len(found[-1]) == len(sampler)
        return found

    whole = ranks(before)
    assert sorted(n for rank in whole for n in rank) == list(range(images))
    assert max(map(len, whole)) - min(map(len, whole)) <= 1
    first = [rank[: position // before] for rank in whole]  # stopped here, and continued on other ranks
    rest = ranks(after, position)
    assert sorted(n for rank in first + rest for n in rank) == list(range(images))
    (one,) = ranks(1)
    assert [rank[k] for k in range(len(whole[0])) for rank in whole if k < len(rank)] == one


def test_order_depends_on_seed_and_epoch_alone() -> None:
    from diagcot.shards import dataset

    first, again, other = (dataset.ShardSampler(20, seed) for seed in (1, 1, 2))
    assert list(first) == list(again)
    assert list(first) != list(other)
    again.set_epoch(1)
    assert list(first) != list(again)
    with pytest.raises(ValueError, match="no rank 2 of 2"):
        dataset.ShardSampler(20, rank=2, world_size=2)


def test_an_open_dataset_pickles_as_its_places(paths: list[Path]) -> None:
    from diagcot.shards import dataset

    data = dataset.ShardDataset(paths)
    first = data[0]
    again = pickle.loads(pickle.dumps(data))
    assert len(pickle.dumps(data)) < 2000  # no column and no handle travels
    assert again[0][:2] == first[:2] and len(again) == len(data)
    with pytest.raises(IndexError):
        data[len(data)]


def test_splits_and_default_items(paths: list[Path]) -> None:
    from diagcot.shards import dataset

    data = dataset.ShardDataset(paths, split="test")
    keys = {key for key, _, _ in data}
    assert keys == {study.key for study, _ in STUDIES if study.split == "test"}
    assert all(image.mode == "RGB" for _, _, image in data)
