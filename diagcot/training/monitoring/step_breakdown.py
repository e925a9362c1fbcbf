"""Where the seconds of a GRPO step go."""

import time


class StepBreakdown:
    """Seconds of each part of a step, including what lies between two steps."""

    PARTS = ("sync_s", "rollout_s", "reward_s", "train_s")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """A step begins now."""
        self._began = self._last = time.monotonic()
        self._parts = dict.fromkeys(self.PARTS, 0.0)

    def skip(self) -> None:
        """The time since the last call belongs to no part."""
        self._last = time.monotonic()

    def add(self, part: str) -> None:
        """The time since the last call belongs to `part`."""
        before, self._last = self._last, time.monotonic()
        self._parts[part] += self._last - before

    def move(self, source: str, part: str, seconds: float) -> None:
        """Move seconds from `source`, at most all of it, to `part`."""
        seconds = min(seconds, self._parts[source])
        self._parts[source] -= seconds
        self._parts[part] += seconds

    def figures(self) -> dict[str, float]:
        """Seconds of every part, of none of them (idle_s), and of the step; the next step begins."""
        total = time.monotonic() - self._began
        parts = {**self._parts, "idle_s": total - sum(self._parts.values()), "seconds": total}
        self.reset()
        return {name: round(value, 4) for name, value in parts.items()}
