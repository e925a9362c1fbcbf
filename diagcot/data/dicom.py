"""Values of a DICOM image as they are to be shown, by the rules of the DICOM standard (PS3.3, PS3.5)."""

import io
import logging
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diagcot.data.errors import ImageError
from diagcot.data.study import view_of

if TYPE_CHECKING:
    from pydicom import FileDataset

_MAGIC = slice(128, 132)
_DEFLATED = b"1.2.840.10008.1.2.1.99"  # transfer syntax: Deflated Explicit VR Little Endian
_MOST_UNPACKED = 512 << 20  # bytes
_DECODED_BY = ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel")  # whole numbers
_SHOWN_BY = ("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth")  # numbers, or several of them
warnings.filterwarnings("ignore", module=r"pydicom\.")  # they quote values of the header
_ITEM = b"\xfe\xff\x00\xe0"  # the first tag of encapsulated pixel data (PS3.5 A.4)


def is_dicom(raw: bytes, source: Path | bytes) -> bool:
    """By the magic number; old files without it are recognised by their name."""
    by_name = isinstance(source, Path) and source.suffix.lower() in (".dcm", ".dicom")
    return raw[_MAGIC] == b"DICM" or (by_name and raw[:4] != b"\x89PNG" and raw[:2] != b"\xff\xd8")


def _read(raw: bytes, header_only: bool = False) -> "FileDataset":
    import pydicom

    logging.getLogger("pydicom").setLevel(
        logging.CRITICAL + 1
    )  # it tells the same as the warnings; its import sets a level
    _refuse_bomb(raw)
    dicom = pydicom.dcmread(io.BytesIO(raw), force=True, stop_before_pixels=header_only)
    if "Rows" not in dicom or "Columns" not in dicom:
        raise ImageError("the DICOM file has no image")
    return dicom


def _unusable(name: str, error: Exception) -> ImageError:
    """The fault of an element of the header, without the message of the library, which quotes its value."""
    return ImageError(f"the DICOM element {name} cannot be used ({type(error).__name__})")


def _number(dicom: "FileDataset", name: str, default: int | None = None) -> int:
    """The whole number of an element. Raises ImageError that names it if it is none, or missing without a default."""
    try:
        value = dicom.get(name)
        return default if value in (None, "") and default is not None else int(value)
    except Exception as error:  # pydicom parses a value when it is first read, and raises errors of many classes
        raise _unusable(name, error) from None


def _side(dicom: "FileDataset", name: str) -> int:
    """Pixels of a side, which have 16 bits (PS3.3 C.7.6.3); a larger number may be a date. Raises ImageError."""
    side = _number(dicom, name)
    if not 0 <= side < 1 << 16:
        raise ImageError(f"the DICOM element {name} is no number of pixels")
    return side


def _check_elements(dicom: "FileDataset") -> None:
    """Raise ImageError that names the first element which pydicom's functions could not use."""
    from pydicom.pixels.common import PhotometricInterpretation

    for name in _DECODED_BY:
        _number(dicom, name, 0)
    for name in ("PhotometricInterpretation", "PresentationLUTShape", "VOILUTFunction", *_SHOWN_BY):
        try:
            value = dicom.get(name)
            if name == "PhotometricInterpretation" and value:
                PhotometricInterpretation(value)
            elif name in _SHOWN_BY and value is not None:
                [float(number) for number in (value if hasattr(value, "append") else [value])]
        except Exception as error:
            raise _unusable(name, error) from None


def _refuse_bomb(raw: bytes) -> None:
    """Raise ImageError if a deflated file (PS3.5 A.5) unpacks to more than any image; pydicom unpacks it as a whole."""
    if raw[_MAGIC] == b"DICM" and _DEFLATED in raw[:4096]:
        start = 144 + int.from_bytes(raw[140:144], "little")  # after the group of the file's own elements (PS3.10 7.1)
        if len(zlib.decompressobj(-zlib.MAX_WBITS).decompress(raw[start:], _MOST_UNPACKED + 1)) > _MOST_UNPACKED:
            raise ImageError(
                f"the deflated DICOM file unpacks to over {_MOST_UNPACKED >> 20} MB, which no X-ray image has"
            )


def size(raw: bytes) -> tuple[int, int, int]:
    """Width, height and number of frames, from the header; `raw` may end before the pixels."""
    dicom = _read(raw, header_only=True)
    width, height = (_side(dicom, name) for name in ("Columns", "Rows"))
    return width, height, max(1, _number(dicom, "NumberOfFrames", 1))


def view(raw: bytes) -> str:
    """PA, AP, LATERAL or "" by View Position, else by View Code Sequence (PS3.3 C.8.11.5); `raw` may end before the pixels."""
    dicom = _read(raw, header_only=True)
    codes = [str(item.get("CodeMeaning", "")) for item in dicom.get("ViewCodeSequence") or ()]
    return next((found for text in (str(dicom.get("ViewPosition") or ""), *codes) if (found := view_of(text))), "")


def values(raw: bytes) -> tuple[np.ndarray, bool]:
    """Values of the first frame through modality and VOI look-up, and whether the smallest is white.

    The first of several windows is used (C.11.2.1.2), and a VOI table in preference to a window; a window narrower than
    PS3.3 allows is ignored. The smallest value is white for MONOCHROME1 (C.7.6.3.1.2) and for the presentation INVERSE
    (C.8.11.1.1.2). Padding (C.7.5.1.1.2) becomes black and has no effect on the range of values.
    Raises ImageError for a colour image and for a header that differs from the image.
    """
    from pydicom.pixels.processing import apply_modality_lut

    dicom = _read(raw)
    _check_elements(dicom)
    if dicom.get("SamplesPerPixel", 1) != 1:
        raise ImageError("a colour DICOM is not an X-ray image")
    stored = _stored(dicom)
    if stored.ndim == 3:
        stored = stored[0]
    width, height = (_side(dicom, name) for name in ("Columns", "Rows"))
    if stored.shape != (height, width):
        raise ImageError(
            f"the header says {width} x {height} pixels, the image has {stored.shape[1]} x {stored.shape[0]}"
        )
    shown = _windowed(apply_modality_lut(stored, dicom), dicom)
    padding = _padding(stored, dicom)
    inverse = dicom.PhotometricInterpretation == "MONOCHROME1" or dicom.get("PresentationLUTShape") == "INVERSE"
    if padding is not None and not padding.all():
        inside = shown[~padding]
        shown = np.where(padding, inside.max() if inverse else inside.min(), shown)
    return shown, inverse


def _stored(dicom: "FileDataset") -> np.ndarray:
    """The pixels as they are stored. A file without a transfer syntax gets the one that its bytes show."""
    import pydicom

    if getattr(dicom, "file_meta", None) is None:
        dicom.file_meta = pydicom.dataset.FileMetaDataset()
    if "TransferSyntaxUID" not in dicom.file_meta:
        dicom.file_meta.TransferSyntaxUID = _syntax(dicom)
    syntax = dicom.file_meta.TransferSyntaxUID
    if syntax == pydicom.uid.JPEGExtended12Bit and _number(dicom, "BitsStored", 8) > 8:
        return _twelve_bits(dicom)
    try:
        return dicom.pixel_array  # type: ignore[no-any-return]
    except (RuntimeError, NotImplementedError) as error:
        if "missing dependencies" in str(error):
            raise _needs_gdcm(syntax) from error
        raise


def _twelve_bits(dicom: "FileDataset") -> np.ndarray:
    """The first frame of a JPEG Extended image of 12 bits. pydicom refuses it, though GDCM decodes it; its values
    differ from those of libjpeg by at most 1. Raises ImageError if it is damaged.
    """
    from pydicom import encaps

    try:
        import gdcm
    except ImportError as error:
        raise _needs_gdcm(dicom.file_meta.TransferSyntaxUID) from error
    frames, width, height = (_number(dicom, name, 1) for name in ("NumberOfFrames", "Columns", "Rows"))
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(next(encaps.generate_frames(dicom.PixelData, number_of_frames=frames)))
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((width, height, 1))
    image.SetDataElement(element)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGExtendedProcess2_4))
    signed = _number(dicom, "PixelRepresentation", 0)
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, 12, 11, signed))
    try:
        buffer = image.GetBuffer()
    except Exception as error:  # SWIG's wrapper has no class of its own
        raise ImageError("its JPEG data is damaged") from error
    values = np.frombuffer(buffer.encode("utf-8", "surrogateescape"), np.int16 if signed else np.uint16)
    if values.size != width * height:
        raise ImageError("its JPEG data is damaged")
    return values.reshape(height, width)


def _needs_gdcm(syntax: Any) -> ImageError:
    return ImageError(f"its compression, {syntax.name}, needs the package python-gdcm: `make env` installs it")


def _syntax(dicom: "FileDataset") -> Any:
    """The transfer syntax of a file that states none: the encoding of its elements, or the mark of its compressed pixels.

    Without file meta information a data set is in the default transfer syntax, Implicit VR Little Endian (PS3.5 10.1);
    files in practice keep explicit elements, which the parser has recognised, or compressed pixels (seen in VinDr-CXR).
    """
    from pydicom import uid

    data = bytes(dicom.get("PixelData") or b"")
    if data[:4] == _ITEM:
        stream = data[data.find(_ITEM, 8 + int.from_bytes(data[4:8], "little")) + 8 :]
        if stream[:4] == b"\xff\x4f\xff\x51":
            return uid.JPEG2000
        frame = next(
            (stream[n + 1] for n in range(len(stream) - 1) if stream[n] == 0xFF and stream[n + 1] in _FRAMES), 0
        )
        return getattr(uid, _FRAMES.get(frame, "RLELossless"))
    implicit, little = dicom.original_encoding
    if implicit is False:
        return uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
    return uid.ImplicitVRLittleEndian


_FRAMES = {0xC0: "JPEGBaseline8Bit", 0xC1: "JPEGExtended12Bit", 0xC3: "JPEGLosslessSV1", 0xF7: "JPEGLSLossless"}
"""Start-of-frame marks of JPEG and JPEG-LS (ITU-T T.81, T.87) -> transfer syntax."""


def _windowed(shown: np.ndarray, dicom: "FileDataset") -> np.ndarray:
    from pydicom.pixels.processing import apply_voi, apply_windowing

    if dicom.get("VOILUTSequence"):
        return apply_voi(shown, dicom)  # type: ignore[no-any-return]
    widths = dicom.get("WindowWidth")
    width = widths[0] if isinstance(widths, list | tuple) or hasattr(widths, "append") else widths
    least = 1 if dicom.get("VOILUTFunction", "LINEAR") == "LINEAR" else 1e-9
    if width is None or dicom.get("WindowCenter") is None or float(width) < least:
        return shown
    return apply_windowing(shown, dicom)  # type: ignore[no-any-return]


def _padding(stored: np.ndarray, dicom: "FileDataset") -> np.ndarray | None:
    """Which pixels are padding; None if the file gives no padding value."""
    if dicom.get("PixelPaddingValue") is None:
        return None
    value = _number(dicom, "PixelPaddingValue")
    other = _number(dicom, "PixelPaddingRangeLimit", value)
    return (stored >= min(value, other)) & (stored <= max(value, other))
