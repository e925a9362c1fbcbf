"""Replies in the place of the model's, so that every sample takes the same path whoever asks about it.

The model still generates each reply, as long as the request allows; its text, of random weights, is thrown away.
"""

import contextlib
import json
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from diagcot.serving import Client, Reply, Request

REJECTED = (0, 0, 1, 2, None)
"""How many conclusions of a sample the verifier refuses before it accepts one (None: all), for a fifth of the samples each:
3, 3, 5, 7 and 16 calls, 6.8 on average."""
SAID = {
    "title": "Heart and mediastinum",
    "content": "The heart is of normal size, its borders are sharp, and the mediastinum is not widened.",
    "conclusion": "The lungs are clear, the heart is of normal size, and there is no pleural effusion.",
    "check": "Both lungs, the pleura, the heart and the bones were looked at, and nothing was left out.",
    "reason": "The side of the effusion is not the one that is seen in the image.",
    "findings": "The heart is of normal size. The lungs are clear. There is no pleural effusion.",
    "impression": "No acute cardiopulmonary process.",
}
TOLD = "i begin with the heart, which is of normal size.\nthe lungs are clear.\ni see no fluid and no free air."
STEPS = 3  # of a thinking


class Canned:
    """What a run asked, and the replies."""

    def __init__(self, send: bool = True, keep: bool = False, refused: Sequence[int | None] = REJECTED) -> None:
        self.send, self.keep, self.refused = send, keep, refused
        self.calls = 0  # that were answered
        self.samples = 0  # that were begun
        self.marks: dict[int, tuple[float, int]] = {}  # number of a sample: when it began, and calls until then
        self.asked: dict[str, list[Request]] = {}  # by sample, if `keep`
        self._verdicts: Counter[str] = Counter()
        self._told: Counter[str] = Counter()

    def watch(self, first: int, last: int) -> None:
        """For `steady`: the rate from the beginning of sample number `first` to that of `last`, without ramp-up and tail."""
        self.marks = {first: (0.0, 0), last: (0.0, 0)}

    @property
    def steady(self) -> float:
        """Calls a second between the two samples."""
        (began, before), (ended, after) = self.marks.values()
        return (after - before) / (ended - began)

    def text(self, request: Request) -> str:
        """What the model is taken to have said."""
        self._told[request.id] += 1
        if request.schema is None:
            return f"{TOLD} {request.id}"
        return json.dumps(self._value(request.schema, request.id))

    def _value(self, schema: dict[str, Any], sample: str, key: str = "") -> Any:
        if schema["type"] == "object":
            return {name: self._value(part, sample, name) for name, part in schema["properties"].items()}
        if schema["type"] == "array":
            return [self._value(schema["items"], sample)] * min(STEPS, schema["maxItems"])
        if schema["type"] == "boolean":
            refused = self._verdicts[sample]
            self._verdicts[sample] += 1
            most = self.refused[zlib.crc32(sample.encode()) % len(self.refused)]
            return most is not None and refused >= most
        # Two conclusions of a sample are never the same, nor are those of two samples: the caches shall not gain by it.
        return f"({zlib.crc32(sample.encode()):08x}.{self._told[sample]}) {SAID[key]}"

    @contextlib.contextmanager
    def in_place(self) -> Iterator["Canned"]:
        """Every client of this process gets these replies, after the server's (`send`) or in their place."""
        chat = Client.chat

        async def canned(client: Client, request: Request) -> Reply:
            if request.id not in self._told:
                self.samples += 1
                if self.samples in self.marks:
                    self.marks[self.samples] = (time.monotonic(), self.calls)
            if self.keep:
                self.asked.setdefault(request.id, []).append(request)
            reply = await chat(client, replace(request, schema=None)) if self.send else Reply()
            self.calls += 1
            return reply if reply.error else replace(reply, texts=[self.text(request)], finish_reasons=["stop"])

        Client.chat = canned  # type: ignore[method-assign, assignment]
        try:
            yield self
        finally:
            Client.chat = chat  # type: ignore[method-assign]
