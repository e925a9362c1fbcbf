"""Batches of coming steps, made in threads while the model computes the present one."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetch(Generic[T]):
    """Calls `make(step)` for steps `first` to `last - 1` in order, at most `ahead` of them before they are needed.

    Decoding and resizing release the interpreter's lock, so threads are enough; they also share the cache of images.
    """

    def __init__(self, make: Callable[[int], T], first: int, last: int, ahead: int = 2, threads: int = 1) -> None:
        self._make, self._next, self._last, self._ahead = make, first, last, ahead
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="batches")
        self._waiting: list[Future[T]] = []

    def __enter__(self) -> "Prefetch[T]":
        self._fill()
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def __next__(self) -> T:
        """The next step's batches, in order. Raises what `make` raised."""
        if not self._waiting:
            raise StopIteration
        batches = self._waiting.pop(0).result()
        self._fill()
        return batches

    def _fill(self) -> None:
        while self._next < self._last and len(self._waiting) < self._ahead:
            self._waiting.append(self._pool.submit(self._make, self._next))
            self._next += 1
