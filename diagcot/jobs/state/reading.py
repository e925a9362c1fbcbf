"""Reads files, and keeps an error of the machine or its storage apart from damage of what a file holds.

A stale handle, a disk that does not answer or a missing right says nothing about the content. Such an error is tried again
where that may help, and then raised as StorageError, which names the file and what to do.
"""

import errno
import io
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, TextIO, TypeVar

from diagcot.jobs.errors import StorageError, UserError
from diagcot.jobs.state import json_text

PAUSES: tuple[float, ...] = (0.2, 1.0, 3.0)
"""Seconds before each further try."""
UNSUPPORTED = 524
"""ENOTSUPP, which the kernel's NFS client passes on although errno(3) does not list it."""

_AGAIN = "run it again; if it comes back, use another node and ask the administrators about the file system"
_LIMIT = "raise the limit of open files (`ulimit -n`), and run it again"
_RIGHTS = "check the owner and the mode of the file and of its folders (`ls -l`), and whether your ticket has expired"
_LOCKS = "the file system does not support locks here: mount it with them, or move the folder to another file system"
# Error number -> (whether another try may help, what to do).
_REMEDIES: dict[int, tuple[bool, str]] = {
    errno.ESTALE: (True, _AGAIN),
    errno.EIO: (True, _AGAIN),
    errno.EAGAIN: (True, _AGAIN),
    errno.ETIMEDOUT: (True, _AGAIN),
    errno.EREMOTEIO: (True, _AGAIN),
    errno.EBUSY: (True, _AGAIN),
    errno.EMFILE: (True, _LIMIT),
    errno.ENFILE: (True, _LIMIT),
    errno.ENOMEM: (True, "free memory on the node, or ask for more, and run it again"),
    errno.ENOLCK: (True, _LOCKS),
    errno.EOPNOTSUPP: (False, _LOCKS),
    UNSUPPORTED: (False, _LOCKS),
    errno.EACCES: (False, _RIGHTS),
    errno.EPERM: (False, _RIGHTS),
    errno.ENOSPC: (
        False,
        "the disk is full, or has no free inodes: delete files, or change `roots` in the cluster file",
    ),
    errno.EDQUOT: (False, "your disk quota is used up: delete files, or change `roots` in the cluster file"),
    errno.EROFS: (False, "the file system is mounted read-only: inform the administrators, or change `roots`"),
    errno.EFBIG: (
        False,
        "a limit on the size of files is reached: raise it (`ulimit -f unlimited`; for jobs in `setup` of the cluster file), or"
        " ask the administrators",
    ),
    errno.EISDIR: (False, "a folder, or something else that is no regular file, is where a file belongs: move it away"),
    errno.ENOTDIR: (False, "a file is where a folder belongs: move it away"),
    errno.ENAMETOOLONG: (False, "use a shorter name"),
}
# About the path, or about a position that a damaged content asks for.
_NOT_OF_THE_MACHINE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ENAMETOOLONG, errno.ELOOP)
NO_REGULAR_FILE = "is no regular file: move it away"
_MODES = {
    "r": os.O_RDONLY,
    "w": os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
    "w+": os.O_RDWR | os.O_CREAT | os.O_TRUNC,
    "a": os.O_WRONLY | os.O_CREAT | os.O_APPEND,
    "a+": os.O_RDWR | os.O_CREAT | os.O_APPEND,
}
MOST_PAGE = 16 << 20
"""Bytes of the longest page (`page`): that of the largest study has a hundredth."""
MOST_TEXT = 64 << 20
"""Bytes of the longest file of JSON, settings or prompts, which is read whole: the attempt of a million tasks takes 12 MB."""
TOO_LONG = f"it has over {MOST_TEXT >> 20} MB, more than any such file"
_NUMBER = re.compile(r"^\[Errno (\d+)\]|\(os error (\d+)\)")
_Result = TypeVar("_Result")


def is_of_the_machine(error: BaseException) -> bool:
    """True if the machine or its storage failed; False if a path or the content of a file is wrong.

    Libraries raise OSError without an error number for content that they cannot read.
    """
    if isinstance(error, StorageError):
        return True
    return isinstance(error, OSError) and bool(error.errno) and error.errno not in _NOT_OF_THE_MACHINE


def remedy(number: int) -> str:
    """What to do about a system error; empty for one that says nothing of a disk, a limit or a right."""
    return _REMEDIES.get(number, (False, ""))[1]


def number_in(message: str) -> int:
    """The number of the system error that a message names, as Python and Rust (safetensors) write it; 0 if it names none."""
    found = _NUMBER.search(message)
    return int(found[1] or found[2]) if found else 0


def sentence(error: OSError) -> str:
    """A system error in one line: the files, the cause, the machine and what to do."""
    number = error.errno or 0
    if isinstance(error, NoRegularFileError):
        return f"{error.filename} {error.strerror}"
    files = " and ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    cause = error.strerror or str(error) or type(error).__name__
    where = f"{files}: " if files else ""
    told = f"{where}{cause} ({errno.errorcode.get(number, number)}) on {os.uname().nodename}"
    return f"{told}: {remedy(number)}" if remedy(number) else told


def storage_error(path: Path | str, error: OSError) -> StorageError:
    """The error for the user: the file, the machine, the cause and what to do."""
    code = error.errno or 0
    name = errno.errorcode.get(code, str(code))
    cause = os.strerror(code) if code != UNSUPPORTED else "operation not supported"
    remedy = _REMEDIES.get(code, (False, _AGAIN))[1]
    return StorageError(f"{path}: {cause} ({name}) on {os.uname().nodename}. This is no damage of the file: {remedy}")


def check_storage(path: Path | str, error: BaseException) -> None:
    """Raise StorageError for `error` if the machine or its storage failed; return if a path or the content is wrong."""
    if isinstance(error, StorageError):
        raise error
    if isinstance(error, OSError) and is_of_the_machine(error):
        raise storage_error(path, error) from error


def patient(path: Path | str, read: Callable[[], _Result]) -> _Result:
    """What `read` returns; tried again after an error that may pass.

    Raises StorageError for an error of the machine or its storage. Any other error is raised as it is.
    """
    for pause in (*PAUSES, None):
        try:
            return read()
        except StorageError:
            raise
        except OSError as error:
            if not is_of_the_machine(error):
                raise
            if pause is None or not _REMEDIES.get(error.errno or 0, (False, ""))[0]:
                raise storage_error(path, error) from error
            time.sleep(pause)
    raise AssertionError("the last try returns or raises")


class NoRegularFileError(IsADirectoryError):
    """A pipe, socket or device is where a file belongs. It is met like a folder in that place."""


class File(io.FileIO):
    """A regular file on disk: opening another kind, such as a pipe, whose reader waits for a writer, is an error.

    A file of a fixed name that is written or locked is opened by it, too; a new one is private to the user.
    Python takes EAGAIN for the end of a file, and would end such a read like that of a shorter file.
    """

    def __init__(self, path: Path | str, mode: Literal["r", "w", "w+", "a", "a+"] = "r") -> None:
        """Raises OSError, NoRegularFileError among them."""
        super().__init__(_regular(str(path), _MODES[mode]), mode)
        self.name = str(path)  # not the number of the open file

    def readinto(self, buffer: Any, /) -> int:
        """Raises OSError, also for EAGAIN."""
        size = super().readinto(buffer)
        if size is None:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), str(self.name))
        return size

    def read(self, size: int | None = -1, /) -> bytes:
        """As `readinto`."""
        return io.RawIOBase.read(self, -1 if size is None else size) or b""

    def readall(self) -> bytes:
        """As `readinto`; in one read where the file is as long as the system says, not in hundreds of 8 KB."""
        blocks = [self._block(max(os.fstat(self.fileno()).st_size, io.DEFAULT_BUFFER_SIZE))]
        while blocks[-1]:
            blocks.append(self._block(io.DEFAULT_BUFFER_SIZE))
        return b"".join(blocks) if len(blocks) > 2 else blocks[0]

    def _block(self, size: int) -> bytes:
        block = super().read(size)
        if block is None:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), str(self.name))
        return block

    def write(self, data: Any, /) -> int:
        """Raises OSError that names the file, which that of a write does not do by itself."""
        try:
            return super().write(data)
        except OSError as error:
            error.filename = error.filename or self.name
            raise


def written(path: Path, newline: str | None = None) -> TextIO:
    """A new text file, UTF-8, to write. Raises OSError that names the file, also where a write fails. newline: as `open`."""
    return io.TextIOWrapper(io.BufferedWriter(File(path, "w")), encoding="utf-8", newline=newline)


class PatientFile(File):
    """The same for a library that reads by itself: a read is tried again after an error that may pass."""

    def readinto(self, buffer: Any, /) -> int:
        """Raises StorageError."""
        return patient(str(self.name), lambda: super(PatientFile, self).readinto(buffer))


def _regular(path: str, flags: int) -> int:
    try:
        handle = os.open(path, flags | os.O_NONBLOCK, 0o600)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise NoRegularFileError(errno.EISDIR, NO_REGULAR_FILE, path) from error
        raise
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # of a folder Python says so itself
        os.close(handle)
        raise NoRegularFileError(errno.EISDIR, NO_REGULAR_FILE, path)
    return handle


def opened(path: Path) -> io.BufferedReader:
    """The file, open for reading bytes. Raises OSError, which `check_storage` tells from damage."""
    return io.BufferedReader(File(path), 1 << 16)


def _whole(path: Path) -> bytes:
    with File(path) as file:
        return file.readall()


def read_bytes(path: Path) -> bytes:
    """The bytes of a file. Raises StorageError, and what `Path.read_bytes` raises for a wrong path."""
    return patient(path, lambda: _whole(path))


def read_start(path: Path, size: int) -> bytes:
    """The bytes of a file, at most its first `size`. Raises as `read_bytes`."""

    def start() -> bytes:
        with File(path) as file:
            return file.readall() if os.fstat(file.fileno()).st_size < size else file.read(size)

    return patient(path, start)


def read_text(path: Path) -> str:
    """The text of a file, UTF-8. Raises as `read_bytes`, and ValueError for bytes that are not UTF-8."""
    return read_bytes(path).decode()


def page(path: Path) -> str:
    """The text of a page that a stage has written and a screen shows. Raises as `read_bytes`, and UserError if it is too long."""
    data = read_start(path, MOST_PAGE + 1)
    if len(data) > MOST_PAGE:
        raise UserError(
            f"{path} has over {MOST_PAGE >> 20} MB, more than any page of a stage: remove it, and run its stage again"
        )
    return data.decode(errors="replace")


def plain_text(path: Path) -> str:
    """The text of a file that a person wrote: UTF-8, with or without a byte order mark.

    Raises UserError that names the line of the first byte that is not UTF-8, or says that it is no text.
    """
    try:
        data = read_start(path, MOST_TEXT + 1)
        if len(data) > MOST_TEXT:
            raise UserError(f"{path}: {TOO_LONG}: is it another kind of file?")
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise UserError(f"{path}: it is UTF-16, save it as UTF-8") from error
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}:{line}: the byte 0x{data[error.start]:02x} is not UTF-8: save the file as UTF-8"
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(f"{path}:{line}: it holds the character 0, so it is no text: is it another kind of file?")
    return text


def blocks(path: Path, size: int) -> Iterator[bytes]:
    """The bytes of a file in blocks of up to `size` bytes. Raises as `read_bytes`."""
    with patient(path, lambda: File(path)) as file:
        while block := patient(path, lambda: file.read(size)):
            yield block


def lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, each with its end. A read that fails goes on where it was. Raises as `read_bytes`."""
    at = 0
    source: io.BufferedReader | None = None

    def next_line() -> bytes:
        nonlocal source
        try:
            if source is None:
                source = opened(path)
                source.seek(at)
            return source.readline()
        except OSError:
            source = None
            raise

    try:
        while line := patient(path, next_line):
            at += len(line)
            yield line
    finally:
        if source is not None:
            source.close()


def text_lines(path: Path) -> Iterator[str]:
    """The lines of a text file, UTF-8. Raises as `lines` and `read_text`."""
    return (line.decode() for line in lines(path))


def listing(folder: Path, pattern: str = "*") -> list[Path]:
    """The entries of a folder whose names match the pattern, sorted; those that start with a dot are left out.

    Unlike `Path.glob`, it does not take a folder that may not be read for an empty one. Empty if there is no such folder.
    Raises StorageError.
    """
    try:
        names = patient(folder, lambda: os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(folder / name for name in names if name[0] != "." and fnmatchcase(name, pattern))


def read_json(path: Path) -> Any:
    """The value of a JSON file. Raises as `parse_json` and `read_bytes`, and ValueError for more than MOST_TEXT bytes."""
    data = read_start(path, MOST_TEXT + 1)
    if len(data) > MOST_TEXT:
        raise ValueError(TOO_LONG)
    return json_text.parse_json(data)
