"""Durable, atomic file operations that the ledger rests on, and the removal of what lies in a folder of ours."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diagcot.jobs.errors import UserError
from diagcot.jobs.state import reading

DEFAULT_ACL = "system.posix_acl_default"  # acl(5): the rights of whatever is made in a folder


def fsync_path(path: Path) -> None:
    """Flush a file or a folder's entries to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        with named(path):
            os.fsync(handle)
    finally:
        os.close(handle)


def fsync_tree(path: Path) -> None:
    """Flush a file, or a folder with all that it contains, to disk."""
    if path.is_dir():
        for child in sorted(path.rglob("*")):
            if not child.is_symlink():
                fsync_path(child)
    fsync_path(path)


def private_folder(path: Path) -> None:
    """Make a folder and those above it that are missing, closed to others whatever the umask is.

    Where the folder above has a default ACL, the kernel ignores the umask: a folder of ours takes none over.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):  # `parents=True` would make those above with the rights that the umask leaves
        folder.mkdir(mode=0o700, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    for folder in missing:
        drop_acl(folder)


def drop_acl(folder: Path) -> None:
    """Close a new folder that took over a default ACL from the one above."""
    with contextlib.suppress(OSError):  # a file system without ACLs
        if DEFAULT_ACL in os.listxattr(folder):
            os.removexattr(folder, DEFAULT_ACL)
            folder.chmod(0o700)


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Within the block an error of the system names the file: that of a write or a flush, unlike that of an open, names none."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by `value`; a reader sees the old or the new text, never half of one."""
    write_text(path, json.dumps(value, indent=1, sort_keys=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """As `write_json`. What was staged is removed if it cannot be written."""
    staged = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(3).hex()}")
    try:
        with named(path):
            staged.write_text(text, encoding="utf-8")
        os.replace(staged, path)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file; None if there is no file, only half of one, or something else."""
    try:
        row = reading.read_json(path)
    except (FileNotFoundError, IsADirectoryError, ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def changed_at(path: Path) -> float | None:
    """When a file or the entries of a folder last changed, in seconds since the epoch; None if it does not exist."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None


def create_exclusively(path: Path, text: str) -> bool:
    """Create `path` with `text`, complete and durable, unless it exists. Returns True if this call created it.

    The hard link decides between two writers: link(2) fails if the name exists, also on NFS.
    """
    staged = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        with named(path), staged.open("x", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        os.link(staged, path)
    except FileExistsError:
        return False
    finally:
        staged.unlink(missing_ok=True)
    fsync_path(path.parent)
    return True


def digest(path: Path) -> str:
    """sha256 of a file, or of the sorted names and digests of a folder's files."""
    total = hashlib.sha256()
    if path.is_dir():
        for child in sorted(path.rglob("*")):
            if child.is_file():
                total.update(f"{child.relative_to(path)} {digest(child)}\n".encode())
        return total.hexdigest()
    for block in reading.blocks(path, 1 << 20):
        total.update(block)
    return total.hexdigest()


def append_line(path: Path, text: str) -> None:
    """Append one line by a single write, so that lines of several processes do not mix.

    Raises OSError, also where a full disk took only half of the line.
    """
    data = (text + "\n").encode()
    with named(path), reading.File(path, "a") as file:
        while data:
            data = data[file.write(data) :]


def require_inside(path: Path, root: Path, *, links: bool = True) -> None:
    """Raise UserError unless `path` lies strictly inside `root`. links: follow a link at `path` itself, too."""
    place = path.resolve() if links else path.parent.resolve() / path.name
    if root.resolve() not in place.parents or path.name == "..":
        raise UserError(f"{path} is not inside {root}, so nothing is written or removed there")


def remove(path: Path, root: Path, *, strict: bool = False) -> None:
    """Remove a file, a link or a folder with all that it holds, if it is there. All folders are removed by this function.

    root: the folder that the caller owns, above `path`. strict: raise OSError for what cannot be removed, instead of leaving
    it. Raises UserError, and removes nothing, unless `path` itself, links above it followed, lies inside `root`.
    """
    require_inside(path, root, links=False)
    with contextlib.nullcontext() if strict else contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=not strict)
        else:
            path.unlink(missing_ok=True)
