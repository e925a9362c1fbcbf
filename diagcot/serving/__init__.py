"""vLLM servers for a task, on private Unix sockets, and the client that keeps them busy. Imports no torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diagcot.serving.client.client import Client
    from diagcot.serving.client.flow import Flow
    from diagcot.serving.request import Film, Reply, Request
    from diagcot.serving.server.process import ServerError
    from diagcot.serving.server.server import Server, serve
    from diagcot.serving.settings import ServerSettings

__all__ = ["Client", "Film", "Flow", "Reply", "Request", "Server", "ServerError", "ServerSettings", "serve"]

_MODULES = {
    "Client": "client.client", "Flow": "client.flow", "ServerError": "server.process", "Film": "request", "Reply": "request",
    "Request": "request", "Server": "server.server", "serve": "server.server", "ServerSettings": "settings",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    # Settings of this package are read by commands that only plan, which must not wait for an HTTP client.
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
