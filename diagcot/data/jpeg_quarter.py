"""Decodes a grey baseline JPEG at a quarter of its size: the very pixels of libjpeg-turbo, in two thirds of its time.

Nearly all of the time that a full-size film takes is Huffman decoding. Here one look into a table gives two coefficients
with their values, not the length of one code; the rest is libjpeg's own reduced inverse transform (`jpeg_idct_2x2` of its
jidctred.c) in the same integers. Compiled by numba, which checks no bounds: the bytes are followed by a marker, at which
reading stops, and the places that codes can lead to are inside their arrays.

Whatever is not a plain film, or not as the standard (ITU T.81) has it, is left to the library: `quarter` returns None.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diagcot.jobs.environment.compiled import compiled

_LOOK = 12  # bits of a look into a table
_ENDS = 128  # what a run adds where the block ends
_PADDING = 8  # bytes after an image, a marker each
_BEYOND = 1 << 20  # bits that seem to follow the last one
_LARGEST = 2047  # of a coefficient times its step, in images of 8 bits; beyond, implementations differ
# Constants of jidctred.c, times 2**13.
_C0, _C1, _C2, _C3 = 5906, 6967, 10426, 29692
# fmt: off
_ZIGZAG = np.array([
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62,
    63,
])
# fmt: on
_PLACES = np.concatenate([_ZIGZAG, np.full(512 - 64, 64)])
"""Place of a coefficient in its block; 64, which is nowhere, for those that follow the end."""


class _Header(NamedTuple):
    width: int
    height: int
    steps: NDArray[np.int32]  # of quantisation, (64,)
    dc: tuple[NDArray[np.uint8], NDArray[np.uint8]]  # how many codes have each length, (16,), and their symbols
    ac: tuple[NDArray[np.uint8], NDArray[np.uint8]]
    start: int  # of the coded data


def quarter(raw: bytes) -> NDArray[np.uint8] | None:
    """Grey pixels, [height / 4, width / 4] rounded up; None where the image is of another kind, or not quite right."""
    header = _header(raw)
    if header is None:
        return None
    tables = []
    for lengths, symbols in (header.dc, header.ac):
        whole, look = np.zeros(1 << 16, np.uint16), np.zeros(1 << _LOOK, np.int32)
        if not _read_codes(lengths, symbols, whole, look, symbols is header.ac[1]):
            return None
        tables += [whole, look]
    across, down = -(-header.width // 8), -(-header.height // 8)
    pixels = np.empty((2 * down, 2 * across), np.uint8)
    data = raw[header.start :] + b"\xff" * _PADDING
    fours = np.ndarray(len(data) - 3, "<u4", data, strides=(1,))  # those that begin at each byte
    if not _decode(fours, *tables, _in_pairs(tables[-1]), header.steps, _PLACES, pixels):
        return None
    return pixels[: -(-header.height // 4), : -(-header.width // 4)]


def _header(raw: bytes) -> _Header | None:
    """What the segments before the coded data say; None unless the image is grey, of 8 bits, baseline, and in one piece."""
    steps, frame, codes = None, b"", {}
    for marker, body, end in _segments(raw):
        if marker == 0xDB and len(body) == 65 and body[0] == 0:
            steps = np.zeros(64, np.int32)
            steps[_ZIGZAG] = np.frombuffer(body, np.uint8, 64, 1)
        elif marker == 0xC0 and not frame and len(body) == 9 and body[0] == 8 and body[5] == 1 and body[7:] == b"\x11\x00":
            frame = body
        elif marker == 0xC4:
            left = body
            while len(left) > 17 and len(left) >= 17 + (count := sum(left[1:17])):
                codes[left[0]] = np.frombuffer(left, np.uint8, 16, 1), np.frombuffer(left, np.uint8, count, 17)
                left = left[17 + count :]
            if left or codes.keys() - {0, 16}:
                return None
        elif marker == 0xDA:
            width, height = int.from_bytes(frame[3:5]), int.from_bytes(frame[1:3])
            if body != b"\x01" + frame[6:7] + b"\x00\x00\x3f\x00" or steps is None or not width * height:
                return None
            whole = len(codes) == 2 and max(codes[0][1], default=0) < 12
            return _Header(width, height, steps, codes[0], codes[16], end) if whole else None
        elif marker not in (*range(0xE0, 0xF0), 0xFE):
            return None
    return None


def _segments(raw: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Marker, content and end of each segment up to the coded data, as far as they are well formed."""
    at = 2
    while raw[at : at + 1] == b"\xff" and len(raw) >= at + 4:
        end = at + 2 + int.from_bytes(raw[at + 2 : at + 4])
        if not at + 4 <= end < len(raw):
            return
        yield raw[at + 1], raw[at + 4 : end], end
        at = end


@compiled()
def _read_codes(lengths: Any, symbols: Any, whole: Any, look: Any, ac: bool) -> bool:
    """Fill the tables of a set of codes; False if there are too many.

    whole: for each 16 bits the length of their code, times 256, and its symbol; 0 where there is none. look: for the first
    12 bits the value, times 65536, the run before it, times 256, and the number of bits of code and value; 0 if they are more.
    """
    code, number = 0, 0
    for length in range(1, 17):
        for _ in range(lengths[length - 1]):
            if code + 1 << 16 - length > 1 << 16:
                return False
            whole[code << 16 - length : code + 1 << 16 - length] = length << 8 | symbols[number]
            code, number = code + 1, number + 1
        code <<= 1
    for bits in range(len(look)):
        found = whole[bits << 16 - _LOOK]
        length, size, run = found >> 8, found & 15, (found & 255) >> 4
        if length == 0 or length + size > _LOOK or (size == 0 and run % 15 != 0) or (run != 0 and not ac):
            continue
        value = 0
        if size > 0:
            value = (bits >> _LOOK - length - size) & (1 << size) - 1
            if value < 1 << size - 1:
                value += 1 - (1 << size)
        if ac and size == 0 and run == 0:
            run = _ENDS
        look[bits] = value * 65536 + run * 256 + length + size
    return True


@compiled()
def _in_pairs(look: Any) -> Any:
    """For the same bits two coefficients: both values, the run before the first, the step to the second, to the next, and
    the number of bits, in 16, 16, 8, 8, 8 and 8 bits. Where there is no second one its step leads nowhere."""
    pairs = np.zeros(len(look), np.int64)
    for bits in range(len(look)):
        used, run, value = look[bits] & 255, look[bits] >> 8 & 255, look[bits] >> 16
        if used == 0 or run >= _ENDS:
            continue
        following = look[(bits << used) & len(look) - 1]
        second, other, after = _ENDS, 0, run + 1
        if 0 < following & 255 <= _LOOK - used:
            second, other = run + 1 + (following >> 8 & 255), following >> 16
            after, used = second + 1, used + (following & 255)
        pairs[bits] = value << 48 | (other & 0xFFFF) << 32 | run << 24 | second << 16 | after << 8 | used
    return pairs


@compiled()
def _fill(fours: Any, at: int, bits: Any, count: int) -> Any:
    """At least 32 bits behind the `count` first ones of `bits`, zeros after a marker; and where the next are."""
    four = np.uint64(fours[at])
    others = ~four & np.uint64(0xFFFFFFFF)
    if (others - np.uint64(0x01010101)) & four & np.uint64(0x80808080) == 0:  # no byte of them is 255
        four = (four & np.uint64(0x00FF00FF)) << np.uint64(8) | (four >> np.uint64(8)) & np.uint64(0x00FF00FF)
        four = (four << np.uint64(16) | four >> np.uint64(16)) & np.uint64(0xFFFFFFFF)
        return at + 4, bits | four << np.uint64(32 - count), count + 32
    while count <= 56:
        byte = np.uint64(fours[at] & 255)
        if byte == 255:
            if fours[at] >> 8 & 255 != 0:
                return at, bits, count + _BEYOND
            at += 1  # 255 and 0 stand for 255
        bits |= byte << np.uint64(56 - count)
        at, count = at + 1, count + 8
    return at, bits, count


@compiled()
def _value(bits: Any, size: int) -> Any:
    """The value that the first bits stand for."""
    if size == 0:
        return 0
    value = np.int64(bits >> np.uint64(64 - size))
    return value if value >= 1 << size - 1 else value + 1 - (1 << size)


@compiled()
def _coefficients(
    fours: Any, at: int, bits: Any, count: int, codes: Any, look: Any, pairs: Any, places: Any, block: Any
) -> Any:
    """Read the coefficients of a block but the first; returns what is next, and False if a code is not in the tables."""
    shift, number = np.uint64(64 - _LOOK), 1
    while number < 64:
        if count < 32:
            at, bits, count = _fill(fours, at, bits, count)
        found = pairs[bits >> shift]
        used, place = found & 255, number + (found >> 24 & 255)
        if used != 0 and place < 63:  # at 63 the block ends, and what follows is of the next one
            block[places[place]] = found >> 48
            block[places[number + (found >> 16 & 255)]] = np.int16(found >> 32 & 0xFFFF)
            bits, count, number = bits << np.uint64(used), count - used, number + (found >> 8 & 255)
            continue
        one = look[bits >> shift]
        if one != 0:
            number += one >> 8 & 255
            block[places[number]] = one >> 16
            bits, count, number = bits << np.uint64(one & 255), count - (one & 255), number + 1
            continue
        code = codes[bits >> np.uint64(48)]
        length, size, run = code >> 8, code & 15, (code & 255) >> 4
        if length == 0 or size > 10 or (size == 0 and run % 15 != 0):
            return at, bits, count, False
        bits, number = bits << np.uint64(length), number + (run if size != 0 or run != 0 else _ENDS)
        block[places[number]] = _value(bits, size)
        bits, count, number = bits << np.uint64(size), count - length - size, number + 1
    return at, bits, count, number == 64 or number > _ENDS


@compiled()
def _transform(block: Any, steps: Any, half: Any, pixels: Any, row: int, column: int) -> bool:
    """Two by two pixels of a block, by jpeg_idct_2x2; False if a coefficient is too large. half: room for its columns."""
    largest = np.int64(0)
    for at in (0, 1, 3, 5, 7):
        mean = block[at] * steps[at]
        first, third = block[8 + at] * steps[8 + at], block[24 + at] * steps[24 + at]
        fifth, last = block[40 + at] * steps[40 + at], block[56 + at] * steps[56 + at]
        for one in (mean, first, third, fifth, last):
            largest |= one ^ one >> 63
        odd = _C3 * first - _C2 * third + _C1 * fifth - _C0 * last
        half[0, at] = ((mean << 15) + odd + (1 << 12)) >> 13
        half[1, at] = ((mean << 15) - odd + (1 << 12)) >> 13
    for line in range(2):
        mean = half[line, 0] << 15
        odd = _C3 * half[line, 1] - _C2 * half[line, 3] + _C1 * half[line, 5] - _C0 * half[line, 7]
        left, right = ((mean + odd + (1 << 19)) >> 20) + 128, ((mean - odd + (1 << 19)) >> 20) + 128
        pixels[2 * row + line, 2 * column] = min(max(left, 0), 255)
        pixels[2 * row + line, 2 * column + 1] = min(max(right, 0), 255)
    return bool(largest <= _LARGEST)


@compiled()
def _decode(
    fours: Any,
    dc_codes: Any,
    dc_look: Any,
    ac_codes: Any,
    ac_look: Any,
    pairs: Any,
    steps: Any,
    places: Any,
    pixels: Any,
) -> bool:
    """Fill the pixels, [2 down, 2 across], of which each block gives two by two; False if something is not as it should be."""
    at, bits, count, level = 0, np.uint64(0), 0, 0
    block, half = np.zeros(65, np.int64), np.zeros((2, 8), np.int64)
    shift = np.uint64(64 - _LOOK)
    for row in range(len(pixels) // 2):
        for column in range(pixels.shape[1] // 2):
            if count < 32:
                at, bits, count = _fill(fours, at, bits, count)
            found = dc_look[bits >> shift]
            if found != 0:
                level += found >> 16
                bits, count = bits << np.uint64(found & 255), count - (found & 255)
            else:
                code = dc_codes[bits >> np.uint64(48)]
                length, size = code >> 8, code & 255
                if length == 0 or size > 11:
                    return False
                bits <<= np.uint64(length)
                level += _value(bits, size)
                bits, count = bits << np.uint64(size), count - length - size
            block[:] = 0
            block[0] = level
            at, bits, count, right = _coefficients(fours, at, bits, count, ac_codes, ac_look, pairs, places, block)
            if not right or _BEYOND // 2 < count < _BEYOND or not _transform(block, steps, half, pixels, row, column):
                return False
    # All bits are used but for those that fill the last byte, and the end follows.
    return count % _BEYOND < 8 and fours[at] & 0xFFFF == 0xD9FF
