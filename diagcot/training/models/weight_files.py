"""What safetensors files hold, by their headers alone. Used while planning: nothing heavy is imported.

A file is the header's length (8 bytes, little endian), the header (JSON: tensor -> type, shape, first and last byte), and
the bytes of all tensors (huggingface.co/docs/safetensors).
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from diagcot.jobs import ModelError
from diagcot.jobs.state import reading

LFS_POINTER = b"version https://git-lfs"  # github.com/git-lfs/git-lfs/blob/main/docs/spec.md
_MOST_HEADER = 16 << 20  # bytes: a hundred thousand tensors. As JSON in memory it may take 30 times as much
_BITS = {"BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
         "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64}  # fmt: skip
"""Bits of a value, by the name of its type."""


class StoredTensor(NamedTuple):
    """A tensor of a file: its type (such as BF16), its shape, its first byte in the file and the one after its last."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def tensors_of(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file by name.

    Raises ModelError if the file is a Git-LFS pointer, has not all of its bytes, or is no safetensors file; StorageError
    if it cannot be read.
    """
    refuse_pointer(path)
    size = reading.patient(path, path.stat).st_size
    length = int.from_bytes(_read(path, 0, 8), "little")
    if size < 8 or length > size - 8:
        raise ModelError(f"{path} is cut short or is no safetensors file ({size:,} bytes); download it again")
    if length > _MOST_HEADER:
        raise ModelError(
            f"{path} is no safetensors file (its header has {length >> 20} MB, over {_MOST_HEADER >> 20}); download it again"
        )
    try:
        rows: dict[str, Any] = json.loads(_read(path, 8, length))
        rows.pop("__metadata__", None)
        tensors = {name: _tensor(row, 8 + length) for name, row in rows.items()}
        _check_places(tensors, 8 + length)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise ModelError(f"{path} is no safetensors file (its header: {error}); download it again") from None
    expected = max((tensor.end for tensor in tensors.values()), default=8 + length)
    if size != expected:
        raise ModelError(
            f"{path} has {size:,} bytes instead of {expected:,}: it is cut short or damaged; download it again"
        )
    return tensors


def _tensor(row: Any, first: int) -> StoredTensor:
    """A tensor by its entry in the header. first: the place of the first byte of all. Raises ValueError and others."""
    (start, end), shape = row["data_offsets"], tuple(row["shape"])
    if not isinstance(row["dtype"], str) or not all(
        type(number) is int and number >= 0 for number in (*shape, start, end)
    ):
        raise ValueError("a type is no text, or a size or place no whole number")
    bits = _BITS.get(row["dtype"])
    if bits and math.prod(shape) * bits != (end - start) * 8:
        raise ValueError("the bytes of a tensor do not fit its type and shape")
    return StoredTensor(row["dtype"], shape, first + start, first + end)


def _check_places(tensors: Mapping[str, StoredTensor], first: int) -> None:
    """Raise ValueError unless the tensors follow each other without gaps, as the format asks."""
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.start, tensor.end)):
        if tensor.start != first or tensor.end < first:
            raise ValueError("its tensors overlap, or there is a gap between them")
        first = tensor.end


def beginnings(path: Path, tensors: Iterable[StoredTensor], size: int = 4096) -> Iterator[bytes]:
    """The first `size` bytes of each tensor of a file, or all of a smaller one. Raises StorageError."""
    with reading.patient(path, lambda: reading.opened(path)) as file:
        for tensor in tensors:

            def read(tensor: StoredTensor = tensor) -> bytes:
                file.seek(tensor.start)
                return file.read(min(size, tensor.end - tensor.start))

            yield reading.patient(path, read)


def refuse_pointer(path: Path) -> None:
    """Raise ModelError if the file is what Git leaves in place of a large file that was not downloaded."""
    if _read(path, 0, len(LFS_POINTER)) == LFS_POINTER:
        raise ModelError(
            f"{path} is a Git-LFS pointer, not the file itself: run `git lfs pull` in its folder, or download it again"
        )


def _read(path: Path, start: int, size: int) -> bytes:
    def read() -> bytes:
        with reading.opened(path) as file:
            file.seek(start)
            return file.read(size)

    return reading.patient(path, read)
