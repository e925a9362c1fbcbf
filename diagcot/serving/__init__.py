"""One vLLM server for a task, on a private Unix socket, and the client that keeps it busy. Imports no torch."""

from diagcot.serving.client import Client
from diagcot.serving.process import ServerError
from diagcot.serving.request import Reply, Request
from diagcot.serving.server import Server, serve
from diagcot.serving.settings import ServerSettings

__all__ = ["Client", "Reply", "Request", "Server", "ServerError", "ServerSettings", "serve"]
