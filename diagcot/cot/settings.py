"""Settings of the chain-of-thought stages. Commands that only plan import them, so nothing heavy is imported here."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from diagcot.cot.search.schemas import Limits
from diagcot.jobs.names import near
from diagcot.jobs.settings import Settings, current_keys
from diagcot.serving.settings import ServerSettings
from diagcot.tasks.prompt_set import PromptedSettings
from diagcot.tasks.questions.wording import TASKS as QUESTIONS
from diagcot.tasks.questions.wording import Share, Wording


class LimitSettings(Settings):
    """Bounds of a reply; see `schemas.Limits`."""

    steps: int = Field(default=8, ge=1, description="Most reasoning steps in one reply.")
    step_chars: int = Field(default=300, ge=20, description="Most characters of a reasoning step, a check or a reason.")
    section_chars: int = Field(default=1000, ge=40, description="Most characters of a conclusion or a report section.")

    def limits(self) -> Limits:
        """The bounds as the schemas take them."""
        return Limits(self.steps, self.step_chars, self.section_chars)


class SearchSettings(Settings):
    """Search for a chain of thought (DiagCoT, arXiv:2509.06409): at most 17 calls a sample, retries excluded."""

    renamed: ClassVar[Mapping[str, str]] = {"film_first": "image_first"}

    attempts: int = Field(
        default=3,
        ge=0,
        description="Attempts after a refused conclusion; for interleaved traces, replies that may break a rule before the"
        " answer is given.",
    )
    depth: int = Field(default=2, ge=1, description="Most rethinking steps in one attempt.")
    label_forced: bool = Field(
        default=True,
        description="Give the gold answer to the teacher when every attempt failed; such traces are marked as forced.",
    )
    forced_is_verified: bool = Field(
        default=False, description="Count forced traces as verified, as the released code does."
    )
    verdict: Literal["reasoned", "word"] = Field(
        default="reasoned",
        description="Verdict of the verifier: reason and boolean in JSON, or the word `true` anywhere in the reply.",
    )
    constrained: bool = Field(
        default=True,
        description="The server enforces the JSON schema of replies; otherwise the prompt shows the layout.",
    )
    repair: bool = Field(
        default=True, description="Repair JSON with code fences, stray commas or a cut-off tail before asking again."
    )
    parse_retries: int = Field(
        default=2,
        ge=0,
        description="Times that an unusable reply is requested again, with the reason for its rejection.",
    )
    hide_reference: bool = Field(default=True, description="Reject reasoning that mentions a reference report.")
    impression: Literal["written", "reference"] = Field(
        default="written",
        description="Impression of the report: written by the teacher, or the reference copied, as the released code does.",
    )
    image_first: bool = Field(
        default=True,
        description="Put images before the text, so that the prefix cache holds them; the released code puts them last.",
    )
    iou: float = Field(
        default=0.5, ge=0, le=1, description="Grounding: least matched IoU, 0 to 1, of boxes that are accepted."
    )
    temperature: float = Field(
        default=0.7, ge=0, description="Sampling temperature of the teacher; verdicts are greedy."
    )
    top_p: float = Field(default=0.95, gt=0, le=1, description="Nucleus sampling of the teacher, 0 to 1.")
    max_tokens: int = Field(
        default=1536,
        ge=8,
        description="Most tokens of a reply of the teacher; the longest reply that `reply` allows must fit.",
    )
    verdict_tokens: int = Field(default=256, ge=8, description="Most tokens of a verdict.")
    reply: LimitSettings = Field(default=LimitSettings(), description="Bounds of the replies of the teacher.")


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
            "image_first": False,
            "temperature": 0.0,
            "top_p": 1.0,
            "max_tokens": 8192,
            "verdict_tokens": 8192,
        },
        "server": {"max_model_len": 16000},
    },
}
"""Defaults of `collect` by name (docs/cot.md lists the choices of the released code); keys of the recipe take precedence."""


class CollectSettings(PromptedSettings):
    """Kind `collect`: chains of thought for the training studies of a shard."""

    preset: Literal["better", "as-released"] = Field(
        default="better", description="Named defaults; keys of the recipe take precedence (docs/cot.md)."
    )
    tasks: tuple[Literal["report", "classification", "grounding", "closed", "open"], ...] = Field(
        default=("report",),
        min_length=1,
        description="Tasks to collect traces for; `closed` and `open` are questions of the input `samples`.",
    )
    search: SearchSettings = Field(default=SearchSettings(), description="Settings of the search.")
    samples_per_shard: int | None = Field(
        default=None,
        ge=1,
        description="Most samples of each task in a shard, the same ones every time; empty means all.",
    )
    views: Literal["all", "frontal", "first", "study"] = Field(
        default="study",
        description="Images of a study that get a trace each; `study` means one trace of all images together.",
    )
    max_reference_chars: int = Field(
        default=4000, ge=1, description="Samples with a longer reference report, in characters, are left out."
    )
    server: ServerSettings = Field(default=ServerSettings(), description="Server of the teacher.")
    verifier: ServerSettings | None = Field(
        default=None, description="Server of the model of the input `verifier`; empty means as `server`."
    )
    grace_s: float = Field(
        default=60, ge=0, description="Seconds that samples in flight may still run after a request to stop."
    )

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        given = current_keys(cls, given)  # before the preset is added, which uses today's keys
        tasks = {"tasks": [given["tasks"]]} if isinstance(given.get("tasks"), str) else {}
        return _with_defaults(PRESETS.get(str(given.get("preset", "better")), {}), given | tasks)

    @property
    def questions(self) -> bool:
        """Whether the tasks include questions of the input `samples`."""
        return bool({"closed", "open"} & set(self.tasks))


def _with_defaults(defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """`given`, completed with `defaults` at any depth."""
    both = {key for key in defaults.keys() & given.keys() if isinstance(given[key], dict)}
    return defaults | given | {key: _with_defaults(defaults[key], given[key]) for key in both}


FILTER_PRESETS: dict[str, dict[str, Any]] = {
    "better": {},  # the defaults
    "as-released": {"rules": False, "verdict": "word", "image": False, "max_tokens": 20},
}
"""Defaults of `filter` by name (docs/filtration.md); keys of the recipe take precedence."""


class FilterSettings(PromptedSettings):
    """Kind `filter`: rules first, then the judge; traces that both accept become training samples."""

    preset: Literal["better", "as-released"] = Field(
        default="better", description="Named defaults; keys of the recipe take precedence (docs/filtration.md)."
    )
    forced: Literal["keep", "drop"] = Field(
        default="keep", description="What happens to traces whose answer was given to the teacher."
    )

    rules: bool = Field(default=True, description="Apply the rules; if false, only failed searches are dropped first.")
    min_words: int = Field(default=10, ge=0, description="Fewest words of the reasoning.")
    max_words: int = Field(default=2000, ge=1, description="Most words of the reasoning.")
    variety: float = Field(
        default=0.6, ge=0, le=1, description="Least variety of the reasoning, 0 to 1; 1 means that nothing is repeated."
    )
    label_f1: float = Field(
        default=1.0, ge=0, le=1, description="Least F1 of answer and reference over the CheXpert labels, 0 to 1."
    )
    iou: float = Field(default=0.5, ge=0, le=1, description="Least matched IoU of boxes, 0 to 1.")
    compare: tuple[Literal["label", "side", "zone", "severity", "device"], ...] = Field(
        default=("label", "side", "zone", "severity", "device"),
        description="In what the statements of reasoning, findings and impression must agree with the reference and with"
        " each other; empty means that statements are not compared.",
    )

    judge: bool = Field(default=True, description="Ask the judge about traces that pass the rules.")
    verdict: Literal["scored", "word"] = Field(
        default="scored", description="Reply of the judge: a reason and a score for each criterion, or true or false."
    )
    image: bool = Field(default=True, description="The judge sees the images.")
    score: int = Field(default=4, ge=1, le=5, description="Least score, 1 to 5, with which a criterion is passed.")
    criteria: int = Field(
        default=5,
        ge=0,
        le=5,
        description="How many of the five criteria a trace must pass; 0 records the judgements without dropping traces.",
    )
    repeats: int = Field(default=1, ge=1, description="Judgements of a trace; more than half of them must keep it.")
    temperature: float = Field(
        default=0.7, gt=0, description="Sampling temperature of repeated judgements; a single one is greedy."
    )
    reason_chars: int = Field(default=200, ge=20, description="Most characters of a reason.")
    max_tokens: int = Field(default=512, ge=8, description="Most tokens of one judgement.")
    server: ServerSettings = Field(default=ServerSettings(), description="Server of the judge.")

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, given: Any) -> Any:
        return FILTER_PRESETS.get(given.get("preset", ""), {}) | given if isinstance(given, dict) else given


class TracesSettings(Settings):
    """Kind `traces`: statistics of a filter stage, and a page of random traces for review."""

    kept: int = Field(default=12, ge=0, description="Kept traces on the page.")
    dropped: int = Field(default=12, ge=0, description="Dropped traces on the page.")
    least_true: float = Field(
        default=0.95,
        ge=0,
        le=1,
        description="Least share of true traces, 0 to 1, among the kept ones of normal and of abnormal phantoms; below it the"
        " stage fails. Without phantoms nothing is checked.",
    )


class QuestionSettings(Settings):
    """Kind `questions`: question-answering data for CX-Mind, see `diagcot.tasks.questions`."""

    split: Literal["train", "validate", "test"] = Field(
        default="train", description="Split of the studies; GRPO refuses questions of the test split."
    )
    views: Literal["image", "study"] = Field(
        default="image", description="Ask about each image, or about all images of a study together."
    )
    tasks: dict[str, Share] = Field(
        default=dict.fromkeys((task for task in QUESTIONS if task != "grounding_pixels"), 1.0),
        description="Question task -> share of the patients, 0 to 1, that it asks about, or [from, to]: stages with [0, 0.1] and"
        " [0.1, 0.3] share no patient of the task.",
    )
    wording: dict[str, list[str]] = Field(
        default={}, description="Question task -> wordings that replace the defaults (docs/questions.md)."
    )

    @model_validator(mode="after")
    def _known(self) -> "QuestionSettings":
        Wording(self.wording)
        return self

    @field_validator("tasks")
    @classmethod
    def _shares(cls, tasks: dict[str, Share]) -> dict[str, Share]:
        unknown = sorted(set(tasks) - set(QUESTIONS))
        if unknown:
            raise ValueError(f"unknown questions: {', '.join(unknown)}; known: {', '.join(QUESTIONS)}")
        for share in tasks.values():
            first, last = share if isinstance(share, tuple) else (0.0, share)
            if not 0 <= first <= last <= 1:
                raise ValueError("the share of a task is a number from 0 to 1, or two of them in order")
        return tasks


SYNTHETIC = (
    *(
        "report",
        "grounding",
        "init",
        "verify_true",
        "verify_false",
        "rethink",
        "label",
        "rewrite",
        "final",
        "judge_yes",
    ),
    *(
        "judge_no",
        "reasoned",
        "closed",
        "open",
        "copy",
        "matching",
        "letters",
        "marks",
        "choice",
        "drawing",
        "drawing_boxes",
    ),
)
"""The conversations that `diagcot.cot.synthetic` writes."""


class SyntheticSettings(PromptedSettings):
    """Kind `synthetic-sft`: example conversations written by rule."""

    split: Literal["train", "validate"] = Field(
        default="train", description="Split of the studies; examples of `validate` measure what a model has learned."
    )
    tasks: dict[str, float] = Field(
        default={
            "report": 1.0,
            "grounding": 0.25,
            "init": 0.3,
            "verify_true": 0.25,
            "verify_false": 0.25,
            "rethink": 0.2,
            "label": 0.15,
            "rewrite": 0.4,
            "final": 0.0,
            "judge_yes": 0.15,
            "judge_no": 0.15,
            "closed": 0.0,
            "open": 0.0,
            "reasoned": 0.0,
            "copy": 0.0,
            "choice": 0.0,
            "drawing": 0.0,
            "drawing_boxes": 0.0,
        },
        description="Conversation -> average number of examples for each image or study.",
    )
    max_words: int = Field(
        default=70, ge=1, description="Studies with a longer reference report, in words, get no conversations."
    )

    @field_validator("tasks")
    @classmethod
    def _known(cls, tasks: dict[str, float]) -> dict[str, float]:
        for task in tasks:
            if task not in SYNTHETIC:
                raise ValueError(f"there is no conversation {task!r}{near(task, SYNTHETIC)}")
        return tasks
