"""A request and its reply, and their JSON form: OpenAI's chat completions with vLLM's additions.

The additions are fields of vLLM 0.32's `ChatCompletionRequest` (vllm/entrypoints/openai/chat_completion/protocol.py).
"""

import base64
import json
import re
import secrets
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from diagcot.jobs import UserError

MODEL_NAME = "model"
"""Name under which every server that we start serves its model."""

WHOLE = ("stop", "length")
"""Finish reasons of texts that the model has ended, or that reached max_tokens."""
PASSING = ("abort", "error", "None")
"""Finish reasons of a server that is ending or has failed; the same request may succeed at the next try."""
NEUTRAL = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
"""vLLM's sampling parameters that a model folder's generation_config.json may set, without effect."""

_TOKEN = secrets.token_hex(8)
_PLACEHOLDER = re.compile(f"{_TOKEN}-(\\d+)-".encode())
"""Stands for image number N in the JSON of a request until the bytes are joined."""


class EncodedImage(bytes):
    """A JPEG that is sent with several requests; its base64 text is computed once."""

    @cached_property
    def base64(self) -> bytes:
        """The base64 text of the image."""
        return base64.b64encode(self)


@dataclass(frozen=True)
class Request:
    """One conversation to continue. Each `<image>` in a text stands for the next of `images`.

    Images without a placeholder come before the first user text.
    """

    id: str
    messages: tuple[tuple[str, str], ...]  # (role, text), roles system, user, assistant
    images: tuple[bytes, ...] = ()  # JPEG; `EncodedImage` where several requests send the same image
    max_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    n: int = 1
    schema: dict[str, Any] | None = None  # at most one of schema, choice, regex
    choice: list[str] | None = None
    regex: str | None = None
    logprobs: int | None = None  # k >= 0: log-probabilities of the sampled tokens, and of the k best first tokens
    seed: int | None = None
    logit_bias: dict[int, float] | None = None
    return_token_ids: bool = False
    scored_tokens: tuple[int, ...] = ()  # ids of tokens whose log-probabilities as the first token are returned
    priority: int = 0  # below 0: before others, where vLLM runs with `--scheduling-policy priority`

    @property
    def without_images(self) -> "Request":
        """The same for a model that takes no images."""
        return replace(
            self, images=(), messages=tuple((role, text.replace("<image>", "")) for role, text in self.messages)
        )

    def encode(self, model: str = MODEL_NAME, vllm: bool = True, sampling: dict[str, float] | None = None) -> bytes:
        """The JSON body of POST /v1/chat/completions. The images are copied once and not decoded.

        vllm: whether the server supports vLLM's additions to OpenAI's interface. sampling: further sampling parameters, which
        only vLLM is sent. Raises ValueError for an invalid request, UserError for one that needs an addition which the server
        does not support.
        """
        body = self.body(model, vllm) | (sampling or {} if vllm else {})
        pieces = _PLACEHOLDER.split(json.dumps(body).encode())
        pieces[1::2] = [_base64(self.images[int(index)]) for index in pieces[1::2]]
        return b"".join(pieces)

    def body(self, model: str = MODEL_NAME, vllm: bool = True) -> dict[str, Any]:
        """The body before encoding, with a placeholder for the data of each image."""
        body: dict[str, Any] = {
            "model": model,
            "messages": _messages(self.messages, len(self.images)),
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "n": self.n,
        }
        if self.seed is not None:
            body["seed"] = self.seed
        if self.priority:
            body["priority"] = self.priority
        if self.logprobs is not None:
            body |= {"logprobs": True, "top_logprobs": self.logprobs}
        if self.logit_bias:
            body["logit_bias"] = {str(token): bias for token, bias in self.logit_bias.items()}
        if self.return_token_ids:
            body["return_token_ids"] = True
        if self.scored_tokens:
            body |= {
                "logprobs": True,
                "logprob_token_ids": list(self.scored_tokens),
                "return_tokens_as_token_ids": True,
            }
        constraint = {"json": self.schema, "choice": self.choice, "regex": self.regex}
        constraint = {key: value for key, value in constraint.items() if value is not None}
        if vllm and constraint:
            body["structured_outputs"] = constraint
        elif self.schema is not None:
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "reply", "schema": self.schema, "strict": True},
            }
        if not vllm and (self.choice or self.regex or self.return_token_ids or self.scored_tokens):
            raise UserError(
                "this stage needs features that only vLLM's server has (replies by choice or pattern, token ids), but"
                " `endpoint` in its server settings is another kind of server: remove `endpoint`"
            )
        return body


@dataclass(frozen=True)
class Reply:
    """The reply to a request: one text for each of its `n` samples, or `error` and no text."""

    texts: list[str] = field(default_factory=list)
    finish_reasons: list[str] = field(default_factory=list)  # WHOLE
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int | None = None  # prompt tokens found in the prefix cache; None: not reported
    token_ids: list[list[int]] | None = None
    prompt_token_ids: list[int] | None = None
    logprobs: list[list[float]] | None = None  # of the sampled tokens, one list per text
    top_logprobs: list[dict[str, float]] | None = None  # the best first tokens of each text

    error: str | None = None
    refused: bool = False  # the server does not take this request, and would not at another time

    def first_token_logprob(self, token: int) -> float:
        """Log-probability of one of the `scored_tokens` as the first token, in nats. Raises LookupError if it is missing."""
        return (self.top_logprobs or [{}])[0][f"token_id:{token}"]

    @property
    def text(self) -> str:
        """The first text; empty if there is none."""
        return self.texts[0] if self.texts else ""

    def fault(self, n: int) -> str | None:
        """Why this is not a whole reply to a request for `n` samples; None if it is."""
        if len(self.texts) != n:
            return f"it holds {len(self.texts)} of {n} texts"
        ended = next((reason for reason in self.finish_reasons if reason not in WHOLE), None)
        return None if ended is None else f"it ended by {ended}"

    @property
    def may_pass(self) -> bool:
        """True if what `fault` found may be gone at the next try."""
        return all(reason in (*WHOLE, *PASSING) for reason in self.finish_reasons)

    @staticmethod
    def from_body(body: dict[str, Any]) -> "Reply":
        """Parse a response body. Raises KeyError, TypeError or IndexError if it is not a chat completion."""
        choices = sorted(body["choices"], key=lambda choice: choice["index"])
        usage = body["usage"]
        tokens = [(c.get("logprobs") or {}).get("content") or [] for c in choices]
        scored = any(tokens)
        return Reply(
            texts=[_whole(c["message"]["content"] or "") for c in choices],
            finish_reasons=[str(c["finish_reason"]) for c in choices],
            prompt_tokens=usage["prompt_tokens"],
            completion_tokens=usage["completion_tokens"],
            cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens"),
            token_ids=[c["token_ids"] for c in choices] if choices[0].get("token_ids") is not None else None,
            prompt_token_ids=body.get("prompt_token_ids"),
            logprobs=[[t["logprob"] for t in row] for row in tokens] if scored else None,
            top_logprobs=[_first_token_logprobs(row) for row in tokens] if scored else None,
        )


def _whole(text: str) -> str:
    """`text` with a mark for each half of a character, which a server may send and no file can hold."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _first_token_logprobs(row: list[dict[str, Any]]) -> dict[str, float]:
    return {best["token"]: best["logprob"] for best in row[0].get("top_logprobs", [])} if row else {}


def _messages(messages: tuple[tuple[str, str], ...], images: int) -> list[dict[str, Any]]:
    placed = sum(text.count("<image>") for _, text in messages)
    if placed > images:
        raise ValueError(f"the conversation has {placed} <image> placeholders but the request has {images} images")
    placed_indices = iter(range(images - placed, images))
    leading = [_image(index) for index in range(images - placed)]
    rows = []
    for role, text in messages:
        parts: list[dict[str, Any]] = []
        if role == "user" and leading:
            parts, leading = leading, []
        for number, piece in enumerate(text.split("<image>")):
            if number:
                parts.append(_image(next(placed_indices)))
            if piece:
                parts.append({"type": "text", "text": piece})
        text_only = len(parts) == 1 and parts[0]["type"] == "text"
        rows.append({"role": role, "content": parts[0]["text"] if text_only else parts})
    return rows


def _image(index: int) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{_TOKEN}-{index}-"}}


def _base64(image: bytes) -> bytes:
    return image.base64 if isinstance(image, EncodedImage) else base64.b64encode(image)
