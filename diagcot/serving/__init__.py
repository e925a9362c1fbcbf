"""vLLM servers of a task on private Unix sockets, and the client that keeps them busy. Imports no torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diagcot.serving.client.client import Client
    from diagcot.serving.client.stats import ServingStats
    from diagcot.serving.errors import ServerError
    from diagcot.serving.request import EncodedImage, Reply, Request
    from diagcot.serving.server.server import Server, serve
    from diagcot.serving.settings import ServerSettings

__all__ = [
    "Client",
    "EncodedImage",
    "Reply",
    "Request",
    "Server",
    "ServerError",
    "ServerSettings",
    "ServingStats",
    "serve",
]

_MODULES = {
    "Client": "client.client",
    "EncodedImage": "request",
    "Reply": "request",
    "Request": "request",
    "Server": "server.server",
    "ServerError": "errors",
    "ServerSettings": "settings",
    "ServingStats": "client.stats",
    "serve": "server.server",
}


def __getattr__(name: str) -> Any:
    # Commands that only plan read the settings of this package; they must not wait for an HTTP client to be imported.
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
