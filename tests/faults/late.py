"""Hides young files from this process, as the cache of a network file system does with what another node wrote."""

import _pyio
import builtins
import io
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Late:
    """Hides paths under `root` that match `pattern` from stat, open, rename and listings until they are `seconds` old."""

    def __init__(self, root: Path, pattern: str, seconds: float) -> None:
        self.root, self.pattern, self.seconds = str(root), pattern, seconds
        self.stat, self.hidden = os.stat, 0

    def hides(self, path: Any) -> bool:
        if not str(path).startswith(self.root) or not Path(path).match(self.pattern):
            return False
        try:
            young = time.time() - self.stat(path).st_ctime < self.seconds
        except OSError:
            return False
        self.hidden += young
        return young

    def install(self) -> None:
        """For the rest of this process's life."""
        for name in ("stat", "lstat", "replace"):
            setattr(os, name, self._guarded(getattr(os, name)))
        builtins.open = io.open = self._guarded(_pyio.open)  # type: ignore[assignment]
        listdir: Any = os.listdir
        os.listdir = lambda path=".": [name for name in listdir(path) if not self.hides(f"{path}/{name}")]  # type: ignore[assignment]

    def _guarded(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *args: Any, **named: Any) -> Any:
            if self.hides(path):
                raise FileNotFoundError(2, "No such file or directory (yet)", os.fspath(path))
            return real(path, *args, **named)

        return call
