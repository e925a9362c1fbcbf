"""What a server needs of the task that starts it."""

from pathlib import Path
from typing import Any, Protocol


class ServingTask(Protocol):
    """The part of `diagcot.jobs` Context that serving uses."""

    startup_s: float

    @property
    def workspace(self) -> Path:
        """Private folder of the stage, for the logs of servers."""

    @property
    def attempt(self) -> str:
        """Unique token of this execution."""

    @property
    def rank(self) -> int:
        """Rank of this process in the task, from 0."""

    @property
    def world_size(self) -> int:
        """Number of processes of the task."""

    @property
    def node_rank(self) -> int:
        """Index of this node among the task's nodes, from 0."""

    @property
    def nodes(self) -> int:
        """Number of nodes of the task."""

    @property
    def gpus(self) -> int:
        """Number of GPUs of this process."""

    def stopping(self) -> bool:
        """True once the task was asked to stop."""

    def event(self, name: str, **fields: Any) -> None:
        """Write a line to the events of the stage."""
