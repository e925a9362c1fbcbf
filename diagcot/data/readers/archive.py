"""Reports of a zip file, read by study number without unpacking; the list of 227,835 reports takes 16 bytes for each.

The standard library's `zipfile` keeps an object of half a kilobyte for each member, in every array task. The layout is
that of PKWARE's APPNOTE 6.3.10, section 4.3.
"""

import re
import struct
import zlib
from array import array
from pathlib import Path

import numpy as np

from diagcot.data.errors import DataError
from diagcot.jobs.state import reading

_END, _END64, _LOCATOR64, _MEMBER = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"PK\x01\x02"
_STUDY = re.compile(rb"(?:^|/)s(\d{1,9})\.txt$")
_STORED, _DEFLATED = 0, 8


MOST_UNPACKED = 512 << 20
"""Bytes of an archive that is unpacked as a whole; NLM's has 20 MB."""
MOST_REPORT = 4 << 20
"""Bytes of one report; MIMIC-CXR's longest has 10 kB."""


def inflate(data: bytes, most: int, form: int = zlib.MAX_WBITS | 16) -> bytes:
    """Unpack deflated data. form: as `wbits` of zlib, by default gzip. Raises ValueError: over `most` bytes, or cut short."""
    found, left = [], most
    while data:
        packed = zlib.decompressobj(form)
        found.append(packed.decompress(data, left + 1))
        left -= len(found[-1])
        if left < 0:
            raise ValueError(f"it unpacks to over {most >> 20} MB")
        if not packed.eof:
            raise ValueError("it is incomplete")
        data = packed.unused_data.lstrip(b"\0") if form != -zlib.MAX_WBITS else b""  # further members
    return b"".join(found)


class ReportZip:
    """The members `…/s<number>.txt` of a zip file. Raises DataError for a file that is damaged or not a zip file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        numbers, offsets, sizes = array("I"), array("Q"), array("I")
        try:
            with reading.opened(path) as file:
                start, length = self._directory(file.read, file.seek, path.stat().st_size)
                file.seek(start)
                directory = memoryview(file.read(length))
        except (OSError, struct.error) as error:
            reading.check_storage(path, error)
            raise self._damaged(error) from error
        at = 0
        while bytes(directory[at : at + 4]) == _MEMBER:
            packed, _, name, extra, comment = struct.unpack_from("<IIHHH", directory, at + 20)
            (offset,) = struct.unpack_from("<I", directory, at + 42)
            match = _STUDY.search(bytes(directory[at + 46 : at + 46 + name]))
            if match:
                if 0xFFFFFFFF in (packed, offset):
                    raise DataError(f"{path} holds members beyond 4 GB; unpack it and give the folder as `reports`")
                numbers.append(int(match[1]))
                offsets.append(offset)
                sizes.append(packed)
            at += 46 + name + extra + comment
        if at != len(directory):
            raise self._damaged("its list of members is incomplete")
        order = np.argsort(np.frombuffer(numbers, np.uint32), kind="stable")
        self._numbers = np.frombuffer(numbers, np.uint32)[order]
        self._offsets = np.frombuffer(offsets, np.uint64)[order]
        self._sizes = np.frombuffer(sizes, np.uint32)[order]

    def __len__(self) -> int:
        return len(self._numbers)

    def read(self, number: int) -> bytes | None:
        """The bytes of `s<number>.txt`; None if there is no such member. Raises DataError for a damaged member."""
        at = int(np.searchsorted(self._numbers, number))
        if at == len(self._numbers) or self._numbers[at] != number:
            return None
        try:
            with reading.opened(self.path) as file:
                file.seek(int(self._offsets[at]))
                head = file.read(30)
                method, _, _, crc = struct.unpack_from("<HHHI", head, 8)
                name, extra = struct.unpack_from("<HH", head, 26)
                file.seek(name + extra, 1)
                data = file.read(int(self._sizes[at]))
            if head[:4] != b"PK\x03\x04" or method not in (_STORED, _DEFLATED):
                raise ValueError("not a deflated member")
            text = inflate(data, MOST_REPORT, -zlib.MAX_WBITS) if method == _DEFLATED else data
            if crc and zlib.crc32(text) != crc:  # writers that stream leave 0 here
                raise ValueError("its checksum differs")
        except (OSError, ValueError, struct.error, zlib.error) as error:
            reading.check_storage(self.path, error)
            raise DataError(
                f"{self.path}: the report s{number}.txt is damaged ({error}); download the zip again"
            ) from error
        return text

    def _directory(self, read, seek, size: int) -> tuple[int, int]:  # type: ignore[no-untyped-def]
        """Start and length of the list of members, in bytes."""
        seek(max(0, size - (1 << 16) - 22))
        tail = read()
        end = tail.rfind(_END)
        if end < 0:
            raise self._damaged("its end is missing: the download stopped early, or it is not a zip file")
        length, start = struct.unpack_from("<II", tail, end + 12)
        (count,) = struct.unpack_from("<H", tail, end + 10)
        if count == 0xFFFF or start == 0xFFFFFFFF:  # more than 65,535 members: the zip64 record has the numbers
            locator = tail.rfind(_LOCATOR64, 0, end)
            if locator >= 0:
                (place,) = struct.unpack_from("<Q", tail, locator + 8)
                seek(place)
                record = read(56)
                if record[:4] != _END64:
                    raise self._damaged("its zip64 record is not in its place")
                length, start = struct.unpack_from("<QQ", record, 40)
        if start + length > size - len(tail) + end:
            raise self._damaged("its list of members is incomplete")
        return start, length

    def _damaged(self, why: object) -> DataError:
        return DataError(f"{self.path} is damaged ({why}); download it again")
