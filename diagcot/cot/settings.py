"""Settings of the chain-of-thought stages. Imported while planning, so nothing heavy is imported here."""

from typing import Any, Literal

from pydantic import Field, model_validator

from diagcot.cot.search.schemas import Limits
from diagcot.jobs.settings import Settings
from diagcot.serving.settings import ServerSettings
from diagcot.tasks.questions.wording import TASKS as QUESTIONS
from diagcot.tasks.questions.wording import Wording


class LimitSettings(Settings):
    """Bounds of what the model may write; see `schemas.Limits`."""

    steps: int = Field(default=12, ge=1)
    step_chars: int = Field(default=600, ge=20)
    section_chars: int = Field(default=2000, ge=40)

    def limits(self) -> Limits:
        return Limits(self.steps, self.step_chars, self.section_chars)


class SearchSettings(Settings):
    """The search of method.md 4.1, its numbers as defaults: at most 17 calls a sample, replies asked for again aside."""

    attempts: int = Field(
        default=3, ge=0
    )  # for interleaved traces: replies that may break a rule before the forced one
    depth: int = Field(default=2, ge=1)
    label_forced: bool = True  # give the reference as the answer when every attempt failed; such traces are marked
    forced_is_verified: bool = False  # call those traces verified, as the release did
    verdict: Literal["reasoned", "word"] = "reasoned"  # reason and boolean in JSON; or "true" anywhere in the reply
    constrained: bool = True  # the server holds replies to their JSON schema; else the prompt shows the layout
    repair: bool = True  # mend JSON with fences, stray commas or a cut tail before asking again
    parse_retries: int = Field(default=2, ge=0)  # of a reply that is cut or not as asked, with what was wrong with it
    hide_reference: bool = True  # thinking that speaks of a reference is not as asked
    impression: Literal["written", "reference"] = (
        "written"  # by the teacher; or the whole reference, as the release did
    )
    film_first: bool = True  # before the text, so that the prefix cache holds the film; the release put it last
    iou: float = Field(default=0.5, ge=0, le=1)  # grounding: least matched IoU of boxes that are accepted
    temperature: float = Field(default=0.7, ge=0)  # of the teacher; verdicts are greedy
    top_p: float = Field(default=0.95, gt=0, le=1)
    max_tokens: int = Field(default=1024, ge=8)
    verdict_tokens: int = Field(default=256, ge=8)
    reply: LimitSettings = LimitSettings()


PRESETS: dict[str, dict[str, Any]] = {
    "better": {},  # the defaults
    "as-released": {
        "views": "all",
        "search": {
            "forced_is_verified": True,
            "verdict": "word",
            "constrained": False,
            "repair": False,
            "parse_retries": 0,
            "hide_reference": False,
            "impression": "reference",
            "film_first": False,
            "temperature": 0.0,
            "top_p": 1.0,
            "max_tokens": 8192,
            "verdict_tokens": 8192,
        },
        "server": {"max_model_len": 16000},
    },
}
"""Defaults of `collect` by name (docs/cot.md says which of the release's ways they are); a recipe's own keys win."""


class CollectSettings(Settings):
    """Kind `collect`: chains of thought for the training studies of a shard."""

    preset: Literal["better", "as-released"] = "better"
    # report, classification and grounding of the films; closed and open questions of the input `samples`.
    tasks: tuple[Literal["report", "classification", "grounding", "closed", "open"], ...] = Field(
        default=("report",), min_length=1
    )
    search: SearchSettings = SearchSettings()
    samples_per_shard: int | None = Field(
        default=None, ge=1
    )  # of each task; None: all; a smaller number takes the same ones every time
    # Films of a study that get a chain of their own; "study": one chain, of all films together.
    views: Literal["all", "frontal", "first", "study"] = "study"
    max_reference_chars: int = Field(default=4000, ge=1)
    server: ServerSettings = ServerSettings()
    verifier: ServerSettings | None = None  # of the model of the input `verifier`; None: as `server`
    grace_s: float = Field(default=60, ge=0)  # after a request to stop, samples in flight may still finish for so long

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        one = {"tasks": [given["tasks"]]} if isinstance(given.get("tasks"), str) else {}
        return _over(PRESETS.get(given.get("preset", "better"), {}), given | one)

    @property
    def questions(self) -> bool:
        """Whether the input `samples` is read."""
        return bool({"closed", "open"} & set(self.tasks))


def _over(defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """`given` with what it leaves out from `defaults`, at any depth."""
    both = {key for key in defaults.keys() & given.keys() if isinstance(given[key], dict)}
    return defaults | given | {key: _over(defaults[key], given[key]) for key in both}


FILTER_PRESETS: dict[str, dict[str, Any]] = {
    "better": {},  # the defaults
    "as-released": {"rules": False, "verdict": "word", "image": False, "max_tokens": 20},
}
"""Defaults of `filter` by name (docs/filtration.md); a recipe's own keys win."""


class FilterSettings(Settings):
    """Kind `filter`: rules first, then the judge; what both accept becomes training samples."""

    preset: Literal["better", "as-released"] = "better"
    forced: Literal["keep", "drop"] = "keep"  # traces that were given the reference as the answer

    rules: bool = True  # False: only failed searches are dropped before the judge
    min_words: int = Field(default=10, ge=0)  # of the reasoning
    max_words: int = Field(default=2000, ge=1)
    variety: float = Field(default=0.6, ge=0, le=1)  # of the reasoning; 1: nothing is said twice, see `rewards.layout`
    label_f1: float = Field(default=1.0, ge=0, le=1)  # least agreement of answer and reference over the CheXpert labels
    iou: float = Field(default=0.5, ge=0, le=1)  # least matched IoU of boxes

    judge: bool = True
    verdict: Literal["scored", "word"] = "scored"  # a reason and a score per criterion; or true or false in the reply
    image: bool = True  # the judge sees the films
    score: int = Field(default=4, ge=1, le=5)  # least score with which a criterion holds
    # Of the five that must hold in a judgement, of a word the one; 0: the judge is heard and recorded, not obeyed.
    criteria: int = Field(default=5, ge=0, le=5)
    repeats: int = Field(default=1, ge=1)  # judgements of a trace; more than half of them must keep it
    temperature: float = Field(default=0.7, gt=0)  # of repeated judgements; a single one is greedy
    reason_chars: int = Field(default=200, ge=20)
    max_tokens: int = Field(default=512, ge=8)  # of one judgement
    server: ServerSettings = ServerSettings()

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, given: Any) -> Any:
        return FILTER_PRESETS.get(given.get("preset", ""), {}) | given if isinstance(given, dict) else given


class TracesSettings(Settings):
    """Kind `traces`: statistics of a filter stage, and a page of random traces for a person to read."""

    kept: int = Field(default=12, ge=0)  # traces on the page
    dropped: int = Field(default=12, ge=0)


class QuestionSettings(Settings):
    """Kind `questions`: question answering data for CX-Mind, see `diagcot.tasks.questions.questions`."""

    split: Literal["train", "validate", "test"] = "train"  # GRPO refuses questions of the test split
    views: Literal["image", "study"] = "image"  # ask about each film, or about all films of a study together
    # Task -> share of the patients that it is asked about.
    tasks: dict[str, float] = dict.fromkeys((task for task in QUESTIONS if task != "grounding_pixels"), 1.0)
    # Of worked answers: pairs of think and answer, or all thinks in one and the conclusion (ask for it by `wording`).
    layout: Literal["interleaved", "single"] = "interleaved"
    wording: dict[str, list[str]] = {}  # takes the place of defaults, see `diagcot.tasks.questions.wording`

    @model_validator(mode="after")
    def _known(self) -> "QuestionSettings":
        Wording(self.wording)
        unknown = sorted(set(self.tasks) - set(QUESTIONS))
        if unknown:
            raise ValueError(f"unknown questions: {', '.join(unknown)}; known: {', '.join(QUESTIONS)}")
        if not all(0 <= share <= 1 for share in self.tasks.values()):
            raise ValueError("the share of a task is a number from 0 to 1")
        return self


class PrimerSettings(Settings):
    """Kind `primer`: worked examples by rule; `tasks`: how many of a kind a film or study gets on average."""

    tasks: dict[str, float] = {
        "report": 1.0,
        "grounding": 0.25,
        "init": 0.3,
        "verify_true": 0.25,
        "verify_false": 0.25,
        "rethink": 0.2,
        "label": 0.15,
        "rewrite": 0.4,
        "final": 0.3,
        "judge_yes": 0.15,
        "judge_no": 0.15,
        "closed": 0.0,
        "open": 0.0,
    }
    max_words: int = Field(default=70, ge=1)  # of a reference report; longer ones get no conversation
