"""What runs in Ray's workers: a vLLM server that rolls out, and the reward. No torch is imported here."""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from diagcot.jobs.context import Context
from diagcot.rewards import registry
from diagcot.rewards.score import Reference, Score
from diagcot.serving import Reply, Request, ServerSettings, serve


def surroundings(ctx: Context) -> dict[str, Any]:
    """The parts of a context that travel to another process."""
    local = {"stop", "on_progress"}
    return {one.name: getattr(ctx, one.name) for one in fields(ctx) if one.name not in local and one.init}


def devices(visible: str | None, gpus: int, engine: int, engines: int) -> list[str]:
    """GPUs of engine `engine` out of `engines` on a node of `gpus` GPUs, `visible` being CUDA_VISIBLE_DEVICES there."""
    names = [name for name in visible.split(",") if name] if visible else [str(number) for number in range(gpus)]
    share = max(1, len(names) // engines)
    return names[engine * share : (engine + 1) * share] or names[-share:]


class RolloutEngine:
    """One server and its weights; number `engine` of `engines` on its node."""

    def __init__(
        self, model_dir: Path, settings: ServerSettings, around: dict[str, Any], engine: int, engines: int
    ) -> None:
        around = {**around, "rank": 0, "attempt": f"{around['attempt']}-{around['node_rank']}-{engine}"}
        if around["gpus"]:
            mine = devices(
                os.environ.get("CUDA_VISIBLE_DEVICES"), around["gpus"] * around["local_world_size"], engine, engines
            )
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(mine)
            around["gpus"] = len(mine)
        self._open = contextlib.ExitStack()
        self._server = self._open.enter_context(serve(model_dir, settings, Context(**around)))

    def ready(self) -> bool:
        return True

    def load(self, model_dir: Path) -> float:
        """Serve the weights of `model_dir`; returns the seconds it took."""
        self._server.load(model_dir)
        return self._server.load_s

    def roll(self, requests: Sequence[Request]) -> list[Reply]:
        """Replies in the order of the requests."""
        found = dict(self._server.complete(requests))
        return [found[request.id] for request in requests]

    def close(self) -> None:
        """End the server (a standby server goes on)."""
        self._open.close()


class RewardWorker:
    """A reward and what it learned from the corpus."""

    def __init__(self, name: str, mode: str, corpus: Sequence[Reference]) -> None:
        self._reward = registry.reward(name, mode, corpus)

    def score(self, outputs: Sequence[str], references: Sequence[Reference], progress: float) -> list[Score]:
        return self._reward(outputs, references, progress)
