"""Compilation by numba, with a cache that all copies of the code share.

numba keys compiled code by the path and the time of its source, so each code snapshot of a run would compile again. Here the
key is the content of the sources, and the cache is one folder for a user: `$NUMBA_CACHE_DIR`, otherwise `diagcot/numba` in
`$XDG_CACHE_HOME` or `~/.cache`. `make env` fills it (`diagcot.environment`).
"""

import hashlib
import os
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Optional

from numba import config, njit


def cache_folder() -> Path:
    """The folder of compiled code."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(config.CACHE_DIR or Path(base) / "diagcot" / "numba")


def require_own(folder: Path) -> None:
    """Raise OSError unless the folder exists, belongs to this user, and no other user can write to it."""
    state = folder.stat()
    if state.st_uid != os.getuid() or state.st_mode & 0o022:
        raise PermissionError(f"{folder} belongs to another user or can be written by others")


class SourceCache:
    """A cache locator of numba: its folder is named after the content of all modules next to the source.

    All of them, since compiled code contains the functions that it calls, and those may stand in another module.
    """

    def __init__(self, function: Callable[..., Any], file: str) -> None:
        package = Path(file).parent
        self._digest = _digest(package)
        self._line = function.__code__.co_firstlineno
        self._folder = cache_folder() / f"{package.name}-{self._digest[:16]}"

    def get_cache_path(self) -> str:
        """The folder."""
        return str(self._folder)

    def get_source_stamp(self) -> str:
        """What changes with the source."""
        return self._digest

    def get_disambiguator(self) -> str:
        """What sets apart functions of the same name in a file."""
        return str(self._line)

    def ensure_cache_path(self) -> None:
        """Create the folder. Raises OSError if it is not writable, or if another user could write to it."""
        self._folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder.mkdir(mode=0o700, exist_ok=True)
        require_own(self._folder)
        tempfile.TemporaryFile(dir=self._folder).close()

    @classmethod
    def from_function(cls, function: Callable[..., Any], file: str) -> Optional["SourceCache"]:
        """The locator of a function, or None if the folder cannot be used: then numba tries its own."""
        try:
            locator = cls(function, file)
            locator.ensure_cache_path()
        except (OSError, RuntimeError):  # RuntimeError: no home folder
            return None
        return locator


@lru_cache
def _digest(package: Path) -> str:
    sources = sorted(package.glob("*.py"))
    return hashlib.sha256(b"".join(source.name.encode() + source.read_bytes() for source in sources)).hexdigest()


_LOCATORS = f"{__name__}.SourceCache,InTreeCacheLocator,UserWideCacheLocator"


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Decorate a function to be compiled without the interpreter lock, and cached as this module describes."""

    def decorate(function: Callable[..., Any]) -> Any:
        default = config.CACHE_LOCATOR_CLASSES
        config.CACHE_LOCATOR_CLASSES = _LOCATORS
        try:
            return njit(cache=True, nogil=True, **options)(function)
        finally:
            config.CACHE_LOCATOR_CLASSES = default

    return decorate
