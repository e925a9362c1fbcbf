"""Settings of the chain-of-thought stages. Imported while planning, so nothing heavy is imported here."""

from typing import Literal

from pydantic import Field

from diagcot.cot.prompts import Limits
from diagcot.recipe import Settings
from diagcot.serving.settings import ServerSettings


class LimitSettings(Settings):
    """Bounds of what the model may write; see `prompts.Limits`."""

    steps: int = Field(12, ge=1)
    step_chars: int = Field(600, ge=20)
    section_chars: int = Field(2000, ge=40)

    def limits(self) -> Limits:
        return Limits(self.steps, self.step_chars, self.section_chars)


class SearchSettings(Settings):
    """The search of method.md 4.1, with its numbers as defaults: at most 17 calls a sample, retries aside."""

    attempts: int = Field(3, ge=0)
    depth: int = Field(2, ge=1)
    label_forced: bool = True  # give the reference as the answer when every attempt failed; such traces are marked
    parse_retries: int = Field(1, ge=0)  # of a reply that is cut or not as asked
    temperature: float = Field(0.7, ge=0)  # of the teacher; verdicts are greedy
    top_p: float = Field(0.95, gt=0, le=1)
    max_tokens: int = Field(1024, ge=8)
    verdict_tokens: int = Field(256, ge=8)
    reply: LimitSettings = LimitSettings()


class CollectSettings(Settings):
    """Kind `collect`: chains of thought for the training studies of a shard."""

    search: SearchSettings = SearchSettings()
    samples_per_shard: int | None = Field(None, ge=1)  # None: all; a smaller number takes the same ones every time
    views: Literal["all", "frontal", "first"] = "frontal"  # films of a study that get a chain of their own
    max_reference_chars: int = Field(4000, ge=1)
    server: ServerSettings = ServerSettings()
    grace_s: float = Field(60, ge=0)  # after a request to stop, samples in flight may still finish for so long


class FilterSettings(Settings):
    """Kind `filter`: rules first, then the judge; what both accept becomes training samples."""

    judge: bool = True
    criteria: int = Field(5, ge=1, le=5)  # of the judge's five that must hold
    label_f1: float = Field(1.0, ge=0, le=1)  # least agreement of report and reference over the CheXpert labels
    min_words: int = Field(10, ge=0)  # of the reasoning
    forced: Literal["keep", "drop"] = "keep"  # traces that were given the reference as the answer
    max_tokens: int = Field(256, ge=8)
    reply: LimitSettings = LimitSettings()
    server: ServerSettings = ServerSettings()


class PrimerSettings(Settings):
    """Kind `primer`: worked examples by rule. `tasks` says how many examples of a kind a film or study gets on average."""

    tasks: dict[str, float] = {
        "report": 1.0,
        "grounding": 0.25,
        "init": 0.3,
        "verify_true": 0.15,
        "verify_false": 0.25,
        "rethink": 0.2,
        "label": 0.15,
        "rewrite": 0.4,
        "final": 0.3,
        "judge_yes": 0.15,
        "judge_no": 0.15,
    }
    max_words: int = Field(70, ge=1)  # of a reference report; longer ones get no conversation
