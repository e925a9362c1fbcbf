"""Errors of model servers that both the server and its client raise."""

from diagcot.jobs import SiteError


class ServerError(SiteError):
    """The server cannot be started or kept alive; the message names its log."""
