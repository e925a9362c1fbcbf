"""What runs in Ray's workers: a vLLM server that rolls out, and the rewards. No torch is imported here."""

import contextlib
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from itertools import cycle
from pathlib import Path
from typing import Any

from diagcot.jobs import Context
from diagcot.rewards import registry
from diagcot.rewards.score import Reference, Score
from diagcot.serving import Reply, Request, ServerSettings, serve
from diagcot.serving.server.process import connect


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
        self._pushed: int | None = None  # generation of the process that holds weights which came by device

    def ready(self) -> bool:
        return True

    def load(self, model_dir: Path) -> float:
        """Serve the weights of `model_dir`; returns the seconds it took."""
        self._server.load(model_dir)
        return self._server.load_s

    def roll(self, requests: Sequence[Request]) -> Iterator[tuple[str, Reply]]:
        """(request id, reply) as they finish.

        Raises RuntimeError if the server was started anew and what it held had come from GPU to GPU: it is lost.
        """
        yield from self._server.complete(requests)
        if self._pushed not in (None, self._server.generation):
            raise RuntimeError(
                "a rollout server died and lost the policy's weights; the next attempt resumes the stage"
            )

    def post(self, paths: Sequence[str], bodies: Sequence[Any], timeout_s: float) -> None:
        """Call vLLM's control routes in turn, all replicas at once, each with its own JSON body or the only one."""

        def call(replica: Any, body: Any) -> None:
            with connect(replica.process.socket, timeout_s) as http:
                for path in paths:
                    http.post(path, json=body).raise_for_status()

        replicas = self._server.replicas
        with ThreadPoolExecutor(len(replicas)) as pool:
            list(pool.map(call, replicas, cycle(bodies)))

    def pushed(self) -> None:
        """The server as it runs now holds the policy's weights."""
        self._pushed = self._server.generation

    def close(self) -> None:
        """End the server (a standby server goes on)."""
        self._open.close()


@dataclass(frozen=True)
class Output:
    """A rollout's text, what it is held against, and the key of its reward."""

    text: str
    reference: Reference
    reward: str = ""


class RewardWorker:
    """Rewards by key, (name, mode), and what each learned from the references of its own prompts."""

    def __init__(self, table: Mapping[str, tuple[str, str]], corpus: Mapping[str, Sequence[Reference]]) -> None:
        self._rewards = {
            key: registry.reward(name, mode, corpus.get(key, ()))
            for key, (name, mode) in table.items()
            if corpus.get(key)
        }

    def score(self, outputs: Sequence[Output], progress: float) -> list[Score]:
        """Scores in order. Outputs of one reward are scored together."""
        places = defaultdict(list)
        for place, output in enumerate(outputs):
            places[output.reward].append(place)
        found: dict[int, Score] = {}
        for key, mine in places.items():
            scores = self._rewards[key](
                [outputs[at].text for at in mine], [outputs[at].reference for at in mine], progress
            )
            found.update(zip(mine, scores, strict=True))
        return [found[place] for place in range(len(outputs))]
