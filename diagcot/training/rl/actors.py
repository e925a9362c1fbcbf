"""The vLLM servers that run in Ray's workers: those of the policy, and those of models that judge replies.

No torch is imported here.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from itertools import cycle
from pathlib import Path
from typing import Any

from diagcot.jobs import Context, SiteError, UserError
from diagcot.jobs.environment import code
from diagcot.serving import Reply, Request, Server, ServerError, ServerSettings, serve
from diagcot.serving.server.process import connect


def context_fields(ctx: Context) -> dict[str, Any]:
    """The fields of a context that can be sent to another process."""
    local = {"stop", "on_progress"}
    return {field.name: getattr(ctx, field.name) for field in fields(ctx) if field.name not in local and field.init}


def server_gpus(visible: str | None, gpus: int, server: int, servers: int) -> list[str]:
    """GPUs of server number `server` of `servers` on a node of `gpus` GPUs. visible: CUDA_VISIBLE_DEVICES there.

    Raises SiteError if fewer are visible: a site that binds one GPU to each task hides the others from Ray, too.
    """
    names = [name for name in visible.split(",") if name] if visible else [str(number) for number in range(gpus)]
    if len(names) < gpus:
        raise SiteError(
            f"rollout servers see {len(names)} of the {gpus} GPUs of their node (CUDA_VISIBLE_DEVICES): let Slurm bind none to"
            " single tasks (`gpu_bind: none` in the cluster file)"
        )
    share = max(1, len(names) // servers)
    return names[server * share : (server + 1) * share] or names[-share:]


class ModelServer:
    """One vLLM server and its weights; number `server` of `servers` on its node. context: see `context_fields`.

    fixed_cache: see `serve`.
    """

    def __init__(
        self,
        model_dir: Path,
        settings: ServerSettings,
        context: dict[str, Any],
        server: int,
        servers: int,
        fixed_cache: bool = False,
    ) -> None:
        code.require_own()
        context = {**context, "rank": 0, "attempt": f"{context['attempt']}-{context['node_rank']}-{server}"}
        if context["gpus"]:
            own_gpus = server_gpus(
                os.environ.get("CUDA_VISIBLE_DEVICES"), context["gpus"] * context["local_world_size"], server, servers
            )
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(own_gpus)
            context["gpus"] = len(own_gpus)
        self._serve = serve(model_dir, settings, Context(**context), fixed_cache=fixed_cache)
        self._stack = contextlib.ExitStack()
        self._server: Server

    def post(self, paths: Sequence[str], bodies: Sequence[Any], timeout_s: float) -> None:
        """Call vLLM's control routes in turn, all replicas at once; each with its own JSON body or the only one.

        Raises ServerError with the answer of a replica that refuses.
        """

        def call(replica: Any, body: Any) -> None:
            with connect(replica.process.socket, timeout_s) as http:
                for path in paths:
                    answer = http.post(path, json=body)
                    if answer.is_error:
                        raise ServerError(f"{path}: HTTP {answer.status_code} {answer.text[:400]}")

        replicas = self._server.replicas
        with ThreadPoolExecutor(len(replicas)) as pool:
            list(pool.map(call, replicas, cycle(bodies)))

    def close(self) -> None:
        """End the server (a warm server goes on)."""
        self._stack.close()


class RolloutServer(ModelServer):
    """A server of the policy."""

    _pushed: int | None = None  # generation of the process that holds weights sent from GPU to GPU

    def __init__(self, *where: Any) -> None:
        super().__init__(*where)
        self._server = self._stack.enter_context(self._serve)  # at once: all servers start together

    def ready(self) -> bool:
        """True; the call waits for the server to start."""
        return True

    def load(self, model_dir: Path) -> float:
        """Serve the weights of `model_dir`; returns the seconds it took."""
        self._server.load(model_dir)
        return self._server.load_s

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[str, Reply]]:
        """(request id, reply) as they finish.

        Raises RuntimeError if the server restarted and its weights had been sent from GPU to GPU: they are lost.
        """
        yield from self._server.complete(requests)
        if self._pushed not in (None, self._server.generation):
            raise RuntimeError(
                "a rollout server died and lost the policy's weights; the next attempt resumes the stage"
            )

    def mark_pushed(self) -> None:
        """The process that runs now holds the policy's weights."""
        self._pushed = self._server.generation


class ScoringServer(ModelServer):
    """A server of the language model behind the component `name` of a reward."""

    def __init__(self, name: str, *where: Any) -> None:
        super().__init__(*where)
        self._name = name

    def ready(self) -> bool:
        """Start the server; True. Raises RuntimeError that names the component if it cannot be started."""
        try:
            self._server = self._stack.enter_context(self._serve)
        except (ServerError, UserError) as error:
            raise RuntimeError(f"the server of the reward's component {self._name} did not start: {error}") from None
        return True

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        """The replies in the order of the requests, whose ids differ. May be called from several threads at once."""
        if len({request.id for request in requests}) < len(requests):
            raise ValueError("two requests have one id, so their replies could not be told apart")
        replies = dict(self._server.complete(requests))
        return [replies[request.id] for request in requests]
