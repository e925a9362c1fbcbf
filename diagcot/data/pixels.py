"""Films as files become small grey JPEGs: PNG (8 and 16 bit, grey, RGB, RGBA), JPEG and DICOM (also JPEG 2000)."""

import io
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL
from PIL import Image as Pillow
from PIL import features

from diagcot.data.errors import ImageError

if TYPE_CHECKING:
    from pydicom import FileDataset

PHANTOM_COMMENT = "phantom: drawn by diagcot, not a film of a person"
"""The JPEG comment of every phantom; an image that carries it is never taken for a person's."""

MAX_PIXELS = 120_000_000
"""More than any detector has (43 x 43 cm at 0.1 mm are 18 million); a header that claims more lies or is no film."""

MIN_SIDE = 8
warnings.filterwarnings(
    "ignore", category=Pillow.DecompressionBombWarning
)  # of Pillow's own limit, which is below ours
_RESAMPLE = Pillow.Resampling.LANCZOS
_DICOM_MARK = slice(128, 132)
_DICOM_HEADER = 1 << 20


@dataclass(frozen=True)
class Jpeg:
    """An encoded film and the size of its pixels."""

    data: bytes
    width: int
    height: int
    phantom: bool
    sha256: bytes = field(default=b"", compare=False, repr=False)  # of the file it was made from; b"" where not asked


def convert(source: Path | bytes, longest: int, quality: int, name: str = "") -> Jpeg:
    """Decode a film, bring its longest side down to `longest` pixels (never up), encode as grey JPEG.

    The orientation that EXIF claims is ignored: detectors write none, and films are stored as they are read.
    A phantom's comment is kept. A grey JPEG that is already small enough is passed on byte for byte.
    Raises ImageError that names the film (`name`, or the path): missing, damaged, of an absurd size, or blank.
    """
    name = name or str(source if isinstance(source, Path) else "film")
    try:
        raw = source.read_bytes() if isinstance(source, Path) else source
        if _is_dicom(raw, source):
            film = from_dicom(raw)
        else:
            film = _opened(io.BytesIO(raw))
            if film.format == "JPEG" and film.mode == "L" and max(film.size) <= longest:
                _not_blank(film)
                return Jpeg(raw, film.width, film.height, is_phantom(film))
            # A JPEG decodes straight to the next power of two above what is wanted: 1.6 times as fast on full films.
            film.draft("L", (longest, longest))
        phantom = is_phantom(film)
        film = grey(film)
        _not_blank(film)
        film.thumbnail((longest, longest), _RESAMPLE)
    except FileNotFoundError as error:
        raise ImageError(f"{name}: the file is not there") from error
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error
    except Exception as error:  # decoders raise whatever they like on damaged bytes
        raise ImageError(f"{name} is not a readable film ({type(error).__name__}: {error})") from error
    out = io.BytesIO()
    film.save(out, "JPEG", quality=quality, **({"comment": PHANTOM_COMMENT} if phantom else {}))
    return Jpeg(out.getvalue(), film.width, film.height, phantom)


def transform(longest: int, quality: int) -> list[str]:
    """The steps of `convert`, as a shard's provenance tells them."""
    return [
        "JPEG decoded at the smallest DCT scale (1, 1/2, 1/4, 1/8) that is not below the size wanted",
        "DICOM through its modality and VOI look-up, MONOCHROME1 inverted, padding black",
        "more than 8 bits stretched from least to most",
        "transparency dropped, colour to grey by ITU-R 601-2, no rotation by EXIF",
        f"Lanczos to {longest} pixels of the longest side, never enlarged",
        f"grey JPEG of quality {quality}; a grey JPEG that is small enough is kept byte for byte",
    ]


def libraries() -> dict[str, str]:
    """Versions of what decides the bytes of a film."""
    return {"numpy": np.__version__, "Pillow": PIL.__version__, "libjpeg-turbo": str(features.version("libjpeg_turbo"))}


def size(path: Path) -> tuple[int, int]:
    """Width and height of a film, from its header alone. Raises ImageError that names it."""
    try:
        with path.open("rb") as file:
            head = file.read(_DICOM_HEADER)
            if _is_dicom(head, path):
                return _dicom_size(_dicom(head, header_only=True))
            file.seek(0)
            return _opened(file).size
    except FileNotFoundError as error:
        raise ImageError(f"{path}: the file is not there") from error
    except Exception as error:
        raise ImageError(f"{path} is not a readable film ({type(error).__name__}: {error})") from error


def _opened(file: Any) -> Pillow.Image:
    film = Pillow.open(file)
    _sane(*film.size)
    return film


def _sane(width: int, height: int) -> None:
    if width * height > MAX_PIXELS or min(width, height) < MIN_SIDE:
        raise ImageError(f"the file claims {width} x {height} pixels, which no film has")


def _not_blank(film: Pillow.Image) -> None:
    low, high = film.getextrema()
    if low == high:
        raise ImageError("every pixel of the film is the same")


def is_phantom(film: Pillow.Image) -> bool:
    """Whether the film carries the comment of `diagcot.data.phantom`."""
    return bool(film.info.get("comment") == PHANTOM_COMMENT.encode())


def grey(film: Pillow.Image) -> Pillow.Image:
    """Any mode of a PNG or JPEG to 8-bit grey. 16-bit films are stretched from their own darkest to brightest pixel."""
    if film.mode == "L":
        film.load()
        return film
    if film.mode.startswith("I") or film.mode == "F":
        return stretched(np.asarray(film))
    if film.mode in ("RGBA", "LA", "PA"):  # a film has no transparency: the alpha channel is dropped, not blended
        film = film.convert("RGBA").convert("RGB")
    return film.convert("L")


def stretched(values: np.ndarray, invert: bool = False) -> Pillow.Image:
    """Darkest to brightest value, linearly, to 0 to 255."""
    values = values.astype(np.float32)
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) * (255.0 / max(high - low, 1e-6))
    return Pillow.fromarray((255.0 - scaled if invert else scaled).round().astype(np.uint8))


def _is_dicom(raw: bytes, source: Path | bytes) -> bool:
    """By its mark; old files without one are told by their name."""
    named = isinstance(source, Path) and source.suffix.lower() in (".dcm", ".dicom")
    return raw[_DICOM_MARK] == b"DICM" or (named and raw[:4] != b"\x89PNG" and raw[:2] != b"\xff\xd8")


def _dicom(raw: bytes, header_only: bool = False) -> "FileDataset":
    import pydicom

    film = pydicom.dcmread(io.BytesIO(raw), force=True, stop_before_pixels=header_only)
    if "Rows" not in film or "Columns" not in film:
        raise ImageError("a DICOM file without an image")
    return film


def _dicom_size(film: "FileDataset") -> tuple[int, int]:
    width, height = int(film.Columns), int(film.Rows)
    _sane(width, height * max(1, int(film.get("NumberOfFrames") or 1)))
    return width, height


def from_dicom(raw: bytes) -> Pillow.Image:
    """First frame of a DICOM file, through its modality and VOI look-up, MONOCHROME1 inverted (DICOM PS3.3 C.7.6.3).

    Of several windows the first is used (C.11.2.1.2), a VOI table before any window; a window narrower than PS3.3 allows
    is passed over. Padding (C.7.5.1.1.2) becomes black, and takes no part in the stretch to 0 to 255.
    """
    from pydicom.pixels.processing import apply_modality_lut

    film = _dicom(raw)
    size = _dicom_size(film)
    if film.get("SamplesPerPixel", 1) != 1:
        raise ImageError("a colour DICOM is not a radiograph")
    stored = film.pixel_array
    if stored.ndim == 3:
        stored = stored[0]
    if stored.shape[::-1] != size:
        raise ImageError(
            f"the header claims {size[0]} x {size[1]} pixels, the image has {stored.shape[1]} x {stored.shape[0]}"
        )
    values = _windowed(apply_modality_lut(stored, film), film)
    padding = _padding(stored, film)
    invert = film.PhotometricInterpretation == "MONOCHROME1"
    if padding is not None and not padding.all():
        shown = values[~padding]
        values = np.where(padding, shown.max() if invert else shown.min(), values)
    return stretched(values, invert)


def _windowed(values: np.ndarray, film: "FileDataset") -> np.ndarray:
    from pydicom.pixels.processing import apply_voi, apply_windowing

    if film.get("VOILUTSequence"):
        return apply_voi(values, film)
    widths = film.get("WindowWidth")
    width = widths[0] if isinstance(widths, list | tuple) or hasattr(widths, "append") else widths
    least = 1 if film.get("VOILUTFunction", "LINEAR") == "LINEAR" else 1e-9
    if width is None or film.get("WindowCenter") is None or float(width) < least:
        return values
    return apply_windowing(values, film)


def _padding(stored: np.ndarray, film: "FileDataset") -> np.ndarray | None:
    """Which pixels are padding; None where the file names no value for it."""
    value = film.get("PixelPaddingValue")
    if value is None:
        return None
    other = film.get("PixelPaddingRangeLimit", value)
    return (stored >= min(int(value), int(other))) & (stored <= max(int(value), int(other)))
