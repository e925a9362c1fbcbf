"""The asynchronous client: keeps a server busy, retries temporary failures, and returns permanent ones as error replies."""

import asyncio
import contextlib
import random
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType

from diagcot.jobs.state import json_text
from diagcot.serving.client.connection import ModelServer, ReplicaConnection
from diagcot.serving.client.throttle import Load
from diagcot.serving.errors import ServerError
from diagcot.serving.http import ConnectionLostError, Response, UnreachableError, refuses
from diagcot.serving.request import NEUTRAL, Reply, Request

MAX_LOSSES = 3
"""A request whose connection was lost this often is given up. Before the last retry it is sent without other suspects."""

MAX_REMEMBERED = 20_000
"""Number of samples whose replica is remembered; far more than are in flight."""


@dataclass
class Totals:
    """Sums over all replies so far. Prompt tokens count at each request that sent them."""

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    told_tokens: int = 0  # prompt tokens of the replies that report their cached tokens

    def add(self, reply: Reply) -> None:
        """Count a reply."""
        self.requests += 1
        self.prompt_tokens += reply.prompt_tokens
        self.completion_tokens += reply.completion_tokens
        if reply.cached_tokens is not None:
            self.cached_tokens += reply.cached_tokens
            self.told_tokens += reply.prompt_tokens


@dataclass
class _Failures:
    """What has failed so far for one request."""

    losses: int = 0  # deaths of servers and overdue replies
    retries: int = 0  # after refusals and invalid replies
    processes: set[tuple[int, int]] = field(default_factory=set)  # (replica, generation) that it was lost with

    @property
    def suspect(self) -> bool:
        """True if the request may be what kills the servers."""
        return self.losses >= MAX_LOSSES - 1


class Client:
    """Sends requests to the replicas of a server. All requests with one id go to the same replica, which caches their prefix.

    After a lost connection or an overdue reply the replica is revived in a thread, and the request is sent again.
    """

    def __init__(self, servers: Sequence[ModelServer]) -> None:
        self._replicas = [ReplicaConnection(server) for server in servers]
        self._settings = servers[0].settings
        self._model, self._vllm = servers[0].model, servers[0].vllm
        neutral = self._settings.endpoint is not None and self._settings.endpoint_sampling == "neutral"
        self.takes_images = self._settings.images > 0
        self._sampling: dict[str, float] = NEUTRAL if neutral else {}  # a server of ours knows no other defaults
        self._assigned: OrderedDict[str, ReplicaConnection] = OrderedDict()
        self._suspects = asyncio.Lock()
        self.totals = Totals()

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the idle connections."""
        for replica in self._replicas:
            replica.close()

    @property
    def limit(self) -> int:
        """Maximum number of requests in flight now, over all replicas. At least 1, so that a request finds out if none is left.

        Requests that a slow replica has beyond its own limit, since that was lowered, do not reduce the limit of the others.
        """
        return max(1, sum(max(replica.limit, replica.in_flight) for replica in self._replicas if not replica.failure))

    @property
    def loads(self) -> list[Load]:
        """The last known load of each replica that reports one."""
        return [replica.throttle.load for replica in self._replicas if replica.throttle and replica.throttle.load]

    async def read_metrics(self) -> None:
        """Read the metrics of all replicas, which adjust `limit`."""
        await asyncio.gather(*(replica.read_metrics() for replica in self._replicas))

    async def chat(self, request: Request) -> Reply:
        """The reply; its `error` is set if the request is invalid or was given up.

        Raises ServerError if no server is left, UserError if this kind of server does not support the request.
        """
        try:
            body = request.encode(self._model, self._vllm, self._sampling)
        except ValueError as error:
            return Reply(error=str(error), refused=True)
        failures = _Failures()
        while True:
            reply = await self._send(request, body, failures)
            if reply is not None:
                return reply

    async def _send(self, request: Request, body: bytes, failures: _Failures) -> Reply | None:
        """Send a request once; None if it is to be sent again."""
        replica = self._replica(request.id)
        # A request that was in flight at two deaths of a server is sent while no other such request is. So the request
        # that kills servers can be distinguished from those that were only in flight at the same time.
        async with self._suspects if failures.suspect else contextlib.nullcontext():
            generation = replica.server.generation
            try:
                response = await replica.send(body)
            except UnreachableError:  # it was not sent, so it cannot be the cause
                await self._revive(replica, generation)
                await asyncio.sleep(0.05)
                return None
            except (ConnectionLostError, TimeoutError) as error:
                return await self._after_loss(replica, generation, error, failures)
        if response.status == 429 or response.status >= 500:
            return await self._after_refusal(replica, generation, response, failures)
        if response.status != 200:
            return Reply(error=f"HTTP {response.status}: {_message(response)}", refused=refuses(response.status))
        return await self._read(replica, response, request, failures)

    async def _after_loss(
        self, replica: ReplicaConnection, generation: int, error: Exception, failures: _Failures
    ) -> Reply | None:
        lost = isinstance(error, ConnectionLostError)
        process = (id(replica), generation)
        if lost and process in failures.processes and failures.retries < self._settings.retries:
            failures.retries += 1  # a dying process had accepted it again: that is one death, not two
            await asyncio.sleep(0.05 * 2**failures.retries)
        else:
            failures.losses += 1
        failures.processes.add(process)
        await self._revive(replica, generation)
        if failures.losses < MAX_LOSSES:
            return None
        cause = "the server died" if lost else f"no reply in {self._settings.request_timeout_s:.0f} s"
        return Reply(error=f"{cause} at each of {failures.losses} tries")

    async def _after_refusal(
        self, replica: ReplicaConnection, generation: int, response: Response, failures: _Failures
    ) -> Reply | None:
        failures.retries += 1
        if failures.retries > self._settings.retries:
            return Reply(error=f"HTTP {response.status} at each of {failures.retries} tries: {_message(response)}")
        await asyncio.sleep(random.uniform(0.5, 1.0) * min(0.25 * 2**failures.retries, 15.0))
        if response.status >= 500:
            await self._revive(replica, generation)
        return None

    async def _read(
        self, replica: ReplicaConnection, response: Response, request: Request, failures: _Failures
    ) -> Reply | None:
        """The reply if it is whole. Another one is asked for again, where that may help, and then an error."""
        try:
            reply = Reply.from_body(json_text.parse_json(response.body.decode()))
            fault, may_pass = reply.fault(request.n), reply.may_pass
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            fault, may_pass = f"it is not a completion ({type(error).__name__})", True
        if fault is not None:
            failures.retries += 1
            if not may_pass or failures.retries > self._settings.retries:
                return Reply(error=f"the server's reply is not whole: {fault}")
            await asyncio.sleep(0.05 * 2**failures.retries)
            return None
        replica.server.replied()
        self.totals.add(reply)
        return reply

    def _replica(self, sample: str) -> ReplicaConnection:
        """The replica of a sample; a new sample goes to the least busy one. Raises ServerError if none is left."""
        replica = self._assigned.get(sample)
        if replica is None or replica.failure:
            available = [replica for replica in self._replicas if not replica.failure]
            if not available:
                raise self._replicas[0].failure or ServerError("there is no server")
            replica = min(available, key=lambda candidate: candidate.in_flight / candidate.limit)
            self._assigned[sample] = replica
            if len(self._assigned) > MAX_REMEMBERED:
                self._assigned.popitem(last=False)
        return replica

    async def _revive(self, replica: ReplicaConnection, generation: int) -> None:
        """Revive a replica. If that fails, its samples go to the others as long as there are any."""
        with contextlib.suppress(ServerError):
            await replica.revive(generation)


def _message(response: Response) -> str:
    try:
        return str(json_text.parse_json(response.body)["error"]["message"])[:300]
    except (ValueError, LookupError, TypeError):
        return "no message"
