"""The asynchronous client: keeps a server busy, retries what may be retried, and records what may not."""

import asyncio
import contextlib
import json
import random
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from diagcot.serving.client.throttle import Load, Throttle
from diagcot.serving.http import Address, Lost, Pool, Response, Unreachable
from diagcot.serving.request import Reply, Request
from diagcot.serving.server.process import ServerError
from diagcot.serving.settings import ServerSettings

LOSSES = 3
"""A request whose connection was lost this often, the last times alone in flight, is given up as the cause."""

KNOWN = 20_000
"""Samples whose replica is remembered; far more than are in flight."""


class Replica(Protocol):
    """What a client needs of a server, ours or another's."""

    settings: ServerSettings
    generation: int
    model: str
    vllm: bool

    @property
    def address(self) -> Address: ...
    def revive(self, generation: int) -> None: ...
    def replied(self) -> None: ...


@dataclass
class Totals:
    """What a client has been answered so far. Tokens of prompts count at each call that sent them."""

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    told_tokens: int = 0  # of the prompts', those whose reply told how many were cached

    def add(self, reply: Reply) -> None:
        self.requests += 1
        self.prompt_tokens += reply.prompt_tokens
        self.completion_tokens += reply.completion_tokens
        if reply.cached_tokens is not None:
            self.cached_tokens += reply.cached_tokens
            self.told_tokens += reply.prompt_tokens


class _Lane:
    """One replica as the client sees it: its connections, its load, and whether it still lives."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.throttle: Throttle | None = Throttle(replica.settings.window)
        self.in_flight = 0
        self.gone: ServerError | None = None  # why it cannot be had again
        self.window = asyncio.Semaphore(replica.settings.window)
        self.pool = Pool(replica.address, replica.settings.request_timeout_s)
        self._reviving: asyncio.Task[None] | None = None

    @property
    def limit(self) -> int:
        return self.throttle.limit if self.throttle else self.replica.settings.window

    async def revive(self, generation: int) -> None:
        """However many ask at once, one thread looks after it. Raises ServerError."""
        if self.gone:
            raise self.gone
        if self._reviving is None or self._reviving.done():
            self._reviving = asyncio.create_task(asyncio.to_thread(self.replica.revive, generation))
        try:
            await asyncio.shield(self._reviving)
        except ServerError as error:
            self.gone = error
            raise

    async def look(self) -> None:
        """Steer by /metrics; a server that has none keeps its whole window."""
        if self.throttle is None or self.gone:
            return
        try:
            answer = await self.pool.get("/metrics", 10)
        except (Lost, Unreachable, TimeoutError):  # whoever has a request there looks after it
            return
        load = Load.read(answer.body) if answer.status == 200 else None
        if load is not None:
            self.throttle.see(load, self.in_flight)
        elif answer.status in (200, 401, 403, 404, 405):
            self.throttle = None


class Client:
    """Sends requests to the replicas of a server. All requests of one id go to the same replica, which knows its prefix.

    After a lost connection or an overdue reply it has the replica revived (in a thread), then tries again.
    """

    def __init__(self, replicas: Sequence[Replica]) -> None:
        self._lanes = [_Lane(replica) for replica in replicas]
        self._settings = replicas[0].settings
        self._homes: OrderedDict[str, _Lane] = OrderedDict()
        self._suspects = asyncio.Lock()
        self.totals = Totals()

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for lane in self._lanes:
            lane.pool.close()

    @property
    def limit(self) -> int:
        """So many requests may be in flight now, over all replicas; at least one, which then tells that none is left.

        What a slow replica has beyond its own limit, since that sank, is not taken from what the others may have.
        """
        return max(1, sum(max(lane.limit, lane.in_flight) for lane in self._lanes if not lane.gone))

    @property
    def loads(self) -> list[Load]:
        """The last known state of each replica that tells one."""
        return [lane.throttle.load for lane in self._lanes if lane.throttle and lane.throttle.load]

    async def look(self) -> None:
        """Read the servers' metrics, by which `limit` is steered."""
        await asyncio.gather(*(lane.look() for lane in self._lanes))

    async def chat(self, request: Request) -> Reply:
        """The reply, which has `error` set where the request itself is at fault or was given up.

        Raises ServerError only if there is no server any more, UserError if the kind of server cannot serve it.
        """
        try:
            body = request.encode(self._lanes[0].replica.model, self._lanes[0].replica.vllm)
        except ValueError as error:
            return Reply(error=str(error))
        losses = busy = 0
        deaths: set[tuple[int, int]] = set()  # the processes that it was lost with
        while True:
            lane = self._lane(request.id)
            # One that was in flight at two deaths of a server is tried alone among its kind, and the next one when the
            # server is back: so the request that kills servers is told from those that only stood beside it.
            async with self._suspects if losses >= LOSSES - 1 else contextlib.nullcontext():
                generation = lane.replica.generation
                try:
                    response = await self._send(lane, body)
                except Unreachable:  # sent to nobody: no fault of this request
                    await self._revive(lane, generation)
                    await asyncio.sleep(0.05)
                    continue
                except (Lost, TimeoutError) as error:
                    process = (id(lane), generation)
                    if isinstance(error, Lost) and process in deaths and busy < self._settings.retries:
                        busy += 1  # a dying process still accepted it: that is one death, not two
                        await asyncio.sleep(0.05 * 2**busy)
                    else:
                        losses += 1
                    deaths.add(process)
                    await self._revive(lane, generation)
                    if losses >= LOSSES:
                        limit = self._settings.request_timeout_s
                        what = f"no reply in {limit:.0f} s" if isinstance(error, TimeoutError) else "the server died"
                        return Reply(error=f"{what} at each of {losses} tries")
                    continue
            if response.status == 429 or response.status >= 500:
                busy += 1
                if busy > self._settings.retries:
                    return Reply(error=f"HTTP {response.status} at each of {busy} tries: {_message(response)}")
                await asyncio.sleep(random.uniform(0.5, 1.0) * min(0.25 * 2**busy, 15.0))
                if response.status >= 500:
                    await self._revive(lane, generation)
                continue
            if response.status != 200:
                return Reply(error=f"HTTP {response.status}: {_message(response)}")
            try:
                reply = Reply.from_body(json.loads(response.body.decode()))
            except (ValueError, LookupError, TypeError) as error:
                busy += 1
                if busy > self._settings.retries:
                    return Reply(error=f"the server's reply is not a completion ({type(error).__name__})")
                continue
            lane.replica.replied()
            self.totals.add(reply)
            return reply

    def _lane(self, sample: str) -> _Lane:
        """The replica of a sample: a new one's is the least busy. Raises ServerError if none is left."""
        home = self._homes.get(sample)
        if home is None or home.gone:
            living = [lane for lane in self._lanes if not lane.gone]
            if not living:
                raise self._lanes[0].gone or ServerError("there is no server")
            home = min(living, key=lambda lane: lane.in_flight / lane.limit)
            self._homes[sample] = home
            if len(self._homes) > KNOWN:
                self._homes.popitem(last=False)
        return home

    async def _revive(self, lane: _Lane, generation: int) -> None:
        """A replica that cannot be had again is left to the others, while there are any."""
        with contextlib.suppress(ServerError):
            await lane.revive(generation)

    async def _send(self, lane: _Lane, body: bytes) -> Response:
        lane.in_flight += 1
        try:
            async with lane.window:
                return await lane.pool.post("/v1/chat/completions", body)
        finally:
            lane.in_flight -= 1


def _message(response: Response) -> str:
    try:
        return str(json.loads(response.body)["error"]["message"])[:300]
    except (ValueError, LookupError, TypeError):
        return "no message"
