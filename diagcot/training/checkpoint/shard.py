"""One rank's shard of a checkpoint: its files, and the manifest `part-<rank>.json`, written last, with their checksums.

DeepSpeed 0.19.8 collects the state, and its own writers are not used. They fall short here:

* `DecoupledCheckpointEngine` (runtime/checkpoint_engine/decoupled_checkpoint_engine.py) passes tensors to another process
  by reference, so `DeepSpeedEngine.step` (runtime/engine.py) waits for the write before the next update. It refuses
  tensors that require gradients, as ZeRO-2 in float32 has them, and it needs `writer.data_parallel` and CROSS_SIZE to be
  set. A write that fails (a full disk) ends its process, and `commit` then raises: training would end.
* `FastCheckpointEngine` (fast_checkpoint_engine.py) writes while training waits; its fast writer needs a GPU for pinned
  memory and a compiled libaio extension.
* Neither flushes to disk nor records checksums, so a checkpoint that a crash cut short would look like a whole one.
"""

import contextlib
import hashlib
import io
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import torch

from diagcot.jobs.state import reading
from diagcot.jobs.state.files import fsync_path
from diagcot.training.checkpoint.origin import OriginRecord

_BLOCK = 1 << 22  # bytes read at once


class Manifest(TypedDict):
    """Content of `part-<rank>.json`. `files`: name -> (bytes, BLAKE2b of 16 bytes in hexadecimal)."""

    step: int
    attempt: str
    world_size: int
    state: dict[str, Any]
    origin: NotRequired[OriginRecord]  # older checkpoints have none
    rank: int
    files: dict[str, tuple[int, str]]


class CheckpointShard:
    """What this rank writes into `folder`. `header`: the manifest's step, attempt, world_size, state and origin.

    error: why the write failed, else empty. seconds: how long it took.
    """

    def __init__(self, folder: Path, rank: int, header: dict[str, Any]) -> None:
        self.folder, self.rank, self.header = folder, rank, header
        self.error = ""
        self.seconds = 0.0
        self._files: dict[str, Any] = {}

    def add(self, name: str, content: Any) -> None:
        """Copy `content` to host memory, so that training may go on."""
        self._files[name] = on_host(content)

    def add_engine(self, engine: Any, tag: str) -> None:
        """Add what DeepSpeed's engine would write under `tag`, frozen weights left out. A collective.

        DeepSpeed has no setting for a writer of our own, so the engine's writer is replaced for the length of the call.
        """
        writer, engine.checkpoint_engine = engine.checkpoint_engine, _ShardWriter(self)
        # Rank 0 also copies conversion scripts next to the state. An error of the disk there would leave the other
        # ranks waiting at a barrier.
        engine._copy_recovery_script = lambda path: None
        try:
            engine.save_checkpoint(str(self.folder), tag=tag, save_latest=False, exclude_frozen_parameters=True)
        finally:
            engine.checkpoint_engine = writer
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # until the copies are done

    def write(self) -> None:
        """Write all files, then the manifest. On an error of the disk, set `error` and leave no file of this rank."""
        began = time.monotonic()
        sums: dict[str, tuple[int, str]] = {}
        names = list(self._files)
        manifest_name = f"part-{self.rank}.json"
        try:
            for name in names:
                sums[name] = _write(self.folder / name, self._files.pop(name))
            for folder in {(self.folder / name).parent for name in names}:
                fsync_path(folder)
            manifest = {**self.header, "rank": self.rank, "files": sums}
            staged = self.folder / f".{manifest_name}"
            with reading.written(staged) as out:
                out.write(json.dumps({**manifest, "checksum": _checksum(manifest)}, indent=1))
                out.flush()
                os.fsync(out.fileno())
            staged.rename(self.folder / manifest_name)
            fsync_path(self.folder)
            self.seconds = time.monotonic() - began
        except OSError as error:
            self.error = str(error)
            self._files.clear()
            for name in [*names, f".{manifest_name}", manifest_name]:
                with contextlib.suppress(OSError):
                    (self.folder / name).unlink(missing_ok=True)


class _ShardWriter:
    """Stands in for DeepSpeed's checkpoint engine (runtime/checkpoint_engine/checkpoint_engine.py)."""

    def __init__(self, shard: CheckpointShard) -> None:
        self._shard = shard

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """The folder exists already."""

    def create(self, info: Any) -> None:
        """Nothing to begin."""

    def commit(self, info: Any) -> bool:
        """Nothing to end: the manifest says when the shard is whole."""
        return True

    def is_decoupled(self) -> bool:
        return False

    def preserves_storage_sharing(self) -> bool:
        """False: `on_host` copies the values of a tensor alone, so DeepSpeed need not clone it."""
        return False

    def save(self, state_dict: Any, path: str) -> None:
        """Add a file to the shard."""
        self._shard.add(str(Path(path).relative_to(self._shard.folder)), state_dict)


def on_host(item: Any) -> Any:
    """A copy whose tensors hold only their own values, in pinned host memory where they come from a GPU.

    Copies from a GPU are complete after its next synchronisation.
    """
    if torch.is_tensor(item):
        copy = torch.empty(item.shape, dtype=item.dtype, pin_memory=item.is_cuda)
        return copy.copy_(item.detach(), non_blocking=True)
    if isinstance(item, dict):
        return {key: on_host(value) for key, value in item.items()}
    if type(item) in (list, tuple):
        return type(item)(on_host(value) for value in item)
    return item


def read(folder: Path) -> list[Manifest] | None:
    """The manifests of a checkpoint by rank; None unless every rank's is there, and all files at their size.

    Raises StorageError if the machine or its storage could not read them.
    """
    try:
        rows = [reading.read_json(path) for path in reading.listing(folder, "part-*.json")]
        manifests = sorted(rows, key=lambda manifest: int(manifest["rank"]))
        if any(manifest.pop("checksum") != _checksum(manifest) for manifest in manifests):
            return None
        saves = {(manifest["attempt"], manifest["step"], manifest["world_size"]) for manifest in manifests}
        if len(saves) != 1 or len(manifests) != manifests[0]["world_size"]:
            return None
        sizes = ((name, size) for manifest in manifests for name, (size, _) in manifest["files"].items())
        stated = ((reading.patient(folder / name, (folder / name).stat), size) for name, size in sizes)
        return manifests if all(status.st_size == size for status, size in stated) else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def damaged_files(folder: Path, manifests: list[Manifest], share: int, shares: int) -> Iterator[str]:
    """Files whose bytes differ from what was written, of every `shares`-th file from `share` on. Raises StorageError."""
    files = sorted((name, digest) for manifest in manifests for name, (_, digest) in manifest["files"].items())
    for name, digest in files[share::shares]:
        total = hashlib.blake2b(digest_size=16)
        try:
            for block in reading.blocks(folder / name, _BLOCK):
                total.update(block)
        except OSError:  # it is not there
            yield name
            continue
        if total.hexdigest() != digest:
            yield name


def _checksum(manifest: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(manifest, sort_keys=True).encode(), digest_size=16).hexdigest()


def _write(path: Path, content: Any) -> tuple[int, str]:
    """Write a file and flush it to disk; returns its size in bytes and its checksum."""
    out = _ChecksummedFile(path)
    torch.save(content, out)
    return out.close()


class _ChecksummedFile:
    """A file that sums what is written to it. `close` raises the first error: torch.save must not see one."""

    def __init__(self, path: Path) -> None:
        self._file = io.BufferedWriter(reading.File(path, "w"), 1 << 20)
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

    def flush(self) -> None:
        """`close` flushes."""

    def close(self) -> tuple[int, str]:
        try:
            if self._error is not None:
                raise self._error
            self._file.flush()
            os.fsync(self._file.fileno())
        finally:
            with contextlib.suppress(OSError):  # closing retries what could not be written
                self._file.close()
        return self._size, self._sum.hexdigest()
