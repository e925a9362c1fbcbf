"""A request and its reply, and their form on the wire (OpenAI's chat completions, with vLLM's additions)."""

import base64
from dataclasses import dataclass, field
from typing import Any

MODEL_NAME = "model"
"""The name under which every server of ours serves its model."""


@dataclass(frozen=True)
class Request:
    """One conversation to continue. Each `<image>` in a text stands for the next of `images`.

    Images without a placeholder come before the first user text.
    """

    id: str
    messages: tuple[tuple[str, str], ...]  # (role, text), roles system, user, assistant
    images: tuple[bytes, ...] = ()  # JPEG
    max_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    n: int = 1
    schema: dict[str, Any] | None = None  # at most one of schema, choice, regex
    choice: list[str] | None = None
    regex: str | None = None
    logprobs: int | None = None  # k >= 0: log-probabilities of the chosen tokens, and the k best of the first
    seed: int | None = None
    logit_bias: dict[int, float] | None = None
    return_token_ids: bool = False

    def body(self) -> dict[str, Any]:
        """The JSON body of POST /v1/chat/completions."""
        body: dict[str, Any] = {
            "model": MODEL_NAME,
            "messages": _messages(self.messages, self.images),
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "n": self.n,
        }
        if self.seed is not None:
            body["seed"] = self.seed
        if self.logprobs is not None:
            body |= {"logprobs": True, "top_logprobs": self.logprobs}
        if self.logit_bias:
            body["logit_bias"] = {str(token): bias for token, bias in self.logit_bias.items()}
        if self.return_token_ids:
            body["return_token_ids"] = True
        form = {"json": self.schema, "choice": self.choice, "regex": self.regex}
        if any(value is not None for value in form.values()):
            body["structured_outputs"] = {key: value for key, value in form.items() if value is not None}
        return body


@dataclass(frozen=True)
class Reply:
    """What came back: one text for each of the request's n, or `error` and no text."""

    texts: list[str] = field(default_factory=list)
    finish: list[str] = field(default_factory=list)  # stop or length
    prompt_tokens: int = 0
    completion_tokens: int = 0
    token_ids: list[list[int]] | None = None
    prompt_token_ids: list[int] | None = None
    logprobs: list[list[float]] | None = None  # of the chosen tokens, one list a text
    top_logprobs: list[dict[str, float]] | None = None  # the best first tokens of each text
    error: str | None = None

    @property
    def text(self) -> str:
        """The first text; empty where there is none."""
        return self.texts[0] if self.texts else ""

    @staticmethod
    def from_body(body: dict[str, Any]) -> "Reply":
        """Raises KeyError, TypeError or IndexError if the body is not a chat completion."""
        choices = sorted(body["choices"], key=lambda choice: choice["index"])
        usage = body["usage"]
        tokens = [(c.get("logprobs") or {}).get("content") or [] for c in choices]
        scored = any(tokens)
        return Reply(
            texts=[c["message"]["content"] or "" for c in choices],
            finish=[c["finish_reason"] for c in choices],
            prompt_tokens=usage["prompt_tokens"],
            completion_tokens=usage["completion_tokens"],
            token_ids=[c["token_ids"] for c in choices] if choices[0].get("token_ids") is not None else None,
            prompt_token_ids=body.get("prompt_token_ids"),
            logprobs=[[t["logprob"] for t in row] for row in tokens] if scored else None,
            top_logprobs=[_top(row) for row in tokens] if scored else None,
        )


def _top(row: list[dict[str, Any]]) -> dict[str, float]:
    return {best["token"]: best["logprob"] for best in row[0].get("top_logprobs", [])} if row else {}


def _messages(messages: tuple[tuple[str, str], ...], images: tuple[bytes, ...]) -> list[dict[str, Any]]:
    placed = sum(text.count("<image>") for _, text in messages)
    if placed > len(images):
        raise ValueError(f"the conversation has {placed} <image> and the request {len(images)} images")
    left = [_image(data) for data in images]
    loose, left = left[: len(left) - placed], left[len(left) - placed :]
    rows = []
    for role, text in messages:
        parts: list[dict[str, Any]] = []
        if role == "user" and loose:
            parts, loose = loose, []
        for number, piece in enumerate(text.split("<image>")):
            if number:
                parts.append(left.pop(0))
            if piece:
                parts.append({"type": "text", "text": piece})
        plain = len(parts) == 1 and parts[0]["type"] == "text"
        rows.append({"role": role, "content": parts[0]["text"] if plain else parts})
    return rows


def _image(data: bytes) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64," + base64.b64encode(data).decode()}}
