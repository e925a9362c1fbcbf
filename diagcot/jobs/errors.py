"""Exceptions whose message is meant for the person at the terminal, and where the fault lies that caused them."""

from typing import ClassVar, Literal

FaultIn = Literal["recipe", "data", "model", "memory", "site", "own code", "ours"]
"""Where a fault lies, which decides what can help: in the recipe, in the data or the model that it names, in the memory that
a task was given, at the site (disk, network, Slurm, drivers), in the user's own code, or in this software."""


class UserError(Exception):
    """Says what happened, where, and what to do next; shown without a traceback."""

    fault_in: ClassVar[FaultIn] = "recipe"


class SiteError(UserError):
    """The machine, its environment or its services cannot do what is needed."""

    fault_in = "site"


class StorageError(SiteError):
    """The machine or its storage could not read a file, whose content was not judged; another node or time may succeed."""


class ModelError(UserError):
    """A model that is missing, incomplete, damaged, or cannot do what is asked of it."""

    fault_in = "model"


class OwnCodeError(UserError):
    """Code of the user that the recipe names cannot be loaded, raises an error, or returns what it must not."""

    fault_in = "own code"
