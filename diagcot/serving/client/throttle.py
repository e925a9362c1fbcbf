"""Limits the number of requests at one server, by the load that the server reports on /metrics."""

import re
from dataclasses import dataclass

FULL = 0.95
"""Use of the KV cache above which more requests would evict others from it."""

_LINE = re.compile(
    rb"^vllm:(num_requests_running|num_requests_waiting|kv_cache_usage_perc|num_preemptions_total)(?:\{[^}]*\})? (\S+)$",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Load:
    """State of a server at one moment, under vLLM's metric names (vllm/v1/metrics/loggers.py, `PrometheusStatLogger`).

    kv_cache_use: share of the KV cache's blocks that running requests hold, 0 to 1. preemptions: since the start.
    """

    running: float
    waiting: float
    kv_cache_use: float = 0.0
    preemptions: float = 0.0

    @staticmethod
    def read(metrics: bytes) -> "Load | None":
        """Parse the text of vLLM's /metrics, summed over its engines; None if the counts of requests are missing."""
        values: dict[bytes, list[float]] = {}
        for name, value in _LINE.findall(metrics):
            values.setdefault(name, []).append(float(value))
        if b"num_requests_running" not in values or b"num_requests_waiting" not in values:
            return None
        return Load(
            sum(values[b"num_requests_running"]),
            sum(values[b"num_requests_waiting"]),
            max(values.get(b"kv_cache_usage_perc", [0.0])),
            sum(values.get(b"num_preemptions_total", [0.0])),
        )


class Throttle:
    """The limit of requests in flight at one server, from 1 to `window`. It keeps a short queue at the server.

    With an empty queue the server may become idle; with a long one, the prefixes of samples are evicted from the cache
    between two of their requests. If the cache is nearly full or evicts requests, the limit is lowered at once.
    """

    def __init__(self, window: int) -> None:
        self.window = self.limit = window
        self.load: Load | None = None

    def update(self, load: Load, in_flight: int) -> None:
        """Adjust the limit to a new load, about each second. in_flight: our own requests at the server at that time."""
        previous, self.load = self.load, load
        queue = max(2.0, load.running / 8)  # the length of queue to keep
        evicted = previous is not None and load.preemptions > previous.preemptions
        if load.waiting < queue and not evicted and load.kv_cache_use < FULL:
            self._set(self.limit + max(1.0, self.limit / 4))
        elif in_flight > self.limit:  # the last reduction has not taken effect yet
            return
        elif evicted or load.kv_cache_use >= FULL:
            self._set(in_flight * 0.8)
        elif load.waiting > 2 * queue:
            self._set(self.limit - (load.waiting - queue) / 2)

    def _set(self, limit: float) -> None:
        self.limit = max(1, min(self.window, int(limit)))
