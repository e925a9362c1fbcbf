"""Ray's interface as far as servers and reward workers use it, in this process: a call runs at once, in the caller's thread.

`install` puts it in Ray's place for a test of what our code asks of its actors, and in which order.
"""

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest


class RayError(Exception):
    """What Ray's errors derive from."""


class RayActorError(RayError):
    """An actor died."""


class RayTaskError(RayError):
    """A call raised `cause`."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Reference:
    """What a call will give: its value, or what it raised."""

    def __init__(self, call: Any) -> None:
        self.value, self.error = None, None
        try:
            self.value = call()
        except Exception as error:
            self.error = RayTaskError(error)


class ObjectRefGenerator:
    """The items of a streaming call."""

    def __init__(self, items: Iterator[Any]) -> None:
        self._items = items

    def __iter__(self) -> "ObjectRefGenerator":
        return self

    def __next__(self) -> Reference:
        item = next(self._items)
        return Reference(lambda: item)


class Method:
    """A method of an actor."""

    def __init__(self, bound: Any, streaming: bool = False) -> None:
        self._bound, self._streaming = bound, streaming

    def options(self, num_returns: str) -> "Method":
        return Method(self._bound, num_returns == "streaming")

    def remote(self, *args: Any) -> Any:
        if self._streaming:
            return ObjectRefGenerator(iter(self._bound(*args)))
        return Reference(lambda: self._bound(*args))


class Actor:
    """An object whose methods are called by `.remote`."""

    def __init__(self, made: Any) -> None:
        self._made = made

    def __getattr__(self, name: str) -> Method:
        return Method(getattr(self._made, name))


class ActorClass:
    """A class whose objects are actors."""

    def __init__(self, kind: type) -> None:
        self._kind = kind

    def options(self, **_: Any) -> "ActorClass":
        return self

    def remote(self, *args: Any) -> Actor:
        return Actor(self._kind(*(arg.value if isinstance(arg, Reference) else arg for arg in args)))


def get(reference: Reference) -> Any:
    if reference.error is not None:
        raise reference.error
    return reference.value


def _wait(
    references: list[Any], num_returns: int, timeout: float, fetch_local: bool = True
) -> tuple[list[Any], list[Any]]:
    return references[:num_returns], references[num_returns:]


def install(patch: pytest.MonkeyPatch) -> None:
    """Let `import ray` find this for the length of a test, with one node."""
    ray, errors, scheduling = (ModuleType(name) for name in ("ray", "ray.exceptions", "strategies"))
    errors.RayActorError, errors.RayTaskError = RayActorError, RayTaskError  # type: ignore[attr-defined]
    scheduling.NodeAffinitySchedulingStrategy = lambda node, soft: node  # type: ignore[attr-defined]
    ray.exceptions, ray.ObjectRefGenerator, ray.get = errors, ObjectRefGenerator, get  # type: ignore[attr-defined]
    ray.remote, ray.put = ActorClass, lambda value: Reference(lambda: value)  # type: ignore[attr-defined]
    ray.wait = _wait  # type: ignore[attr-defined]
    ray.nodes = lambda: [{"Alive": True, "NodeID": "here", "NodeManagerAddress": "127.0.0.1"}]  # type: ignore[attr-defined]
    ray.get_runtime_context = lambda: type("Context", (), {"get_node_id": staticmethod(lambda: "here")})  # type: ignore[attr-defined]
    for name, module in {
        "ray": ray,
        "ray.exceptions": errors,
        "ray.util": ModuleType("ray.util"),
        "ray.util.scheduling_strategies": scheduling,
    }.items():
        patch.setitem(sys.modules, name, module)
