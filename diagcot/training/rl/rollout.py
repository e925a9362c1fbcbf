"""A rollout: the requests that are sent to a server, and what comes back."""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from diagcot.serving import Reply, Request
from diagcot.tasks.samples import Sample

_BAN = -100.0  # logit bias that excludes a token


@dataclass(frozen=True)
class Rollout:
    """One sampled answer: `tokens` with its end token, and the server's log-probability of each, in nats."""

    prompt: int  # index of the prompt in the step
    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    cut: bool  # ended by max_tokens
    prompt_tokens: tuple[int, ...]  # as the server saw the prompt
    prompt_length: int  # with image tokens


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn: `n` for each prompt, at most `max_tokens` long."""

    n: int
    max_tokens: int
    temperature: float
    top_p: float = 1.0


def requests_of(
    samples: Sequence[Sample],
    images: Callable[[Sample], tuple[bytes, ...]],
    sampling: Sampling,
    seed: str,
    banned: Iterable[int],
) -> list[Request]:
    """One request for each prompt, named by its position, with its own seed.

    images: the JPEG files of a sample. banned: ids of tokens that must not be drawn.
    """
    return [
        Request(
            id=str(index),
            messages=sample.messages[:-1],
            images=images(sample),
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            n=sampling.n,
            logprobs=0,
            seed=random.Random(f"{seed}/{index}").getrandbits(31),
            logit_bias=dict.fromkeys(banned, _BAN),
            return_token_ids=True,
        )
        for index, sample in enumerate(samples)
    ]


def group_of(index: int, sample: Sample, reply: Reply, n: int) -> list[Rollout]:
    """The `n` rollouts of prompt `index`. Raises RuntimeError that names the sample whose request failed or was refused."""
    if reply.error or len(reply.texts) != n:
        raise RuntimeError(f"rollout of {sample.id} failed: {reply.error or f'{len(reply.texts)} of {n} answers'}")
    assert reply.token_ids is not None and reply.logprobs is not None
    prompt_tokens = tuple(reply.prompt_token_ids or ())
    rollouts = []
    for text, tokens, logprobs, finish in zip(
        reply.texts, reply.token_ids, reply.logprobs, reply.finish_reasons, strict=True
    ):
        if len(tokens) != len(logprobs):
            raise RuntimeError(
                f"the server gave {len(tokens)} tokens of {sample.id} but {len(logprobs)} log-probabilities"
            )
        cut = finish == "length"
        rollouts.append(Rollout(index, text, tuple(tokens), tuple(logprobs), cut, prompt_tokens, reply.prompt_tokens))
    return rollouts
