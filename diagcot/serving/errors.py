"""Errors of model servers that both the server and its client raise."""

from diagcot.jobs import UserError


class ServerError(UserError):
    """The server cannot be started or kept alive; the message names its log."""
