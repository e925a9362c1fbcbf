"""vLLM servers for a task, on private Unix sockets, and the client that keeps them busy. Imports no torch."""

from diagcot.serving.client import Client
from diagcot.serving.flow import Flow
from diagcot.serving.process import ServerError
from diagcot.serving.request import Film, Reply, Request
from diagcot.serving.server import Server, serve
from diagcot.serving.settings import ServerSettings

__all__ = ["Client", "Film", "Flow", "Reply", "Request", "Server", "ServerError", "ServerSettings", "serve"]
