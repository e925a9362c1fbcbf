"""The errors of missing or unusable input data."""

from diagcot.jobs import UserError


class DataError(UserError):
    """Input data that cannot be used; the message says what, where, and what to do next."""

    fault_in = "data"


class ImageError(DataError):
    """An image file that cannot be decoded."""


def described(text: str) -> str:
    """What a cell of a table holds, for messages: never its content, since a shifted row puts a report where an id belongs.

    >>> described(""), described("-3.5"), described("Mrs Smith")
    ('empty', 'a number', 'a text of 9 characters')
    """
    if not text.strip():
        return "empty"
    try:
        float(text)
    except ValueError:
        return f"a text of {len(text)} character{'s' * (len(text) != 1)}"
    return "a number"
