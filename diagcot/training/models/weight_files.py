"""What safetensors files hold, by their headers alone. Used while planning: nothing heavy is imported.

A file is the header's length (8 bytes, little endian), the header (JSON: tensor -> type, shape, first and last byte), and
the bytes of all tensors (huggingface.co/docs/safetensors).
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from diagcot.jobs import ModelError
from diagcot.jobs.state import reading

LFS_POINTER = b"version https://git-lfs"  # github.com/git-lfs/git-lfs/blob/main/docs/spec.md
_MOST_HEADER = 100_000_000  # bytes, as safetensors itself allows


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
    if size < 8 or length > min(_MOST_HEADER, size - 8):
        raise ModelError(f"{path} is cut short or is no safetensors file ({size:,} bytes); download it again")
    try:
        rows: dict[str, Any] = json.loads(_read(path, 8, length))
        rows.pop("__metadata__", None)
        tensors = {
            name: StoredTensor(row["dtype"], tuple(row["shape"]), *(8 + length + at for at in row["data_offsets"]))
            for name, row in rows.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ModelError(f"{path} is no safetensors file (its header: {error}); download it again") from None
    expected = max((tensor.end for tensor in tensors.values()), default=8 + length)
    if size != expected:
        raise ModelError(
            f"{path} has {size:,} bytes instead of {expected:,}: it is cut short or damaged; download it again"
        )
    return tensors


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
