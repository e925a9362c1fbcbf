"""The work as a step of datatrove; in a module of its own because its pickles name it by that."""

from pathlib import Path

from work import nap


class Nap:
    """A step without documents."""

    def __init__(self, out: str, stage: int, seconds: list[float]) -> None:
        self.out, self.stage, self.seconds = out, stage, seconds

    def __call__(self, data: object, rank: int, world_size: int) -> object:
        """Work of one task of datatrove's executor."""
        nap(Path(self.out), self.stage, rank, self.seconds[rank])
        return data
