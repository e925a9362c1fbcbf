"""How many requests a server is given at once, steered by what it says of itself on /metrics."""

import re
from dataclasses import dataclass

FULL = 0.95
"""Use of the KV cache from which on more requests would push others out of it."""

_LINE = re.compile(
    rb"^vllm:(num_requests_running|num_requests_waiting|kv_cache_usage_perc|num_preemptions_total)(?:\{[^}]*\})? (\S+)$",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Load:
    """A server's state at one moment. kv_cache_use: share of its blocks that running requests hold, 0 to 1."""

    running: float
    waiting: float
    kv_cache_use: float = 0.0
    preemptions: float = 0.0  # since it started

    @staticmethod
    def read(metrics: bytes) -> "Load | None":
        """From the text of vLLM's /metrics, engines added up; None if it does not tell."""
        found: dict[bytes, list[float]] = {}
        for name, value in _LINE.findall(metrics):
            found.setdefault(name, []).append(float(value))
        if b"num_requests_running" not in found or b"num_requests_waiting" not in found:
            return None
        return Load(
            sum(found[b"num_requests_running"]),
            sum(found[b"num_requests_waiting"]),
            max(found.get(b"kv_cache_usage_perc", [0.0])),
            sum(found.get(b"num_preemptions_total", [0.0])),
        )


class Throttle:
    """The number in flight at one server, from 1 to `window`: so many that a few wait, and no more.

    A server at which none waits may go idle; one at which many wait has samples whose shared prefix is pushed out of the
    cache between two of their calls. A cache that is nearly full, or that pushes requests out, is given less at once.
    """

    def __init__(self, window: int) -> None:
        self.window = self.limit = window
        self.load: Load | None = None

    def see(self, load: Load, in_flight: int) -> None:
        """One look, about each second. in_flight: our own requests there, which follow a lower limit only slowly."""
        before, self.load = self.load, load
        wanted = max(2.0, load.running / 8)  # waiting
        pushed_out = before is not None and load.preemptions > before.preemptions
        if load.waiting < wanted and not pushed_out and load.kv_cache_use < FULL:
            self._set(self.limit + max(1.0, self.limit / 4))
        elif in_flight > self.limit:  # the last step down has not shown its effect yet
            return
        elif pushed_out or load.kv_cache_use >= FULL:
            self._set(in_flight * 0.8)
        elif load.waiting > 2 * wanted:
            self._set(self.limit - (load.waiting - wanted) / 2)

    def _set(self, limit: float) -> None:
        self.limit = max(1, min(self.window, int(limit)))
