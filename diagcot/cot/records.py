"""Records that the stages of chains of thought exchange: one trace, and the verdict on it (docs/cot.md, docs/filtration.md)."""

from typing import Any, NamedTuple, TypedDict

DOUBLE = (
    "the shards behind the collect stage hold one image twice. Give the stage `shard` each collection once, and run the stages"
    " after it again"
)
"""What to do about two traces of one id."""


class TraceRecord(TypedDict):
    """A line of a `collect` stage's output: a sample, its chain of thought, and what the search cost."""

    id: str
    task: str
    form: str  # think or interleaved
    study: str
    images: list[dict[str, Any]]  # fields of `ImageRef`
    question: str
    reference: str  # the gold answer
    guide: str  # the reference report
    prompts: str  # name@digest of the prompt set
    meta: dict[str, Any]
    steps: list[list[str]]  # (title, content)
    conclusion: str
    check: str
    verified: bool
    forced: bool
    reasoning: str
    answer: str
    pairs: list[list[str]]  # (thought, answer) of an interleaved trace
    error: str | None
    verdicts: list[dict[str, Any]]  # step, verdict, reason
    failed: list[dict[str, Any]]
    calls: int
    by: str
    prompt_tokens: int
    completion_tokens: int


class Fault(NamedTuple):
    """A rule that a trace breaks, and the detail."""

    rule: str
    detail: str


class JudgementRecord(TypedDict):
    """One judgement of a trace, as the filter writes it."""

    keep: bool
    scores: dict[str, int]  # criterion -> 1 to 5
    reasons: dict[str, str]
    held: tuple[str, ...]  # criteria that the trace passed
    error: str | None


class VerdictRecord(TypedDict):
    """A line of a `filter` stage's verdicts."""

    id: str
    kept: bool
    rule: str | None  # the rule that dropped the trace
    detail: str
    judgements: list[JudgementRecord]
    agreement: dict[str, float | None] | None
    error: str | None
    calls: int
    prompt_tokens: int
    completion_tokens: int
