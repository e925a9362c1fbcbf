"""Settings that contradict each other, in one table. A recipe that holds such a pair is refused when it is planned.

Each settings model refuses by itself what its own keys cannot mean together (`deepspeed.epochs` beside `steps`). This table
holds what is well formed and would still run to no purpose: a rate that never rises, a reply that leaves no room for its
prompt, a key that nothing reads.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from diagcot.cot.settings import CollectSettings, FilterSettings
from diagcot.evaluation.settings import EvaluateSettings, GreenSettings, JudgeSettings
from diagcot.jobs.settings import Loc, Settings
from diagcot.serving.settings import ServerSettings
from diagcot.training.config.grpo_settings import GrpoSettings
from diagcot.training.config.reward_settings import ServedModelSettings
from diagcot.training.config.settings import AlignSettings, DeepSpeedSettings, SftSettings


@dataclass(frozen=True)
class Contradiction:
    """Two keys of a settings model whose values exclude each other. `key` is the one that the message points at."""

    model: type[Settings]
    key: str
    found: Callable[[Any], bool]
    said: Callable[[Any], str]


def _no_room(tokens: int, server: ServerSettings) -> bool:
    return tokens >= server.max_model_len


def _no_room_said(key: str, tokens: int, server: ServerSettings) -> str:
    return f"{key} {tokens} leaves no room for a prompt: max_model_len of its server is {server.max_model_len}"


def _given(settings: Settings, key: str) -> bool:
    return key in settings.model_fields_set


def _longest(settings: EvaluateSettings) -> int:
    return max(settings.tokens(task) for task in settings.tasks)


def _score_timeout(settings: GrpoSettings) -> float:
    return max(reward.score_timeout_s for reward in settings.reward_table.values())


def _unasked(settings: EvaluateSettings) -> list[str]:
    return sorted(set(settings.max_tokens) - set(settings.tasks))


TABLE = (
    Contradiction(
        DeepSpeedSettings,
        "warmup_steps",
        lambda s: s.steps is not None and s.warmup_steps >= s.steps,
        lambda s: (
            f"warmup_steps {s.warmup_steps} is not below steps {s.steps}: the learning rate would never reach its value"
        ),
    ),
    Contradiction(
        SftSettings,
        "validate_every",
        lambda s: s.validate_every is not None and not s.validation,
        lambda s: f"validate_every {s.validate_every} with validation 0 has nothing to validate on",
    ),
    Contradiction(
        SftSettings,
        "samples_weight",
        lambda s: not s.samples_weight and not any(s.tasks.values()),
        lambda s: "samples_weight 0 and no task with a weight above 0 leave nothing to train on",
    ),
    Contradiction(
        AlignSettings,
        "validate_every",
        lambda s: _given(s, "validate_every") and s.validate_every is not None and not s.validation,
        lambda s: f"validate_every {s.validate_every} with validation 0 has nothing to validate on",
    ),
    Contradiction(
        GrpoSettings,
        "warn_gap",
        lambda s: s.warn_gap > s.max_gap,
        lambda s: f"warn_gap {s.warn_gap:g} is above max_gap {s.max_gap:g}: the stage would end before it warns",
    ),
    Contradiction(
        GrpoSettings,
        "augment",
        lambda s: s.augment > 0 and s.task != "grounding",
        lambda s: f"augment changes grounding prompts with boxes, but the task is {s.task}",
    ),
    Contradiction(
        GrpoSettings,
        "carry_gate",
        lambda s: s.carry_gate and not any(r.name in ("closed", "open") for r in s.reward_table.values()),
        lambda s: "carry_gate takes over the gate of the rewards closed and open, and the stage has neither",
    ),
    Contradiction(
        GrpoSettings,
        "validation",
        lambda s: s.validation.every is not None and not s.validation.prompts,
        lambda s: f"validation.every {s.validation.every} needs validation.prompts, which is 0",
    ),
    Contradiction(
        GrpoSettings,
        "step_timeout_s",
        lambda s: _score_timeout(s) >= s.step_timeout_s,
        lambda s: (
            f"step_timeout_s {s.step_timeout_s:g} is not above score_timeout_s {_score_timeout(s):g} of its rewards: one"
            " rollout on which a reward loops would end the stage"
        ),
    ),
    Contradiction(
        ServedModelSettings,
        "max_tokens",
        lambda s: _no_room(s.max_tokens, s.server),
        lambda s: _no_room_said("max_tokens", s.max_tokens, s.server),
    ),
    Contradiction(
        CollectSettings,
        "search",
        lambda s: _no_room(s.search.max_tokens, s.server),
        lambda s: _no_room_said("search.max_tokens", s.search.max_tokens, s.server),
    ),
    Contradiction(
        CollectSettings,
        "search",
        lambda s: _no_room(s.search.verdict_tokens, s.verifier or s.server),
        lambda s: _no_room_said("search.verdict_tokens", s.search.verdict_tokens, s.verifier or s.server),
    ),
    Contradiction(
        FilterSettings,
        "max_tokens",
        lambda s: s.judge and _no_room(s.max_tokens, s.server),
        lambda s: _no_room_said("max_tokens", s.max_tokens, s.server),
    ),
    Contradiction(
        FilterSettings,
        "min_words",
        lambda s: s.min_words > s.max_words,
        lambda s: f"min_words {s.min_words} is above max_words {s.max_words}: no trace would be kept",
    ),
    Contradiction(
        EvaluateSettings,
        "max_tokens",
        lambda s: _no_room(_longest(s), s.server),
        lambda s: _no_room_said("max_tokens", _longest(s), s.server),
    ),
    Contradiction(
        EvaluateSettings,
        "max_tokens",
        lambda s: bool(_unasked(s)),
        lambda s: f"max_tokens names {', '.join(_unasked(s))}, which tasks does not",
    ),
    Contradiction(
        JudgeSettings,
        "max_tokens",
        lambda s: _no_room(s.max_tokens, s.server),
        lambda s: _no_room_said("max_tokens", s.max_tokens, s.server),
    ),
    Contradiction(
        GreenSettings,
        "max_tokens",
        lambda s: _no_room(s.max_tokens, s.server),
        lambda s: _no_room_said("max_tokens", s.max_tokens, s.server),
    ),
    Contradiction(
        ServerSettings,
        "endpoint",
        lambda s: s.endpoint is not None and s.pipeline_parallel > 1,
        lambda s: f"endpoint is a server that runs already, so pipeline_parallel {s.pipeline_parallel} has no effect",
    ),
)


def found(settings: Settings, at: Loc = ()) -> Iterator[tuple[Loc, str]]:
    """(place of the key, what is wrong) of each contradiction in settings and in the settings inside them."""
    for place, part in parts(settings, at):
        for row in TABLE:
            if isinstance(part, row.model) and row.found(part):
                yield (*place, row.key), row.said(part)


def parts(settings: Settings, at: Loc = ()) -> Iterator[tuple[Loc, Settings]]:
    """Settings and those inside them, each with its place."""
    yield at, settings
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, Settings):
            yield from parts(value, (*at, name))
