"""A model server that answers and fails by script: `python -m tests.fakes.model_server MODEL --uds PATH` (or `--port N`).

The environment variable DIAGCOT_FAKE_SCRIPT names a JSON file:
    name            model name it answers for (default: model)
    ready_s         seconds until it listens;  die_at_start: true ends it at once with an error line
    delay_s         seconds for each reply, or a distribution of them: {"uniform": [low, high]}, {"exponential": mean},
                    {"lognormal": [median, sigma]}
    slots           requests answered at the same time, the others wait in order;  queue: how many may wait, the next
                    gets 429 (default of both: no limit)
    kv_tokens       tokens that the cache of keys and values holds, and the prefix cache with it (default 1,000,000)
    die_after, hang_after
                    requests answered by the first process before it dies, or answers nothing any more, /health
                    included (later processes live on)
    engine_dies_after
                    requests answered by the first process before its engine dies: no request is answered any more,
                    /health is 503, all other paths answer as before
    finish          {"text": [reason, ...]}: the first replies to requests that hold the text end for these reasons, in half
                    of their words; of several texts of a reply the last one does
    die_on, hang_on, cut_on, garble_on
                    a text; a request that holds it kills the server, is never answered, gets half a body, gets no JSON
    refuse          {"text": [status, ...]}: requests that hold the text get these statuses in turn, then an answer
    verdict         what a boolean of a JSON reply is (default true), an integer is its highest or lowest; a number is the
                    share of those that are true
    scores          what all integers of a JSON reply are, for each of the request's n in turn
    text            what a reply without a schema is;  texts: what each of the request's n is drawn from
    replies         {"text": reply}: what a request whose first prompt holds the text is answered with
    usage           [tokens of the prompt, tokens of the reply] that are told, in place of counts of what was sent
    models          {"folder": script}: what is different for the model of that folder
A reply is a function of the request's bytes, its delay too: whoever asks the same again gets the same.
    exchanges       true: it can exchange its weights; if not, it is restarted for others
    refuse_calls    {"path": [status, message]}: what calls of vLLM's control routes are answered with
    log_requests    true: requests are written down among the calls of control routes, with their seeds as bodies
Between /pause and /resume no request is answered. A request that asks for token ids and log-probabilities gets four of each.
It appends one line to <script>.log for each process ("start") and request (its prompt's first words), and one to
<script>.calls for each call of a control route: the time, its path with the query, its body.
/metrics speaks vLLM's names; /stats tells how many requests were answered, run, and ran at once at most.
"""

import asyncio
import hashlib
import json
import math
import os
import re
import statistics
import sys
import time
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import uvloop

BLOCK_CHARS = 64  # of text in a block of the prefix cache: 16 tokens of 4 characters
IMAGE_TOKENS = 256
NEVER = 10**9
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
CUT = -1  # in place of a status: half of the body is sent, then the connection is closed


def draw(digest: bytes, name: str) -> float:
    """A number from 0 to 1 that depends on a request and on what it is for."""
    return int.from_bytes(hashlib.blake2b(name.encode(), key=digest, digest_size=8).digest(), "big") / 2**64


def delay(told: float | dict[str, Any], digest: bytes) -> float:
    """Seconds until a request is answered; see `delay_s` above."""
    if not isinstance(told, dict):
        return told
    ((kind, values),) = told.items()
    at = min(max(draw(digest, "delay"), 1e-9), 1 - 1e-9)
    if kind == "uniform":
        return float(values[0] + (values[1] - values[0]) * at)
    if kind == "exponential":
        return float(-values * math.log(1 - at))
    if kind == "lognormal":
        return float(values[0] * math.exp(values[1] * statistics.NormalDist().inv_cdf(at)))
    raise ValueError(f"delay_s: {kind} is no distribution")


def prompt_of(body: dict[str, Any], turn: int = -1) -> str:
    """The text of a turn of the user: the last one, or the first (`turn` 0)."""
    content = [message for message in body["messages"] if message["role"] == "user"][turn]["content"]
    return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)


class PrefixCache:
    """Which blocks of 16 tokens were computed before, least recently used ones dropped; as vLLM counts queries and hits."""

    def __init__(self, tokens: int) -> None:
        self.room = max(1, tokens // 16)
        self.blocks: OrderedDict[int, None] = OrderedDict()

    def ask(self, messages: list[dict[str, Any]]) -> tuple[int, int]:
        """(tokens of the prompt, tokens of it that need not be computed)."""
        tokens = hits = 0
        head, known = 0, True
        for message in messages:
            content = message["content"]
            parts: list[Any] = [{"text": content}] if isinstance(content, str) else content
            for part in parts:
                if "image_url" in part:
                    size, pieces = IMAGE_TOKENS, [part["image_url"]["url"]]
                else:
                    text = part["text"]
                    size, pieces = 16, [text[at : at + BLOCK_CHARS] for at in range(0, len(text), BLOCK_CHARS)]
                for piece in pieces:
                    head = hash((head, piece))
                    known = known and head in self.blocks
                    tokens, hits = tokens + size, hits + size * known
                    self.blocks[head] = None
                    self.blocks.move_to_end(head)
        while len(self.blocks) > self.room:
            self.blocks.popitem(last=False)
        return tokens, hits


class Model:
    """What answers, what runs and waits, and what was counted."""

    def __init__(self, script: dict[str, Any], log: Path) -> None:
        first = not (log.exists() and "start" in log.read_text().splitlines())
        self.script = script
        self.log = log.open("a", buffering=1)
        self.calls = log.with_suffix(".calls")
        self.die_after, self.hang_after, self.engine_dies_after = (
            script.get(name, NEVER) if first else NEVER for name in ("die_after", "hang_after", "engine_dies_after")
        )
        self.finish = {text: list(reasons) for text, reasons in script.get("finish", {}).items()}
        self.refusals = {text: list(statuses) for text, statuses in script.get("refuse", {}).items()}
        self.kv_tokens = script.get("kv_tokens", 1_000_000)
        self.cache = PrefixCache(self.kv_tokens)
        self.slots = asyncio.Semaphore(script.get("slots", NEVER))
        self.going = asyncio.Event()
        self.going.set()
        self.counts: Counter[str] = Counter()
        self.answered = self.running = self.most = self.waiting = self.held = 0

    def note(self, line: str) -> None:
        self.log.write(line + "\n")

    async def answer(self, path: str, raw: bytes) -> tuple[int, Any]:
        """(status, JSON or bytes) of a request."""
        if self.answered >= self.hang_after:
            await asyncio.sleep(3600)
        if path == "/v1/models":
            return self.script.get("models_status", 200), {"data": [{"id": self.script.get("name", "model")}]}
        if path == "/stats":
            return 200, {"answered": self.answered, "running": self.running, "most": self.most}
        if path == "/metrics":
            return 200, self.metrics().encode()
        dead = self.answered >= self.engine_dies_after
        if path == "/health":
            return (503 if dead else 200), {}
        if path != "/v1/chat/completions":
            return self.control(path, raw)
        body = json.loads(raw)
        prompt = prompt_of(body)
        self.note(prompt[:40].replace("\n", " "))
        if self.script.get("log_requests"):
            self.called(path, str(body.get("seed")))
        if self.script.get("die_on", "\0") in prompt or self.answered >= self.die_after:
            os._exit(1)
        if dead:
            await asyncio.sleep(3600)
        if self.slots.locked() and self.waiting >= self.script.get("queue", NEVER):
            return 429, {"error": {"message": "the queue is full"}}
        self.waiting += 1
        try:
            await self.slots.acquire()
        finally:
            self.waiting -= 1
        try:
            return await self.run(body, prompt, hashlib.sha256(raw).digest())  # the quickest for a film of 50 KB
        finally:
            self.slots.release()

    def control(self, path: str, raw: bytes) -> tuple[int, Any]:
        """A call of one of vLLM's control routes: it is written down and, where the script does not refuse it, done."""
        self.called(path, raw.decode())
        if path.startswith("/pause"):
            self.going.clear()
        elif path == "/resume":
            self.going.set()
        status, message = self.script.get("refuse_calls", {}).get(path.split("?")[0], (200, ""))
        checksums: dict[str, Any] = {"checksums": {}} if self.script.get("exchanges") else {}
        return status, checksums if status == 200 else {"error": message}

    def called(self, path: str, body: str) -> None:
        with self.calls.open("a") as out:
            out.write(f"{time.time():.4f} {path} {body}\n")

    async def run(self, body: dict[str, Any], prompt: str, digest: bytes) -> tuple[int, Any]:
        tokens, hits = self.cache.ask(body["messages"])
        self.counts["prefix_cache_queries"] += tokens
        self.counts["prefix_cache_hits"] += hits
        self.running += 1
        self.held += tokens
        self.most = max(self.most, self.running)
        try:
            if self.script.get("hang_on", "\0") in prompt:
                await asyncio.sleep(3600)
            await asyncio.sleep(delay(self.script.get("delay_s", 0), digest))
            await self.going.wait()
        finally:
            self.running -= 1
            self.held -= tokens
        for text, statuses in self.refusals.items():
            if text in prompt and statuses:
                return statuses.pop(0), {"error": {"message": "refused by script"}}
        self.answered += 1
        if self.script.get("garble_on", "\0") in prompt:
            return 200, b"<html>"
        reply = self.completion(body, prompt, digest, tokens)
        reply["usage"]["prompt_tokens_details"] = {"cached_tokens": hits}
        self.counts["prompt_tokens"] += tokens
        self.counts["generation_tokens"] += reply["usage"]["completion_tokens"]
        self.counts["request_success"] += 1
        return (CUT if self.script.get("cut_on", "\0") in prompt else 200), reply

    def completion(self, body: dict[str, Any], prompt: str, digest: bytes, tokens: int) -> dict[str, Any]:
        form = body.get("structured_outputs", {})
        first = prompt_of(body, 0)
        told = next((reply for text, reply in self.script.get("replies", {}).items() if text in first), None)
        plain = f"i look at the film and see what is there to be seen {prompt[:8]} {digest.hex()[:4]}"
        if "choice" in form:
            plain = form["choice"][int(draw(digest, "choice") * len(form["choice"]))]
        texts = [
            told
            or (json.dumps(self.instance(form["json"], prompt, digest, turn=turn)) if "json" in form else "")
            or self.script.get("text", self.drawn(digest, turn) or plain)
            for turn in range(body.get("n", 1))
        ]
        choices: list[dict[str, Any]] = [
            {"index": turn, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            for turn, text in enumerate(texts)
        ]
        if body.get("return_token_ids"):
            for choice in choices:
                ids = [int(draw(digest, f"token {choice['index']} {at}") * 200) for at in range(4)]
                scored = [{"logprob": -5.0, "top_logprobs": []} for _ in ids]
                choice |= {"token_ids": ids, "logprobs": {"content": scored}}
        for text, reasons in self.finish.items():
            if text in prompt and reasons:
                content = choices[-1]["message"]["content"]
                choices[-1]["message"]["content"] = content[: len(content) // 2]
                choices[-1]["finish_reason"] = reasons.pop(0)
        counted = (tokens, sum(len(text) // 4 + 1 for text in texts))
        usage = dict(zip(("prompt_tokens", "completion_tokens"), self.script.get("usage", counted), strict=True))
        return {"choices": choices, "usage": usage}

    def drawn(self, digest: bytes, turn: int) -> str:
        """One of the script's texts; empty without any."""
        texts = self.script.get("texts", [""])
        return str(texts[int(draw(digest, f"text {turn}") * len(texts))])

    def instance(self, schema: dict[str, Any], prompt: str, digest: bytes, key: str = "", turn: int = 0) -> Any:
        """The smallest value that a schema allows, with the reference's own sections where a report is asked for."""
        if schema["type"] == "object":
            return {
                name: self.instance(part, prompt, digest, name, turn) for name, part in schema["properties"].items()
            }
        if schema["type"] == "array":
            return [self.instance(schema["items"], prompt, digest, turn=turn)] * schema.get("minItems", 0)
        if schema["type"] == "boolean":
            return self.verdict(digest, key)
        if schema["type"] == "integer":
            scores = self.script.get("scores") or [(max if self.verdict(digest, key) else min)(schema["enum"])]
            return scores[turn % len(scores)]
        report = key in ("findings", "impression")
        found = re.search(rf"{key.capitalize()}: (.*?)(?= Impression: |\n)", prompt) if report else None
        told = found.group(1) if found else f"something is seen in the film {digest.hex()[:4]}"
        return told[: schema.get("maxLength", NEVER)]

    def verdict(self, digest: bytes, key: str) -> bool:
        verdict = self.script.get("verdict", True)
        return verdict if isinstance(verdict, bool) else draw(digest, key) < verdict

    def metrics(self) -> str:
        """What vLLM 0.32 tells under these names."""
        gauges = {
            "num_requests_running": self.running,
            "num_requests_waiting": self.waiting,
            "kv_cache_usage_perc": min(1.0, self.held / self.kv_tokens),
        }
        names = ("prefix_cache_queries", "prefix_cache_hits", "prompt_tokens", "generation_tokens", "request_success")
        totals = {f"{name}_total": self.counts[name] for name in names}
        labels = f'{{engine="0",model_name="{self.script.get("name", "model")}"}}'
        return "".join(f"vllm:{name}{labels} {float(value)}\n" for name, value in (gauges | totals).items())


class Connection(asyncio.Protocol):
    """One client's connection: requests one after the other, each answered before the next is read."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.buffer = bytearray()
        self.head, self.need = 0, 0  # bytes of the request's head, and of all of it; 0: not known yet
        self.task: asyncio.Task[None] | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        if self.task:
            self.task.cancel()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if not self.task:
            self.read()

    def read(self) -> None:
        if not self.need:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            length = LENGTH.search(self.buffer, 0, end)
            self.head = end + 4
            self.need = self.head + (int(length[1]) if length else 0)
        if len(self.buffer) < self.need:
            return
        path = self.buffer[: self.buffer.find(b"\r\n")].split()[1].decode()
        with memoryview(self.buffer) as whole:
            raw = bytes(whole[self.head : self.need])
        del self.buffer[: self.need]
        self.need = 0
        self.task = asyncio.get_running_loop().create_task(self.reply(path, raw))

    async def reply(self, path: str, raw: bytes) -> None:
        status, payload = await self.model.answer(path, raw)
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        cut = status == CUT
        head = f"HTTP/1.1 {200 if cut else status} X\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        self.transport.write(head.encode() + (data[: len(data) // 2] if cut else data))
        self.task = None
        if cut:
            self.transport.close()
        elif self.buffer:
            self.read()


async def main(script: dict[str, Any], log: Path, arguments: list[str]) -> None:
    model = Model(script, log)
    model.note("start")
    if script.get("die_at_start"):
        sys.exit("ValueError: the script says so")
    time.sleep(script.get("ready_s", 0))
    loop, owner = asyncio.get_running_loop(), os.getppid()

    def value(name: str) -> str:
        return arguments[arguments.index(name) + 1]

    if "--port" in arguments:
        server = await loop.create_server(lambda: Connection(model), "127.0.0.1", int(value("--port")))
    else:
        server = await loop.create_unix_server(lambda: Connection(model), value("--uds"), backlog=1024)
    async with server:
        while os.getppid() == owner:  # as the real one, it ends when its owner was killed
            await asyncio.sleep(0.2)


if __name__ == "__main__":
    path = Path(os.environ["DIAGCOT_FAKE_SCRIPT"])
    script = json.loads(path.read_text())
    script |= script.get("models", {}).get(Path(sys.argv[1]).parent.name, {})
    uvloop.run(main(script, path.with_suffix(".log"), sys.argv[1:]))
