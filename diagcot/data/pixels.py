"""Converts image files to small grey JPEGs: PNG (8 and 16 bit, grey, RGB, RGBA), JPEG and DICOM (also JPEG 2000)."""

import io
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image as Pillow
from PIL import features

from diagcot.data import dicom, likeness
from diagcot.data.errors import ImageError
from diagcot.jobs.errors import StorageError
from diagcot.jobs.state import reading

PHANTOM_COMMENT = "phantom: drawn by diagcot, not a film of a person"
"""The JPEG comment of every phantom; an image with this comment is never used as that of a person."""

MAX_PIXELS = 120_000_000
"""More than any detector has (43 x 43 cm at 0.1 mm are 18 million); a header with more is wrong or not of an image."""

MAX_BYTES = 4 * MAX_PIXELS
"""Of a file: the largest image in colour or in 32 bits without compression."""
FORMATS = ("PNG", "JPEG")
"""What Pillow may decode: its decoders of other formats are never tried (that of EPS starts a program)."""
MIN_SIDE = 8
MAX_ASPECT = 20
"""Longer than any film; image processors of the models refuse 200, and a stored side would be a few pixels."""
warnings.filterwarnings("ignore", category=Pillow.DecompressionBombWarning)  # Pillow's limit is below MAX_PIXELS
_RESAMPLE = Pillow.Resampling.LANCZOS
_DICOM_HEADER = 1 << 20
_EXTREME = 0.0002  # of the pixels, at each end


@dataclass(frozen=True)
class Jpeg:
    """An encoded image and its size in pixels."""

    data: bytes
    width: int
    height: int
    phantom: bool
    sha256: bytes = field(default=b"", compare=False, repr=False)  # of the original file; b"" if it was not computed
    likeness: bytes = field(default=b"", compare=False, repr=False)  # perceptual digest; b"" of a phantom
    flags: tuple[str, ...] = field(default=(), compare=False)  # what makes the image look wrong


def convert(source: Path | bytes, longest: int, quality: int, name: str = "") -> Jpeg:
    """Decode an image, reduce its longest side to `longest` pixels (never enlarge it), and encode it as a grey JPEG.

    The orientation of EXIF is ignored: detectors do not write it, and images are stored as they are read. The comment of
    a phantom is kept. A grey JPEG that is small enough is returned byte for byte. quality: 1 to 95.
    Raises ImageError that names the image (`name`, or the path) if it is missing, damaged, blank, or too large or small.
    """
    name = name or str(source if isinstance(source, Path) else "image")
    try:
        raw = content(source) if isinstance(source, Path) else source
        if dicom.is_dicom(raw, source):
            image = from_dicom(raw)
        else:
            image = _open_checked(io.BytesIO(raw))
            if image.format == "JPEG" and image.mode == "L" and max(image.size) <= longest:
                _not_blank(image)
                return _jpeg(raw, image, is_phantom(image))
            # The decoder reduces a JPEG to the next scale above the wanted size: 1.6 times as fast on full-size images.
            image.draft("L", (longest, longest))
        phantom = is_phantom(image)
        image = grey(image)
        _not_blank(image)
        image.thumbnail((longest, longest), _RESAMPLE)
    except StorageError:
        raise
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error
    except Exception as error:  # decoders raise errors of any class on damaged bytes
        raise _unreadable(name, error) from None
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality, **({"comment": PHANTOM_COMMENT} if phantom else {}))
    return _jpeg(out.getvalue(), image, phantom)


def content(path: Path) -> bytes:
    """The bytes of an image file. Raises ImageError without its name if there is none, or if it is longer than any image:
    it is then not read. Raises StorageError if the machine could not read it.
    """
    try:
        length = reading.patient(path, path.stat).st_size
        if length > MAX_BYTES:
            raise ImageError(f"the image is too large ({length >> 20} MB)")
        return reading.read_bytes(path)
    except FileNotFoundError:
        raise ImageError("the file does not exist") from None
    except StorageError:
        raise
    except OSError as error:
        raise ImageError(f"the file cannot be read ({error.strerror})") from error


def _jpeg(data: bytes, image: Pillow.Image, phantom: bool) -> Jpeg:
    """The encoded image with its digest and flags; a phantom needs neither, because it is known what it shows."""
    if phantom:
        return Jpeg(data, image.width, image.height, True)
    small = likeness.small(image)
    return Jpeg(data, image.width, image.height, False, likeness=likeness.digest(small), flags=likeness.flags(small))


def transform(longest: int, quality: int) -> list[str]:
    """The steps of `convert` in words, for the provenance of a shard."""
    return [
        "JPEG decoded at the smallest DCT scale (1, 1/2, 1/4, 1/8) that is not below the size wanted",
        "DICOM through its modality and VOI look-up, MONOCHROME1 and presentation INVERSE inverted, padding black",
        "more than 8 bits stretched from least to most; single extreme values are clipped",
        "transparency dropped, colour to grey by ITU-R 601-2, no rotation by EXIF",
        f"Lanczos to {longest} pixels of the longest side, never enlarged",
        f"grey JPEG of quality {quality}; a grey JPEG that is small enough is kept byte for byte",
    ]


def libraries() -> dict[str, str]:
    """Versions of the libraries that decide the bytes of an image."""
    return {"numpy": np.__version__, "Pillow": PIL.__version__, "libjpeg-turbo": str(features.version("libjpeg_turbo"))}


def size(path: Path) -> tuple[int, int]:
    """Width and height of an image, read from its header. Raises ImageError that names it."""
    try:
        with reading.opened(path) as file:
            head = file.read(_DICOM_HEADER)
            if dicom.is_dicom(head, path):
                width, height, frames = dicom.size(head)
                _check_size(width, height * frames)
                return width, height
            file.seek(0)
            return _open_checked(file).size  # type: ignore[no-any-return]
    except FileNotFoundError as error:
        raise ImageError(f"{path}: the file does not exist") from error
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    except Exception as error:
        reading.check_storage(path, error)
        raise _unreadable(str(path), error) from None


def _unreadable(name: str, error: Exception) -> ImageError:
    """The error for a file that a decoder refused, without the decoder's message, which may quote what the file holds."""
    cause = type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        cause = error.strerror
    elif isinstance(error, PIL.UnidentifiedImageError):
        cause = "neither PNG, JPEG nor DICOM"
    elif isinstance(error, OSError) and "truncated" in str(error):
        cause = "it is incomplete"
    return ImageError(f"{name} is not a readable image ({cause})")


def _open_checked(file: Any) -> Pillow.Image:
    image = Pillow.open(file, formats=FORMATS)
    _check_size(*image.size)
    return image


def _check_size(width: int, height: int) -> None:
    shortest, longest = sorted((width, height))
    if width * height > MAX_PIXELS or shortest < MIN_SIDE or longest > MAX_ASPECT * shortest:
        raise ImageError(f"the header says {width} x {height} pixels, which no X-ray image has")


def _not_blank(image: Pillow.Image) -> None:
    values = np.asarray(image)  # five times as fast as Pillow's getextrema()
    if values.min() == values.max():
        raise ImageError("all pixels of the image are equal")


def is_phantom(image: Pillow.Image) -> bool:
    """Whether the image carries `PHANTOM_COMMENT`."""
    return bool(image.info.get("comment") == PHANTOM_COMMENT.encode())


def grey(image: Pillow.Image) -> Pillow.Image:
    """Any mode of a PNG or JPEG as 8-bit grey. 16-bit images are stretched from their darkest to their brightest pixel."""
    if image.mode == "L":
        image.load()
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return stretched(np.asarray(image))
    if image.mode in ("RGBA", "LA", "PA"):  # an X-ray has no transparency: the alpha channel is dropped, not blended
        image = image.convert("RGBA").convert("RGB")
    return image.convert("L")


def stretched(values: np.ndarray, invert: bool = False) -> Pillow.Image:
    """Map the darkest to the brightest value linearly to 0 to 255; `invert` swaps black and white.

    If a few pixels (0.02 % at each end) take more than half of the range, such as a defect of the detector, they are clipped.
    """
    values = values.astype(np.float32)
    low, high = float(values.min()), float(values.max())
    sample = values.ravel()[:: max(1, values.size // 1_000_000)]
    cut = max(2, round(_EXTREME * sample.size))
    ordered = np.partition(sample, (cut, sample.size - 1 - cut))
    inner_low, inner_high = float(ordered[cut]), float(ordered[-1 - cut])
    if 0 < inner_high - inner_low < (high - low) / 2:
        low, high = inner_low, inner_high
        values = values.clip(low, high)
    scaled = (values - low) * (255.0 / max(high - low, 1e-6))
    return Pillow.fromarray((255.0 - scaled if invert else scaled).round().astype(np.uint8))


def from_dicom(raw: bytes) -> Pillow.Image:
    """First frame of a DICOM file as 8-bit grey; see `diagcot.data.dicom`. Raises ImageError."""
    width, height, frames = dicom.size(raw)
    _check_size(width, height * frames)
    return stretched(*dicom.values(raw))


def view(path: Path) -> str:
    """The view that the header of a DICOM file states (PA, AP, LATERAL); "" for other files and unreadable ones."""
    try:
        with reading.opened(path) as file:
            head = file.read(_DICOM_HEADER)
        return dicom.view(head) if dicom.is_dicom(head, path) else ""
    except Exception as error:  # reported when the image itself is read
        reading.check_storage(path, error)
        return ""
