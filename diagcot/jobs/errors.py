"""The one exception whose message is meant for the person at the terminal."""


class UserError(Exception):
    """Says what happened, where, and what to do next; shown without a traceback."""


class StorageError(UserError):
    """The machine or its storage could not read a file, whose content was not judged; another node or time may succeed."""
