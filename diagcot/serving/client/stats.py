"""Throughput of a client and load of its server, for the progress of a stage and the counts of a unit."""

import time
from collections import deque
from dataclasses import dataclass

from diagcot.serving.client.client import Client

SPAN_S = 15.0
"""Rates are averages over this many seconds."""


@dataclass(frozen=True)
class ServingStats:
    """Rates of the last seconds, load of the server, and totals since the start.

    cache_hit_rate: share of the prompt tokens found in the prefix cache, 0 to 1; None if the server does not report it.
    running, waiting: requests that the server computes, and that wait there. kv_cache_use: of the fullest replica, 0 to 1.
    """

    done: int = 0  # items
    in_flight: int = 0  # items
    limit: int = 0  # items that may be in flight now
    requests_per_s: float = 0.0
    tokens_per_s: float = 0.0  # generated
    prompt_tokens_per_s: float = 0.0
    cache_hit_rate: float | None = None
    running: int | None = None
    waiting: int | None = None
    kv_cache_use: float | None = None
    seconds: float = 0.0
    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    told_tokens: int = 0  # prompt tokens of the replies that report their cached tokens
    completion_tokens: int = 0

    def figures(self) -> dict[str, float]:
        """The figures that the screens show, for `Context.progress`."""
        figures: dict[str, float] = {
            "tokens/s": round(self.tokens_per_s, 1),
            "requests/s": round(self.requests_per_s, 1),
            "in flight": self.in_flight,
        }
        if self.waiting is not None:
            figures["waiting"] = self.waiting
        if self.cache_hit_rate is not None:
            figures["cache hits %"] = round(100 * self.cache_hit_rate, 1)
        return figures

    def counts(self) -> dict[str, float]:
        """Counts for the manifest of a unit. They add up over units; rates and cache hits follow from the sums."""
        return {
            "serving_seconds": round(self.seconds, 3),
            "requests": self.requests,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "told_tokens": self.told_tokens,
            "completion_tokens": self.completion_tokens,
        }


class StatsMeter:
    """Computes the statistics of a client from its totals."""

    def __init__(self, client: Client) -> None:
        self._client, self._started = client, time.monotonic()
        self._samples: deque[tuple[float, int, int, int]] = deque([(self._started, 0, 0, 0)])

    def read(self, done: int, in_flight: int) -> ServingStats:
        """The statistics now. done, in_flight: items."""
        now, totals = time.monotonic(), self._client.totals
        self._samples.append((now, totals.requests, totals.completion_tokens, totals.prompt_tokens))
        while len(self._samples) > 2 and self._samples[1][0] < now - SPAN_S:
            self._samples.popleft()
        since, requests, completion_tokens, prompt_tokens = self._samples[0]
        span = max(now - since, 1e-3)
        loads = self._client.loads
        return ServingStats(
            done=done,
            in_flight=in_flight,
            limit=self._client.limit,
            requests_per_s=(totals.requests - requests) / span,
            tokens_per_s=(totals.completion_tokens - completion_tokens) / span,
            prompt_tokens_per_s=(totals.prompt_tokens - prompt_tokens) / span,
            cache_hit_rate=totals.cached_tokens / totals.told_tokens if totals.told_tokens else None,
            running=int(sum(load.running for load in loads)) if loads else None,
            waiting=int(sum(load.waiting for load in loads)) if loads else None,
            kv_cache_use=max(load.kv_cache_use for load in loads) if loads else None,
            seconds=now - self._started,
            **vars(totals),
        )
