"""The errors of missing or unusable input data."""

from diagcot.jobs import UserError


class DataError(UserError):
    """Input data that cannot be used; the message says what, where, and what to do next."""

    fault_in = "data"


class ImageError(DataError):
    """An image file that cannot be decoded."""
