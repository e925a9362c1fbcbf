"""Decoding: every kind of image that the data sets hold becomes a small grey JPEG, or an error that names it."""

import csv
import io
import os
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from diagcot.data.errors import ImageError
from diagcot.data.phantom.drawing import draw
from diagcot.data.phantom.findings import Findings
from diagcot.data.pixels import Jpeg, convert, size

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "data"
RAMP = np.linspace(0, 1, 80 * 60).reshape(60, 80)


def needs(folder: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not (SHARED / folder).is_dir(), reason=f"no ../shared/data/{folder}")


def decoded(jpeg: Jpeg) -> Pillow.Image:
    image = Pillow.open(io.BytesIO(jpeg.data))
    assert (image.format, image.mode, image.size) == ("JPEG", "L", (jpeg.width, jpeg.height))
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
def test_all_modes_give_the_same_image(raw: bytes) -> None:
    image = decoded(convert(raw, 100, 95))
    assert image.size == (80, 60)
    assert np.abs(np.asarray(image, float) - RAMP * 255).mean() < 3


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


@pytest.mark.parametrize(
    "raw", [b"", b"not an image", draw("1", Findings()).jpeg()[:900]], ids=["empty", "text", "torn"]
)
def test_unreadable_image_is_named(raw: bytes) -> None:
    with pytest.raises(ImageError, match="study/image"):
        convert(raw, 112, 90, "study/image")


def test_missing_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"s1/a\.jpg: the file does not exist"):
        convert(tmp_path / "s1" / "a.jpg", 112, 90)


@needs("openi_images")
def test_the_13_images_of_iu_xray() -> None:
    images = sorted((SHARED / "openi_images").rglob("*.png"))
    assert len(images) == 13
    for path in images:
        image = decoded(convert(path, 256, 90))
        assert max(image.size) == 256
        assert np.asarray(image).std() > 20


@needs("nih_cxr14")
def test_the_33_images_of_nih_two_of_them_rgba() -> None:
    images = sorted((SHARED / "nih_cxr14" / "images").glob("*.png"))
    assert len(images) == 33
    modes = []
    for path in images:
        with Pillow.open(path) as source:
            modes.append(source.mode)
        image = decoded(convert(path, 128, 90))
        assert image.size == (128, 128)
        assert np.asarray(image).std() > 20
    assert sorted(modes) == ["L"] * 31 + ["RGBA"] * 2


@needs("nih_cxr14")
def test_nih_boxes_lie_on_their_images() -> None:
    with (SHARED / "nih_cxr14" / "BBox_subset.csv").open() as rows:
        table = list(csv.reader(rows))[1:]
    for name, _, *corners in table:
        x, y, w, h = map(float, corners[:4])
        image = convert(SHARED / "nih_cxr14" / "images" / name, 2048, 90)
        assert 0 <= x < x + w <= image.width
        assert 0 <= y < y + h <= image.height


@needs("dicom_cr")
def test_dicom_is_brightest_in_the_bones() -> None:
    (path,) = (SHARED / "dicom_cr").glob("*.dcm")
    image = decoded(convert(path, 256, 90))
    values = np.asarray(image, float)
    height, width = values.shape
    assert max(image.size) == 256
    # MONOCHROME1 stores black as high numbers: not inverted, the air of the lungs would be brighter than the spine.
    spine = values[height // 4 : height // 2, width // 2 - 8 : width // 2 + 8].mean()
    lungs = values[height // 4 : height // 2, width // 5 : width // 3].mean()
    assert spine > lungs + 10


def dicom(values: np.ndarray, mark: bool = True, **fields: Any) -> bytes:
    """A DICOM file of these pixels, uncompressed, MONOCHROME2 of 16 bits unless `fields` say otherwise."""
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    dicom = pydicom.Dataset()
    dicom.Rows, dicom.Columns, dicom.SamplesPerPixel, dicom.PixelRepresentation = (*values.shape[-2:], 1, 0)
    dicom.BitsAllocated = dicom.BitsStored = 8 * values.dtype.itemsize
    dicom.HighBit, dicom.PhotometricInterpretation = dicom.BitsStored - 1, "MONOCHROME2"
    dicom.PixelData = values.tobytes()
    for name, value in fields.items():
        setattr(dicom, name, value)
    dicom["PixelData"].VR = "OW"
    dicom.file_meta = FileMetaDataset()
    dicom.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dicom.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    dicom.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    out = io.BytesIO()
    pydicom.dcmwrite(out, dicom, enforce_file_format=True)
    return out.getvalue() if mark else out.getvalue()[132:]


def shown(raw: bytes) -> np.ndarray:
    return np.asarray(decoded(convert(raw, 200, 95)), float)


STEPS = (RAMP * 4000).astype(np.uint16)


def test_monochrome1_is_the_negative_of_monochrome2() -> None:
    plain, inverted = shown(dicom(STEPS)), shown(dicom(STEPS, PhotometricInterpretation="MONOCHROME1"))
    assert np.abs(plain - RAMP * 255).mean() < 3
    assert np.abs(plain + inverted - 255).mean() < 3


@pytest.mark.parametrize(("center", "width"), [(2000, 1000), ([2000, 500], [1000, 10]), ("2000", "1000")])
def test_the_first_window_counts(center: Any, width: Any) -> None:
    values = shown(dicom(STEPS, WindowCenter=center, WindowWidth=width))
    wanted = np.clip((RAMP * 4000 - 1500) / 1000, 0, 1) * 255
    assert np.abs(values - wanted).mean() < 4


@pytest.mark.parametrize("width", [0, -5, 0.5])
def test_a_window_that_is_none_is_passed_over(width: float) -> None:
    assert np.abs(shown(dicom(STEPS, WindowCenter=2000, WindowWidth=width)) - RAMP * 255).mean() < 3


def test_a_window_counts_in_rescaled_values() -> None:
    values = shown(dicom(STEPS, RescaleSlope=0.5, RescaleIntercept=-1000, WindowCenter=0, WindowWidth=500))
    assert np.abs(values - np.clip((RAMP * 2000 - 1000 + 250) / 500, 0, 1) * 255).mean() < 4


def test_a_voi_table_comes_before_a_window() -> None:
    import pydicom

    lut = pydicom.Dataset()
    lut.LUTDescriptor = [4001, 0, 16]
    lut["LUTDescriptor"].VR = "US"
    lut.LUTData = [65535 - 16 * n for n in range(4001)]
    lut["LUTData"].VR = "US"
    values = shown(dicom(STEPS, VOILUTSequence=[lut], WindowCenter=2000, WindowWidth=10))
    assert np.abs(values - (1 - RAMP) * 255).mean() < 3


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_does_not_dim_the_image(photometric: str) -> None:
    padded = STEPS.copy()
    padded[:, :20] = 65535
    values = shown(dicom(padded, PixelPaddingValue=65535, PhotometricInterpretation=photometric))
    assert values[:, :16].max() < 8
    assert values[:, 24:].max() > 240


def test_frames_old_files_and_short_headers(tmp_path: Path) -> None:
    both = np.stack([STEPS, STEPS[:, ::-1]])
    assert np.abs(shown(dicom(both, NumberOfFrames=2)) - RAMP * 255).mean() < 3
    path = tmp_path / "old.dcm"
    path.write_bytes(dicom(STEPS, mark=False))
    assert decoded(convert(path, 200, 95)).size == (80, 60)
    assert size(path) == (80, 60)
    path.write_bytes(b"DICM?")
    with pytest.raises(ImageError, match=r"old\.dcm"):
        convert(path, 200, 95)


@needs("dicom_cr")
def test_size_of_a_real_dicom_from_its_header() -> None:
    (path,) = (SHARED / "dicom_cr").glob("*.dcm")
    assert size(path) == (1841, 1955)


def lying_png(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims this size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    "raw",
    [
        lying_png(60_000, 60_000),
        lying_png(12_000, 10_001),
        lying_png(3, 5_000),
        lying_png(200, 4_200),
        dicom(STEPS, Rows=60_000, Columns=60_000),
        dicom(STEPS, NumberOfFrames=2_000_000),
        dicom(STEPS, Rows=61),
        dicom(STEPS, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0),
        png(np.full((30, 30), 7, np.uint8)),
        dicom(np.full((30, 30), 7, np.uint16)),
        png((RAMP * 255).astype(np.uint8))[:-300],
    ],
    ids=["bomb", "large", "sliver", "strip", "dicom", "frames", "rows", "colour", "blank", "blank-dicom", "torn"],
)
def test_absurd_images_are_refused_without_decoding_them(raw: bytes) -> None:
    tracemalloc.start()
    with pytest.raises(ImageError, match="study/image"):
        convert(raw, 112, 90, "study/image")
    assert tracemalloc.get_traced_memory()[1] < 50 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("form", ["EPS", "GIF", "BMP", "TIFF", "WEBP", "PPM", "PCX", "TGA", "JPEG2000"])
def test_other_formats_than_png_jpeg_and_dicom_are_never_decoded(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "gs"  # what Pillow's decoder of EPS runs
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    out = io.BytesIO()
    Pillow.fromarray((RAMP * 255).astype(np.uint8)).save(out, form)
    path = tmp_path / "a.png"
    path.write_bytes(out.getvalue())
    for read in (lambda: convert(path, 112, 90), lambda: convert(out.getvalue(), 112, 90, "a"), lambda: size(path)):
        with pytest.raises(ImageError, match="neither PNG, JPEG nor DICOM"):
            read()
    assert not (tmp_path / "ran").exists()


def test_a_file_longer_than_any_image_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "long.png"
    path.write_bytes(png((RAMP * 255).astype(np.uint8)))
    os.truncate(path, 1500 << 20)  # of no blocks on disk
    tracemalloc.start()
    with pytest.raises(ImageError, match=r"long\.png: the image is too large \(1500 MB\)"):
        convert(path, 112, 90)
    assert tracemalloc.get_traced_memory()[1] < 50 << 20
    tracemalloc.stop()


def test_an_image_behind_a_loop_of_links_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / "b.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    with pytest.raises(ImageError, match=r"a\.png"):
        convert(tmp_path / "a.png", 112, 90)


def test_exif_does_not_turn_a_image() -> None:
    out = io.BytesIO()
    exif = Pillow.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Pillow.fromarray((RAMP * 255).astype(np.uint8)).save(out, "JPEG", exif=exif, quality=95)
    for longest in (200, 40):
        image = decoded(convert(out.getvalue(), longest, 95))
        assert image.width > image.height
        assert np.asarray(image)[:5].mean() < np.asarray(image)[-5:].mean()


@pytest.mark.parametrize("wide", [(2000, 8), (8, 1700), (4000, 16), (10000, 40), (9000, 8), (420, 20)])
def test_an_image_as_long_as_no_film_is_refused(tmp_path: Path, wide: tuple[int, int]) -> None:
    ramp = np.linspace(0, 255, wide[0] * wide[1]).astype(np.uint8)
    path = tmp_path / "film.png"
    path.write_bytes(png(ramp.reshape(wide[1], wide[0])))
    for read in (lambda: convert(path, 512, 90), lambda: size(path)):
        with pytest.raises(ImageError, match=rf"{wide[0]} x {wide[1]} pixels"):
            read()
    path.write_bytes(png(ramp[: 400 * 20].reshape(20, 400)))  # 20 to 1
    assert convert(path, 512, 90).width == 400
