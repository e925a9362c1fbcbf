"""The error of bad or missing input data: its text says what, where, and what to do next."""


class DataError(ValueError):
    """Input data that cannot be used; meant to be shown to a person as it is, without a traceback."""
