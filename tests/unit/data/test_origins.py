"""An image or a patient that several collections share has one split; digests find copies of a picture."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from diagcot.data import likeness
from diagcot.data.pixels import convert
from diagcot.data.readers.origins import Origin, decide
from tests.unit.data.test_collections import SHARED, nih, put, read


class Listed:
    """A reader of (patient, image, split, stated, names elsewhere)."""

    def __init__(self, dataset: str, *rows: tuple[str, str, str, bool, tuple[tuple[str, str], ...]]) -> None:
        self.dataset, self._rows = dataset, rows
        self.taken_from = frozenset(collection for *_, names in rows for collection, _ in names)

    def origins(self) -> Iterator[Origin]:
        for patient, image, split, stated, names in self._rows:
            yield Origin(patient, (*names, (self.dataset, image), (self.dataset, f"#{patient}")), split, stated)


def test_a_stated_split_decides_and_of_two_the_stricter_one() -> None:
    nih_set = Listed(
        "nih", ("1", "1_0", "test", True, ()), ("1", "1_1", "test", True, ()), ("2", "2_0", "train", True, ())
    )
    rsna = Listed("rsna", ("a", "a", "train", False, (("nih", "1_0"), ("nih", "#1"))),
                  ("b", "b", "test", False, (("nih", "2_0"), ("nih", "#2"))),
                  ("c", "c", "validate", False, ()))  # fmt: skip
    covidx = Listed("covidx", ("x", "x", "train", True, (("rsna", "a"),)), ("y", "y", "test", True, (("rsna", "c"),)))
    assert decide([nih_set, rsna, covidx]) == [{}, {"a": "test", "b": "train", "c": "test"}, {"x": "test"}]
    assert decide([rsna]) == [{}] and decide([nih_set]) == [{}]


def test_patients_of_another_collection_do_not_cross_splits_by_hash() -> None:
    rows = [
        (name, name, split, False, (("nih", "#1"),))
        for name, split in zip("abc", ("train", "test", "train"), strict=True)
    ]
    assert decide([Listed("rsna", *rows)]) == [{"b": "train"}]


def test_one_collection_twice_has_the_splits_that_are_stated() -> None:
    by_hash = Listed("iu-xray", ("CXR1", "CXR1_IM-1", "train", False, ()), ("CXR2", "CXR2_IM-1", "train", False, ()))
    annotated = Listed("iu-xray", ("CXR1", "CXR1_IM-0001/0", "test", True, ()))
    assert decide([by_hash, annotated]) == [{"CXR1": "test"}, {}]


def test_collections_without_common_names_are_not_read() -> None:
    class Unread(Listed):
        def origins(self) -> Iterator[Origin]:
            raise AssertionError("was read")

    assert decide([Unread("a"), Unread("b")]) == [{}, {}]


RSNA = "0004cfab-14fd-4e49-80ba-63a80b6bddd6"


def test_rsna_and_covidx_name_where_their_images_come_from(tmp_path: Path) -> None:
    rsna, covid = tmp_path / "rsna", tmp_path / "covid"
    put(rsna / "stage_2_train_labels.csv", "patientId,x,y,width,height,Target", f"{RSNA},,,,,0")
    put(rsna / "stage_2_detailed_class_info.csv", "patientId,class", f"{RSNA},Normal")
    put(rsna / "pneumonia-challenge-dataset-mappings_2018.json",
        f'[{{"subset_img_id": "{RSNA}", "img_id": "00000001_000.png"}}]')  # fmt: skip
    (rsna / "stage_2_train_images").mkdir()
    put(covid / "train.txt", f"{RSNA} {RSNA}.png negative rsna", "7 other.png positive cohen")
    put(covid / "test.txt", "8 b.png positive ricord")
    (covid / "train").mkdir()
    readers = [
        read("nih_cxr14", nih(tmp_path / "nih"))[0],
        read("rsna_pneumonia", rsna)[0],
        read("covidx_cxr3", covid)[0],
    ]
    (study,) = readers[1].studies(RSNA)
    assert study.images[0].origin == "nih_cxr14/00000001_000.png"
    assert [reader.taken_from for reader in readers] == [set(), {"nih_cxr14"}, {"rsna_pneumonia"}]
    decided = decide(readers)
    assert decided[2] == {RSNA: "test"} and decided[1].get(RSNA, study.split) == "test"  # NIH's test list has it


def grey(side: int, seed: int) -> Pillow.Image:
    """A smooth picture, unlike those of other seeds."""
    low = np.random.default_rng(seed).normal(128, 60, (12, 12)).clip(0, 255).astype(np.uint8)
    return Pillow.fromarray(low).resize((side, side), Pillow.Resampling.BICUBIC)


def bits(first: Pillow.Image, second: Pillow.Image) -> int:
    pair = (np.frombuffer(likeness.digest(likeness.small(image)), np.uint8) for image in (first, second))
    one, other = pair
    return int(np.bitwise_count(one ^ other).sum())


def test_copies_have_nearly_the_same_digest_and_other_pictures_have_not() -> None:
    image = grey(1024, 1)
    out = io.BytesIO()
    image.resize((224, 224), Pillow.Resampling.LANCZOS).save(out, "JPEG", quality=70)
    assert bits(image, Pillow.open(out)) <= likeness.SAME
    assert bits(image, image.point(lambda value: value * 0.8 + 20)) <= likeness.SAME
    assert min(bits(image, grey(1024, seed)) for seed in range(2, 30)) > 3 * likeness.SAME


def test_lookup_finds_what_a_comparison_of_all_pairs_finds() -> None:
    rng = np.random.default_rng(0)
    digests = rng.integers(0, 256, (500, likeness.BYTES), dtype=np.uint8)
    lookup = likeness.Lookup(digests)
    for number in range(60):
        noisy = np.unpackbits(digests[number])
        noisy[rng.choice(256, number % 24, replace=False)] ^= 1
        wanted = np.packbits(noisy)
        distances = np.bitwise_count(digests ^ wanted).sum(axis=1)
        assert lookup.find(wanted).tolist() == np.flatnonzero(distances <= likeness.SAME).tolist()


REAL = sorted([*(SHARED / "nih_cxr14").rglob("*.png"), *(SHARED / "openi_images").rglob("*.png")])


@pytest.mark.skipif(len(REAL) < 40, reason="no ../shared/data of real images")
def test_real_images_are_told_apart_copies_are_found_and_none_is_flagged() -> None:
    found = [convert(path, 512, 90) for path in REAL]
    digests = np.stack([np.frombuffer(jpeg.likeness, np.uint8) for jpeg in found])
    lookup = likeness.Lookup(digests)
    assert [lookup.find(row).tolist() for row in digests] == [[n] for n in range(len(REAL))]
    for number, path in enumerate(REAL[::4]):
        copy = io.BytesIO()
        Pillow.open(path).convert("L").resize((256, 256)).save(copy, "JPEG", quality=60)
        small = np.frombuffer(convert(copy.getvalue(), 224, 80).likeness, np.uint8)
        assert lookup.find(small).tolist() == [4 * number]
    assert [(path.name, jpeg.flags) for path, jpeg in zip(REAL, found, strict=True) if jpeg.flags] == []
    inverted = [Pillow.open(io.BytesIO(jpeg.data)).point(lambda value: 255 - value) for jpeg in found]
    assert sum(likeness.flags(likeness.small(image)) == ("inverted",) for image in inverted) >= 0.8 * len(REAL)


@pytest.mark.parametrize(
    ("values", "flag"),
    [
        (np.full((64, 64), 100) + np.arange(64) % 7, "almost blank"),
        (np.where(np.arange(64 * 64).reshape(64, 64) % 64 < 3, 200, 2), "nearly black"),
        (np.where(np.arange(64 * 64).reshape(64, 64) % 64 < 3, 20, 254), "nearly white"),
    ],
)
def test_images_without_a_picture_are_flagged(values: np.ndarray, flag: str) -> None:
    assert likeness.flags(likeness.small(Pillow.fromarray(values.astype(np.uint8)))) == (flag,)
