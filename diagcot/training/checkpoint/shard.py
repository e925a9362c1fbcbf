"""One rank's part of a checkpoint: its files, and `part-<rank>.json`, written last, with their sizes and checksums."""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from diagcot.jobs.state.files import fsync_path

_BLOCK = 1 << 22


class Part:
    """What this rank has to write into `folder`. `about` goes into the mark."""

    def __init__(self, folder: Path, rank: int, about: dict[str, Any]) -> None:
        self.folder, self.rank, self.about = folder, rank, about
        self.error = ""
        self.seconds = 0.0
        self._files: dict[str, Any] = {}

    def add(self, name: str, content: Any) -> None:
        """Take a copy of `content` in host memory, so that training may go on."""
        self._files[name] = on_host(content)

    def take(self, engine: Any, tag: str) -> None:
        """Add what DeepSpeed's engine would write, frozen weights left out. A collective."""
        real, engine.checkpoint_engine = engine.checkpoint_engine, _Taker(self)
        # It also copies its conversion scripts beside the state, from the training thread and unguarded.
        engine._copy_recovery_script = lambda path: None
        try:
            engine.save_checkpoint(str(self.folder), tag=tag, save_latest=False, exclude_frozen_parameters=True)
        finally:
            engine.checkpoint_engine = real
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # the copies

    def write(self) -> None:
        """Write all files, then the mark. On an error of the disk: `error`, and nothing of this rank stays."""
        began = time.monotonic()
        sums: dict[str, tuple[int, str]] = {}
        names = list(self._files)
        try:
            for name in names:
                sums[name] = _write(self.folder / name, self._files.pop(name))
            for folder in {(self.folder / name).parent for name in names}:
                fsync_path(folder)
            mark = {**self.about, "rank": self.rank, "files": sums}
            staged = self.folder / f".part-{self.rank}.json"
            with staged.open("w", encoding="utf-8") as out:
                out.write(json.dumps({**mark, "checksum": _checksum(mark)}, indent=1))
                out.flush()
                os.fsync(out.fileno())
            staged.rename(self.folder / f"part-{self.rank}.json")
            fsync_path(self.folder)
            self.seconds = time.monotonic() - began
        except OSError as error:
            self.error = str(error)
            self._files.clear()
            for name in [*names, f".part-{self.rank}.json", f"part-{self.rank}.json"]:
                with contextlib.suppress(OSError):
                    (self.folder / name).unlink(missing_ok=True)


class _Taker:
    """Stands in for DeepSpeed's writer of files."""

    def __init__(self, part: Part) -> None:
        self._part = part

    def makedirs(self, path: str, exist_ok: bool = False) -> None: ...

    def create(self, info: Any) -> None: ...

    def commit(self, info: Any) -> bool:
        return True

    def is_decoupled(self) -> bool:
        return False

    def preserves_storage_sharing(self) -> bool:
        return False

    def save(self, state_dict: Any, path: str) -> None:
        self._part.add(str(Path(path).relative_to(self._part.folder)), state_dict)


def on_host(item: Any) -> Any:
    """A copy whose tensors hold their own values and no more, in pinned host memory where they come from a GPU.

    The copies from a GPU are done after its next synchronisation.
    """
    if torch.is_tensor(item):
        copy = torch.empty(item.shape, dtype=item.dtype, pin_memory=item.is_cuda)
        return copy.copy_(item.detach(), non_blocking=True)
    if isinstance(item, dict):
        return {key: on_host(value) for key, value in item.items()}
    if type(item) in (list, tuple):
        return type(item)(on_host(value) for value in item)
    return item


def read(folder: Path) -> list[dict[str, Any]] | None:
    """The marks of a checkpoint by rank; None unless every rank's is there and its files are, at their size."""
    try:
        found = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("part-*.json")]
        marks = sorted(found, key=lambda mark: int(mark["rank"]))
        if any(mark.pop("checksum") != _checksum(mark) for mark in marks):
            return None
        one = {(mark["attempt"], mark["step"], mark["world_size"]) for mark in marks}
        if len(one) != 1 or len(marks) != marks[0]["world_size"]:
            return None
        sizes = ((name, size) for mark in marks for name, (size, _) in mark["files"].items())
        return marks if all((folder / name).stat().st_size == size for name, size in sizes) else None
    except (OSError, ValueError, KeyError):
        return None


def damaged(folder: Path, marks: list[dict[str, Any]], share: int, shares: int) -> Iterator[str]:
    """Files whose bytes are not those that were written, of every `shares`-th file from `share` on."""
    files = sorted((name, digest) for mark in marks for name, (_, digest) in mark["files"].items())
    for name, digest in files[share::shares]:
        total = hashlib.blake2b(digest_size=16)
        try:
            with (folder / name).open("rb") as source:
                while block := source.read(_BLOCK):
                    total.update(block)
        except OSError:
            yield name
            continue
        if total.hexdigest() != digest:
            yield name


def _checksum(mark: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(mark, sort_keys=True).encode(), digest_size=16).hexdigest()


def _write(path: Path, content: Any) -> tuple[int, str]:
    """Size and checksum of the file that holds `content` now, on disk."""
    out = _Summed(path)
    torch.save(content, out)
    return out.close()


class _Summed:
    """A file that adds up what is written to it. An error is raised by `close`: torch.save must not see it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=1 << 20)
        self._sum, self._size = hashlib.blake2b(digest_size=16), 0
        self._error: OSError | None = None

    def write(self, data: Any) -> int:
        self._sum.update(data)
        self._size += len(data)
        try:
            if self._error is None:
                self._file.write(data)
        except OSError as error:
            self._error = error
        return len(data)

    def flush(self) -> None: ...

    def close(self) -> tuple[int, str]:
        try:
            if self._error is not None:
                raise self._error
            self._file.flush()
            os.fsync(self._file.fileno())
        finally:
            with contextlib.suppress(OSError):  # what could not be written is tried again
                self._file.close()
        return self._size, self._sum.hexdigest()
