"""DICOM as it occurs: presentations, defects of detectors, missing transfer syntaxes, compressions, views in the header."""

import base64
import importlib.util
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import encaps, uid
from pydicom.dataset import Dataset, FileMetaDataset

from diagcot.data import dicom as reader
from diagcot.data.errors import ImageError
from diagcot.data.pixels import convert, view
from tests.unit.data.test_collections import put, read
from tests.unit.data.test_pixels import RAMP, STEPS, dicom, shown

HAS_GDCM = importlib.util.find_spec("gdcm") is not None
needs_gdcm = pytest.mark.skipif(not HAS_GDCM, reason="python-gdcm is not installed; `make env` installs it")


@pytest.mark.parametrize(
    ("photometric", "presentation", "inverted"),
    [
        ("MONOCHROME2", "IDENTITY", False),
        ("MONOCHROME2", "INVERSE", True),
        ("MONOCHROME1", "INVERSE", True),  # both say the same thing: it is inverted once
        ("MONOCHROME1", None, True),
    ],
)
def test_the_presentation_decides_what_is_white(photometric: str, presentation: str | None, inverted: bool) -> None:
    fields: dict[str, Any] = {"PresentationLUTShape": presentation} if presentation else {}
    values = shown(dicom(STEPS, PhotometricInterpretation=photometric, **fields))
    assert np.abs(values - (1 - RAMP if inverted else RAMP) * 255).mean() < 3


@pytest.mark.parametrize(("value", "kind"), [(65535, "hot"), (0, "dead")])
def test_one_defect_pixel_does_not_dim_the_image(value: int, kind: str) -> None:
    stored = STEPS + 20_000
    stored[3, 3] = value
    values = shown(dicom(stored))
    assert np.abs(np.delete(values - RAMP * 255, slice(0, 8), axis=0)).mean() < 4, kind


def without_syntax(raw: bytes) -> bytes:
    import pydicom

    read_back = pydicom.dcmread(io.BytesIO(raw))
    del read_back.file_meta.TransferSyntaxUID
    out = io.BytesIO()
    out.write(b"\0" * 128 + b"DICM")
    body = io.BytesIO()
    pydicom.dcmwrite(body, read_back, implicit_vr=False, little_endian=True)
    text = body.getvalue()
    out.write(text[132:] if text[128:132] == b"DICM" else text)
    return out.getvalue()


def test_a_file_without_a_transfer_syntax_is_read_by_its_encoding() -> None:
    assert np.abs(shown(without_syntax(dicom(STEPS))) - RAMP * 255).mean() < 3


@pytest.mark.parametrize(
    ("stream", "name"),
    [
        (b"\xff\xd8\xff\xc0\0\x0b", "JPEGBaseline8Bit"), (b"\xff\xd8\xff\xc1\0\x0b", "JPEGExtended12Bit"),
        (b"\xff\xd8\xff\xc3\0\x0b", "JPEGLosslessSV1"), (b"\xff\xd8\xff\xf7\0\x0b", "JPEGLSLossless"),
        (b"\xff\x4f\xff\x51\0\x0b", "JPEG2000"),
    ],
)  # fmt: skip
def test_compressed_pixels_show_their_transfer_syntax(stream: bytes, name: str) -> None:
    import pydicom
    from pydicom import encaps, uid

    data = pydicom.Dataset()
    data.PixelData = encaps.encapsulate([stream])
    assert reader._syntax(data) == getattr(uid, name)  # type: ignore[arg-type]


def compressed(values: np.ndarray, syntax: str, bits: int = 16) -> bytes:
    """The image as gdcm compresses it: JPEGLosslessProcess14_1 or JPEGLSLossless."""
    import gdcm

    source = Path.cwd() / "source.dcm"
    source.write_bytes(dicom(values, BitsStored=bits, HighBit=bits - 1))
    given = gdcm.ImageReader()
    given.SetFileName(str(source))
    assert given.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
    change.SetInput(given.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(source))
    writer.SetFile(given.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return source.read_bytes()


@needs_gdcm
@pytest.mark.parametrize(
    ("syntax", "bits"), [("JPEGLosslessProcess14_1", 16), ("JPEGLSLossless", 16), ("JPEGLSLossless", 12)]
)
def test_lossless_jpeg_and_jpeg_ls_are_decoded(
    syntax: str, bits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    raw = compressed(STEPS, syntax, bits)
    import pydicom

    assert pydicom.dcmread(io.BytesIO(raw)).file_meta.TransferSyntaxUID.is_compressed
    assert np.abs(shown(raw) - RAMP * 255).mean() < 3


@pytest.mark.skipif(HAS_GDCM, reason="python-gdcm is installed")
def test_a_compression_that_cannot_be_decoded_names_the_package() -> None:
    import pydicom
    from pydicom import encaps, uid

    file = pydicom.dcmread(io.BytesIO(dicom(STEPS)))
    file.file_meta.TransferSyntaxUID = uid.JPEGLSLossless
    file.PixelData = encaps.encapsulate([b"\xff\xd8\xff\xf7\0\x0b\0\0"])
    file["PixelData"].is_undefined_length = True
    out = io.BytesIO()
    pydicom.dcmwrite(out, file)
    with pytest.raises(ImageError, match="JPEG-LS Lossless Image Compression, needs the package python-gdcm"):
        convert(out.getvalue(), 100, 90, "a")


def test_views_come_from_the_header_where_the_tables_have_none(tmp_path: Path) -> None:
    fields: list[tuple[str, dict[str, Any], str]] = [
        ("a", {"ViewPosition": "PA"}, "PA"), ("b", {"ViewPosition": "LL"}, "LATERAL"), ("c", {}, ""),
    ]  # fmt: skip
    put(tmp_path / "clinic.yaml", "name: clinic", "title: x", "url: x", "licence: x", 'images: ["{image}.dcm"]',
        "tables: [{file: t.csv, image: id}]")  # fmt: skip
    put(tmp_path / "t.csv", "id", *(name for name, _, _ in fields))
    for name, header, _ in fields:
        (tmp_path / f"{name}.dcm").write_bytes(dicom(STEPS, **header))
    _, studies = read(str(tmp_path / "clinic.yaml"), tmp_path)
    assert {name: studies[name].images[0].view for name, _, _ in fields} == {name: wanted for name, _, wanted in fields}
    (tmp_path / "torn.dcm").write_bytes(b"\0" * 128 + b"DICM")
    assert view(tmp_path / "torn.dcm") == "" == view(tmp_path / "none.dcm")


EXTENDED = base64.b85decode(
    "|JeWF01!$>Nk#wx0RR9200961|JwjV00RO70|EjA0|NsD0|NvF2n7WM1O*BQ2L=cX3JeSj3JVJj4iXRz4iOFu3lJ6%5fc;@6%`B*7Z?^47!ni}"
    "6#u~h3k(1l03ZPY5di<h02KfM0RR9100000000000000C4gbUd8xQ~h2LS*80000000000000093MDr}Q*r;=00;pA002J#p3a8??vL9rrvepF"
    ";9b%CW)$E;vK$M#KWxIB2vtLYcSr4*Q-VwS91FTXY{HxfRYQSyN9~wXfeOfQF6jNU3UDD+4h7vGwqZ^QFX(VC=>4+_a3NI=1>GOEVNL`qA;7z%"
    "_RJ~3g;Y2fbbi@|I6wc{"
)
"""A JPEG Extended image of 12 bits (process 4), 32 x 24 pixels of the value 100 x + 30 y."""


def extended(jpeg: bytes = EXTENDED, rows: int = 24) -> bytes:
    one = Dataset()
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = uid.JPEGExtended12Bit
    one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID = uid.ComputedRadiographyImageStorage
    one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID = "1.2.3"
    one.Rows, one.Columns, one.SamplesPerPixel, one.PixelRepresentation = rows, 32, 1, 0
    one.BitsAllocated, one.BitsStored, one.HighBit, one.PhotometricInterpretation = 16, 12, 11, "MONOCHROME2"
    one.PixelData = encaps.encapsulate([jpeg])
    one["PixelData"].VR = "OB"
    out = io.BytesIO()
    one.save_as(out, enforce_file_format=True)
    return out.getvalue()


@needs_gdcm
def test_jpeg_extended_of_12_bits() -> None:
    values, inverse = reader.values(extended())
    wanted = np.add.outer(np.arange(24) * 30, np.arange(32) * 100)
    assert not inverse and values.shape == (24, 32) and np.abs(values.astype(int) - wanted).max() < 40
    assert convert(extended(), 32, 90).width == 32


@needs_gdcm
@pytest.mark.parametrize("raw", [extended(EXTENDED[:60]), extended(b"\xff\xd8 nothing"), extended(rows=48)])
def test_a_damaged_jpeg_of_12_bits_is_named(raw: bytes) -> None:
    with pytest.raises(ImageError):
        convert(raw, 32, 90)
