"""Where the seconds of a GRPO step go."""

import time


class Phases:
    """Where the seconds of a step go, what lies between two steps included."""

    PARTS = ("sync_s", "rollout_s", "reward_s", "train_s")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """A step begins now."""
        self._began = self._last = time.monotonic()
        self._parts = dict.fromkeys(self.PARTS, 0.0)

    def skip(self) -> None:
        """What has passed since the last call was none of the parts."""
        self._last = time.monotonic()

    def took(self, part: str) -> None:
        """What has passed since the last call was `part`."""
        before, self._last = self._last, time.monotonic()
        self._parts[part] += self._last - before

    def moved(self, source: str, part: str, seconds: float) -> None:
        """So much of `source`, at most all of it, was `part`."""
        seconds = min(seconds, self._parts[source])
        self._parts[source] -= seconds
        self._parts[part] += seconds

    def shares(self) -> dict[str, float]:
        """Seconds of every part, of none of them (idle_s), and of the step; the next step begins."""
        whole = time.monotonic() - self._began
        parts = {**self._parts, "idle_s": whole - sum(self._parts.values()), "seconds": whole}
        self.reset()
        return {name: round(value, 4) for name, value in parts.items()}
