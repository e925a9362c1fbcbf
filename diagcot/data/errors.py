"""The error of bad or missing input data."""

from diagcot.jobs import UserError


class DataError(UserError):
    """Input data that cannot be used: what, where, and what to do next."""


class ImageError(DataError):
    """A film that cannot be decoded."""
