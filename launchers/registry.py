"""The kinds of stages by name. A kind is imported when it is asked for, so that planning stays fast.

A kind of the user's own is named `path/to/file.py:KIND`, or `package.module:KIND` where it is installed.
"""

import importlib
import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from diagcot.jobs import OwnCodeError
from diagcot.jobs.environment import own_code
from launchers.stage_kind import StageKind

RENAMED = {"primer": "synthetic-sft"}
"""Old names of kinds, accepted in recipes for one release."""


@cache
def modules() -> dict[str, str]:
    """Name of every kind -> import path of the module that declares it."""
    files = sorted(Path(__file__).parent.glob("*/[a-z]*.py"))
    return {path.stem.replace("_", "-"): f"launchers.{path.parent.name}.{path.stem}" for path in files}


def find(name: str) -> StageKind[Any] | None:
    """The kind of that name; None if there is none. Raises OwnCodeError for a kind of the user's own that is unusable."""
    if ":" in name:
        return _own(name)
    path = modules().get(name)
    if path is None:
        return None
    kind: StageKind[Any] = importlib.import_module(path).KIND
    return kind


_from_files: set[str] = set()
"""Names of modules that this process has from files of the user."""


@cache
def _own(name: str) -> StageKind[Any]:
    place, _, attribute = name.rpartition(":")
    try:
        module = _from_file(Path(place).resolve()) if place.endswith(".py") else importlib.import_module(place)
    except OwnCodeError:
        raise
    except (Exception, SystemExit) as error:  # whatever the file does
        raise OwnCodeError(
            f"{place} cannot be imported ({own_code.described(error, Path(place))}): fix it, or `kind`"
        ) from None
    kind = getattr(module, attribute, None)
    if not isinstance(kind, StageKind):
        raise OwnCodeError(f"{place} has no {attribute} = StageKind(...): see docs/how-to/add-a-kind-of-stage.md")
    return kind


def _from_file(file: Path) -> ModuleType:
    """The file as a module of its name, under which jobs import their copy of it too."""
    if not file.is_file():
        raise OwnCodeError(f"there is no file {file}: `kind` names path/to/file.py:KIND")
    found = None if file.stem in _from_files else importlib.util.find_spec(file.stem)
    if found is not None and Path(found.origin or "").resolve() != file:
        raise OwnCodeError(f"{file} has the name of the installed module {file.stem}: rename the file")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    _from_files.add(file.stem)
    sys.modules[file.stem] = module  # a debugger's run in this process imports `work` from here
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[file.stem]
        raise
    return module
