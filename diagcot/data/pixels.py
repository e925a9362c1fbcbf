"""Films as files become small grey JPEGs: PNG (8 and 16 bit, grey, RGB, RGBA), JPEG and DICOM (also JPEG 2000)."""

import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import PIL
from PIL import Image as Pillow
from PIL import features

from diagcot.data.errors import ImageError
from diagcot.data.phantom import COMMENT

_RESAMPLE = Pillow.Resampling.LANCZOS
_DICOM_MARK = slice(128, 132)


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

    A phantom's comment is kept. A grey JPEG that is already small enough is passed on byte for byte.
    Raises ImageError that names the film (`name`, or the path).
    """
    name = name or str(source if isinstance(source, Path) else "film")
    try:
        raw = source.read_bytes() if isinstance(source, Path) else source
        if raw[_DICOM_MARK] == b"DICM":
            film = from_dicom(raw)
        else:
            film = Pillow.open(io.BytesIO(raw))
            if film.format == "JPEG" and film.mode == "L" and max(film.size) <= longest:
                film.load()
                return Jpeg(raw, film.width, film.height, is_phantom(film))
            # A JPEG decodes straight to the next power of two above what is wanted: 1.6 times as fast on full films.
            film.draft("L", (longest, longest))
        phantom = is_phantom(film)
        film = grey(film)
        film.thumbnail((longest, longest), _RESAMPLE)
    except FileNotFoundError as error:
        raise ImageError(f"{name}: the file is not there") from error
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error
    except Exception as error:  # decoders raise whatever they like on damaged bytes
        raise ImageError(f"{name} is not a readable film ({type(error).__name__}: {error})") from error
    out = io.BytesIO()
    film.save(out, "JPEG", quality=quality, **({"comment": COMMENT} if phantom else {}))
    return Jpeg(out.getvalue(), film.width, film.height, phantom)


def transform(longest: int, quality: int) -> list[str]:
    """The steps of `convert`, as a shard's provenance tells them."""
    return [
        "JPEG decoded at the smallest DCT scale (1, 1/2, 1/4, 1/8) that is not below the size wanted",
        "DICOM through its modality and VOI look-up, MONOCHROME1 inverted; more than 8 bits stretched from least to most",
        "transparency dropped, colour to grey by ITU-R 601-2, no rotation by EXIF",
        f"Lanczos to {longest} pixels of the longest side, never enlarged",
        f"grey JPEG of quality {quality}; a grey JPEG that is small enough is kept byte for byte",
    ]


def libraries() -> dict[str, str]:
    """Versions of what decides the bytes of a film."""
    return {"numpy": np.__version__, "Pillow": PIL.__version__, "libjpeg-turbo": str(features.version("libjpeg_turbo"))}


def is_phantom(film: Pillow.Image) -> bool:
    """Whether the film carries the comment of `diagcot.data.phantom`."""
    return bool(film.info.get("comment") == COMMENT.encode())


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


def from_dicom(raw: bytes) -> Pillow.Image:
    """First frame of a DICOM file, through its modality and VOI look-up, MONOCHROME1 inverted (DICOM PS3.3 C.7.6.3)."""
    import pydicom
    from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

    film = pydicom.dcmread(io.BytesIO(raw))
    if film.get("SamplesPerPixel", 1) != 1:
        raise ImageError("a colour DICOM is not a radiograph")
    values = apply_voi_lut(apply_modality_lut(film.pixel_array, film), film)
    if values.ndim == 3:
        values = values[0]
    return stretched(values, invert=film.PhotometricInterpretation == "MONOCHROME1")
