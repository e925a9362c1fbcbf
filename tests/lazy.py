"""Modules that are imported when they are first used.

Every worker of pytest-xdist imports every test file, and runs the tests of some. What takes seconds to import, such as
torch, only the workers that need it should pay for.
"""

import importlib
from typing import Any


class Module:
    """`torch = Module("torch")` may stand at the head of a file instead of `import torch`."""

    def __init__(self, name: str) -> None:
        self.__dict__["_name"] = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith(("_", "pytest")):  # what pytest asks of all that stands in a file
            raise AttributeError(attribute)
        return getattr(importlib.import_module(self._name), attribute)

    def __setattr__(self, attribute: str, value: Any) -> None:
        setattr(importlib.import_module(self._name), attribute, value)

    def __delattr__(self, attribute: str) -> None:
        delattr(importlib.import_module(self._name), attribute)
