"""The released way of collecting (method.md 4.1), written from its description.

Five threads; each takes a sample through its whole search, one blocking call after the other, the text before the image,
which is encoded again for every call; at the end of a sample a file of its own, with all queries in it.
"""

import base64
import itertools
import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from diagcot.serving import Request
from diagcot.serving.request import MODEL_NAME

THREADS = 5


class Done(NamedTuple):
    """The requests that were answered."""

    requests: Sequence[Request]

    @property
    def calls(self) -> int:
        """Their number."""
        return len(self.requests)

    @property
    def tokens(self) -> int:
        """Most that the model may have said in them."""
        return sum(request.max_tokens for request in self.requests)

    @property
    def bytes(self) -> int:
        """Size of their words."""
        return sum(
            len(text.replace("<image>", "").encode()) for request in self.requests for _, text in request.messages
        )


def parts(request: Request, image_first: bool = False) -> list[dict[str, Any]]:
    """The same words of the user as ours, and the image."""
    (image,) = request.images
    url = "data:image/jpeg;base64," + base64.b64encode(image).decode()
    words: list[dict[str, Any]] = [{"type": "text", "text": request.messages[-1][1].replace("<image>", "")}]
    shown: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}}]
    return shown + words if image_first else words + shown


def body(request: Request) -> dict[str, Any]:
    """The body of a request as the released client writes it."""
    messages: list[dict[str, Any]] = [{"role": role, "content": text} for role, text in request.messages[:-1]]
    messages.append({"role": "user", "content": parts(request)})
    return {"model": MODEL_NAME, "messages": messages, "max_tokens": request.max_tokens}


def collect(socket: Path, samples: Sequence[Sequence[Request]], out: Path, seconds: float = float("inf")) -> Done:
    """Ask everything about all samples, or as much as can be asked in `seconds`."""
    out.mkdir(parents=True)
    numbers, end = itertools.count(), time.monotonic() + seconds
    answered: list[Request] = []
    failures: list[BaseException] = []

    def work() -> None:
        transport = httpx.HTTPTransport(uds=str(socket))
        with httpx.Client(transport=transport, base_url="http://server", timeout=600) as client:
            while (number := next(numbers)) < len(samples) and not failures:
                queries = []
                for request in samples[number]:
                    if time.monotonic() > end:
                        return
                    query = body(request)
                    reply = client.post("/v1/chat/completions", json=query).raise_for_status().json()
                    queries.append({"query": query, "response": reply["choices"][0]["message"]["content"]})
                    answered.append(request)
                (out / f"{number}.json").write_text(json.dumps(queries))

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return Done(answered)
