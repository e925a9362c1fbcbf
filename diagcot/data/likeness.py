"""Whether two images are copies of one picture, and whether an image looks as an X-ray image should."""

from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

BYTES = 32
"""Length of a digest."""
SAME = 16
"""Two digests that differ in at most so many of their 256 bits are of the same picture."""

_SIDE, _KEPT = 64, 16
_BLANK, _BLACK, _WHITE, _INVERTED = 24.0, 14.0, 241.0, 55.0


def small(image: Pillow.Image) -> NDArray[np.float64]:
    """The image that `digest` and `flags` look at, grey, [64, 64]."""
    return np.asarray(image.convert("L").resize((_SIDE, _SIDE), Pillow.Resampling.BOX), np.float64)


def digest(small: NDArray[np.float64]) -> bytes:
    """256 bits that stay nearly the same when an image is resized, compressed, or changed in brightness.

    They are the signs of the lowest coefficients of a discrete cosine transform (Zauner 2010, perceptual hashing).
    """
    basis = _cosines()
    coefficients = basis @ small @ basis.T
    coefficients[0, 0] = 0.0  # the mean brightness
    return np.packbits(coefficients > 0).tobytes()


@cache
def _cosines() -> NDArray[np.float64]:
    """The lowest rows of the matrix of the transform, [16, 64]."""
    places = (np.arange(_SIDE) + 0.5) / _SIDE
    rows: NDArray[np.float64] = np.cos(np.pi * np.arange(_KEPT)[:, None] * places[None, :])
    return rows


def flags(small: NDArray[np.float64]) -> tuple[str, ...]:
    """What makes an image look wrong: `almost blank`, `nearly black`, `nearly white`, `inverted`; mostly nothing."""
    low, high = np.percentile(small, (2, 98))
    if high - low < _BLANK:
        return ("almost blank",)
    if small.mean() < _BLACK:
        return ("nearly black",)
    if small.mean() > _WHITE:
        return ("nearly white",)
    return ("inverted",) if border_excess(small) > _INVERTED else ()


def border_excess(small: NDArray[np.float64]) -> float:
    """How much brighter the upper corners are than the middle; air around the neck is dark unless an image is inverted."""
    height, width = small.shape
    top, side = max(1, height // 8), max(1, width // 8)
    corners = np.concatenate([small[:top, :side].ravel(), small[:top, -side:].ravel()])
    middle = small[height // 4 : 3 * height // 4, 3 * width // 8 : 5 * width // 8]
    return float(corners.mean() - middle.mean())


class Lookup:
    """Finds the digests that are of the same picture as another one, among many.

    digests: [images, 32] bytes. Digests that differ in at most SAME bits agree in at least one of SAME + 1 pieces; the
    pieces are looked up, and only what agrees in one is compared.
    """

    def __init__(self, digests: NDArray[np.uint8]) -> None:
        self._digests = digests
        pieces = [_piece(digests, place) for place in range(SAME + 1)]
        self._orders = [np.argsort(piece, kind="stable") for piece in pieces]
        self._sorted = [piece[order] for piece, order in zip(pieces, self._orders, strict=True)]

    def find(self, digest: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Rows of the digests that are of the same picture as `digest`, [32] bytes."""
        candidates = []
        for place, (order, values) in enumerate(zip(self._orders, self._sorted, strict=True)):
            (wanted,) = _piece(digest[None], place)
            first, end = np.searchsorted(values, wanted), np.searchsorted(values, wanted, side="right")
            candidates.append(order[first:end])
        rows = np.unique(np.concatenate(candidates))
        differing = np.bitwise_count(self._digests[rows] ^ digest[None]).sum(axis=1)
        found: NDArray[np.int64] = rows[differing <= SAME]
        return found


def _piece(digests: NDArray[np.uint8], place: int) -> NDArray[np.uint32]:
    """Bits `place`, `place` + 17, … of each digest, as a number."""
    bits = np.unpackbits(digests, axis=1)[:, place :: SAME + 1].astype(np.uint32)
    weights = (1 << np.arange(bits.shape[1], dtype=np.uint32)).astype(np.uint32)
    pieces: NDArray[np.uint32] = (bits * weights).sum(axis=1, dtype=np.uint32)
    return pieces
