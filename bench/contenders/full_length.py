"""Kind `grpo` whose servers end no answer before `max_tokens`, so that both sides of a benchmark train on equal lengths."""

from typing import Any

from diagcot.serving import Request
from diagcot.training.kinds.grpo import prepare, run
from diagcot.training.rl import rollout_collector

__all__ = ["prepare", "run"]


class FullLength(Request):
    """A request whose answer has `max_tokens` tokens."""

    def body(self, *side: Any) -> dict[str, Any]:
        """See `Request.body`; with vLLM's `min_tokens`."""
        return super().body(*side) | {"min_tokens": self.max_tokens}


def _requests_of(*what: Any) -> list[Request]:
    return [FullLength(**vars(request)) for request in _shorter(*what)]


_shorter = rollout_collector.requests_of
rollout_collector.requests_of = _requests_of  # type: ignore[assignment]
