"""Decoding: every kind of film that the data sets hold becomes a small grey JPEG, or an error that names it."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from diagcot.data.errors import ImageError
from diagcot.data.phantom.films import draw
from diagcot.data.phantom.findings import Findings
from diagcot.data.pixels import Jpeg, convert

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
RAMP = np.linspace(0, 1, 80 * 60).reshape(60, 80)


def needs(folder: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not (SHARED / folder).is_dir(), reason=f"no ../shared/data/{folder}")


def decoded(film: Jpeg) -> Pillow.Image:
    image = Pillow.open(io.BytesIO(film.data))
    assert (image.format, image.mode, image.size) == ("JPEG", "L", (film.width, film.height))
    return image


def png(values: np.ndarray, mode: str | None = None) -> bytes:
    out = io.BytesIO()
    image = Pillow.fromarray(values)
    (image.convert(mode) if mode else image).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize(
    "raw",
    [
        png((RAMP * 255).astype(np.uint8)),
        png((RAMP * 255).astype(np.uint8), "RGB"),
        png((RAMP * 255).astype(np.uint8), "RGBA"),
        png((RAMP * 255).astype(np.uint8), "LA"),
        png((RAMP * 65535).astype(np.uint16)),
        png((RAMP * 4095).astype(np.uint16)),
    ],
    ids=["grey", "rgb", "rgba", "grey-alpha", "16-bit", "12-bit"],
)
def test_all_modes_give_the_same_film(raw: bytes) -> None:
    film = decoded(convert(raw, 100, 95))
    assert film.size == (80, 60)
    assert np.abs(np.asarray(film, float) - RAMP * 255).mean() < 3


def test_transparency_is_dropped_not_blended() -> None:
    values = np.full((20, 20, 4), 200, np.uint8)
    values[0, 0], values[:, :, 3] = 190, 0
    assert np.asarray(decoded(convert(png(values), 100, 95))).mean() > 195


def test_longest_side_and_never_enlarged() -> None:
    raw = png((RAMP * 255).astype(np.uint8))
    assert (convert(raw, 40, 90).width, convert(raw, 40, 90).height) == (40, 30)
    assert convert(raw, 4000, 90).width == 80


def test_a_small_grey_jpeg_is_passed_on_and_stays_a_phantom() -> None:
    raw = draw("1", Findings()).jpeg()
    assert convert(raw, 112, 50) == Jpeg(raw, 112, 112, True)
    smaller = convert(raw, 56, 90)
    assert smaller.phantom and smaller.width == 56
    assert convert(smaller.data, 56, 90).phantom


@pytest.mark.parametrize("raw", [b"", b"not a film", draw("1", Findings()).jpeg()[:900]], ids=["empty", "text", "torn"])
def test_unreadable_film_is_named(raw: bytes) -> None:
    with pytest.raises(ImageError, match="study/film"):
        convert(raw, 112, 90, "study/film")


def test_missing_film_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"s1/a\.jpg: the file is not there"):
        convert(tmp_path / "s1" / "a.jpg", 112, 90)


@needs("openi_images")
def test_the_13_films_of_iu_xray() -> None:
    films = sorted((SHARED / "openi_images").rglob("*.png"))
    assert len(films) == 13
    for path in films:
        film = decoded(convert(path, 256, 90))
        assert max(film.size) == 256
        assert np.asarray(film).std() > 20


@needs("nih_cxr14")
def test_the_33_films_of_nih_two_of_them_rgba() -> None:
    films = sorted((SHARED / "nih_cxr14" / "images").glob("*.png"))
    assert len(films) == 33
    modes = []
    for path in films:
        with Pillow.open(path) as source:
            modes.append(source.mode)
        film = decoded(convert(path, 128, 90))
        assert film.size == (128, 128)
        assert np.asarray(film).std() > 20
    assert sorted(modes) == ["L"] * 31 + ["RGBA"] * 2


@needs("nih_cxr14")
def test_nih_boxes_lie_on_their_films() -> None:
    with (SHARED / "nih_cxr14" / "BBox_subset.csv").open() as rows:
        table = list(csv.reader(rows))[1:]
    for name, _, *corners in table:
        x, y, w, h = map(float, corners[:4])
        film = convert(SHARED / "nih_cxr14" / "images" / name, 2048, 90)
        assert 0 <= x < x + w <= film.width
        assert 0 <= y < y + h <= film.height


@needs("dicom_cr")
def test_dicom_is_brightest_in_the_bones() -> None:
    (path,) = (SHARED / "dicom_cr").glob("*.dcm")
    film = decoded(convert(path, 256, 90))
    values = np.asarray(film, float)
    height, width = values.shape
    assert max(film.size) == 256
    # MONOCHROME1 stores black as high numbers: not inverted, the air of the lungs would be brighter than the spine.
    spine = values[height // 4 : height // 2, width // 2 - 8 : width // 2 + 8].mean()
    lungs = values[height // 4 : height // 2, width // 5 : width // 3].mean()
    assert spine > lungs + 10
