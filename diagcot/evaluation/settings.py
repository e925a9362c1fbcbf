"""Settings of the evaluation's kinds."""

from pathlib import Path
from typing import Literal, get_args

from pydantic import Field, PositiveInt, field_validator, model_validator

from diagcot.jobs import UserError
from diagcot.jobs.environment import own_code
from diagcot.jobs.names import LONGEST, NAME
from diagcot.jobs.settings import Settings
from diagcot.metrics.clinical.readers import Texts
from diagcot.metrics.clinical.weights import WeightsFolder
from diagcot.serving.settings import ServerSettings
from diagcot.shards.settings import resolved
from diagcot.tasks.prompt_set import PromptedSettings
from diagcot.tasks.questions.wording import Wording

Closed = Literal["binary", "single", "multi", "view", "matching", "progression", "combined"]
Written = Literal["fg", "fg_i", "fs", "ig", "ig_i"]
Task = Literal["report", "grounding", "classification", "open", "grounding_pixels", Closed, Written]
"""Reports, boxes and labels as DiagCoT asks for them, and the question answering of CX-Mind (arXiv:2508.03733)."""

CLOSED: tuple[str, ...] = get_args(Closed)
WRITTEN: tuple[str, ...] = get_args(Written)

_TOKENS = {"report": 1024}


class EvaluateSettings(PromptedSettings):
    """Greedy predictions of every model on the test split."""

    tasks: list[Task] = Field(["report", "grounding"], min_length=1, description="Tasks that every model is asked.")
    views: Literal["image", "study"] = Field(
        "image", description="image: a sample for each image of a study; study: one sample with all of them."
    )
    samples_per_shard: int | None = Field(
        None, ge=1, description="Most samples of each task in a shard, chosen by the digests of their ids; null: all."
    )
    max_tokens: dict[Task, PositiveInt] = Field(
        {}, description="Task and most tokens of an answer; not named: 1024 for a report and 512 for other tasks."
    )
    format_instruction: bool = Field(
        False,
        description="End each prompt that does not name the tags with the format instruction of the prompt set, for models that"
        " were not trained to reason unasked.",
    )
    probabilities: bool = Field(
        True,
        description="Classification: also measure the probability of each label by 14 short requests for an image, on"
        " the validate split too, where the thresholds are chosen.",
    )
    wording: dict[str, list[str]] = Field(
        {}, description="Wordings of questions, as in the `questions` stage that the model was trained on."
    )
    server: ServerSettings = Field(ServerSettings(), description="The vLLM server of each task.")

    @model_validator(mode="after")
    def _worded(self) -> "EvaluateSettings":
        Wording(self.wording)
        return self

    def tokens(self, task: str) -> int:
        """Tokens that a model may write in a task."""
        given: dict[str, int] = {**_TOKENS, **dict(self.max_tokens.items())}
        return given.get(task, 512)


class JudgeSettings(Settings):
    """A local model judges, at temperature 0, whether an answer says what the reference says."""

    tasks: list[Task] = Field(["open"], min_length=1, description="Tasks whose answers are judged.")
    max_tokens: int = Field(32, ge=8, description='Most tokens of a verdict, which is such as {"same": false}.')
    server: ServerSettings = Field(ServerSettings(), description="The vLLM server of the judge.")


class ReadingSettings(Settings):
    """Settings that all models which read reports share."""

    tasks: list[Literal["report", Written]] = Field(
        ["report"], min_length=1, description="Tasks whose answers are scored."
    )
    weights: WeightsFolder = Field(
        None, description="Folder with a folder for each scoring model (docs/evaluation.md); $VARIABLES are replaced."
    )
    texts: Texts = Field(
        "normalised",
        description="How the models get both texts. normalised: in small letters, with one blank between words and none before"
        " full stops, commas and colons, so that the case and spacing that a model writes change no score; as_written: as they"
        " are, and the scores have columns of their own.",
    )


class ClinicalSettings(ReadingSettings):
    """Scores by models that read reports; a model whose folder is missing is left out."""

    batch: int = Field(64, ge=1, description="Answers that are scored between two checks for a request to stop.")


class GreenSettings(ReadingSettings):
    """Scores by GREEN's language model, at temperature 0."""

    words: int = Field(300, ge=1, description="Most words of each report that the model is shown, as in RadEval.")
    max_tokens: int = Field(1024, ge=16, description="Most tokens of its analysis.")
    server: ServerSettings = Field(ServerSettings(), description="The vLLM server of GREEN's model.")


class Claim(Settings):
    """A sentence about two models that an ablation study tests on every seed."""

    text: str = Field(description="What is claimed, in one sentence.")
    column: str = Field(description="Name of the score that decides, as in metrics.json, such as rule_label_f1.")
    better: str = Field(
        description="The model that is claimed to be better: a stage of the study's own chain, or <stage>-<arm> for the"
        " stage as the recipe of that name changes it."
    )
    than: str = Field(description="The model that it is compared with, named likewise.")


class StudySettings(Settings):
    """Tests claims about models on several seeds. `make study` writes this stage, see docs/study.md."""

    claims: list[Claim] = Field(min_length=1, description="What is tested, in the order of the table.")
    seeds: list[int] = Field(min_length=1, description="Seeds; the model of a claim is the stage <name>-<seed>.")
    draws: int = Field(1000, ge=100, le=100_000, description="Draws of the bootstrap that intervals are computed from.")
    java_s: float = Field(180, gt=0, description="Seconds that the Java tokeniser may take.")


class OwnMetric(Settings):
    """A metric in a file of your own: a function that gives each answer a number; the column has their mean."""

    name: str = Field(description="path/to/file.py:function, see docs/how-to/add-a-metric.md.")
    task: Task = Field("report", description="The task whose answers it scores.")
    better: Literal["higher", "lower"] = Field(description="Which values are better; the marks follow it.")
    title: str = Field("", description="Heading of its column; empty: the name of the function.")

    @field_validator("name")
    @classmethod
    def _of_a_file(cls, name: str) -> str:
        if not own_code.NAME.fullmatch(name):
            raise ValueError(f"a metric is named path/to/file.py:function, not {name!r}")
        return own_code.absolute(name)

    @property
    def column(self) -> str:
        """Its name in metrics.json."""
        return own_code.label(self.name)

    @property
    def heading(self) -> str:
        """The heading of its column."""
        return self.title or self.name.rpartition(":")[2].replace("_", " ")


class SweepRow(Settings):
    """A model of a sweep: one row of its table."""

    model: str = Field(description="Name of the model in the recipe.")
    values: str = Field(description="The values of the settings that it was trained with.")
    stages: list[str] = Field(description="The evaluated stage on each seed, in the order of `seeds`.")


class SweepSettings(Settings):
    """Compares models that differ in settings, on several seeds. `make sweep` writes this stage."""

    rows: list[SweepRow] = Field(min_length=1, description="The models; each is compared with the first of its name.")
    seeds: list[int] = Field(min_length=1, description="Seeds.")
    tasks: list[str] = Field(min_length=1, description="Tasks whose scores are shown.")
    metrics: list[OwnMetric] = Field([], description="Metrics of your own, each a further column.")
    draws: int = Field(1000, ge=100, le=100_000, description="Draws of the bootstrap that intervals are computed from.")
    java_s: float = Field(180, gt=0, description="Seconds that the Java tokeniser may take.")


class ForeignModel(Settings):
    """A model that ran elsewhere, and the file of its answers to one task."""

    model: str = Field(pattern=rf"^{NAME.pattern}$", max_length=LONGEST, description="Name of the row in the table.")
    path: str = Field(
        description="File of its answers: .csv, .tsv, .json, .jsonl, .parquet, or ReXrank's .json; $VARIABLES are replaced."
    )
    origin: str = Field(
        min_length=1,
        description="Where the answers come from, such as a paper, a release or a date; shown beside the table.",
    )
    task: Task = Field("report", description="The task that it answered.")
    columns: dict[Literal["id", "study", "text"], str] = Field(
        {},
        description="Names of the columns that hold the sample's id, the study and the answer, where they are others.",
    )

    @field_validator("path")
    @classmethod
    def _absolute(cls, path: str) -> str:
        return resolved(path) or path

    def file(self) -> Path:
        """The file. Raises UserError if it is not there."""
        if "$" in self.path or not Path(self.path).is_file():
            raise UserError(f"the answers of {self.model}: {self.path} is no file; correct `path`, or set its variable")
        return Path(self.path)


class PredictionsSettings(Settings):
    """Answers of models that ran elsewhere, to the samples of an evaluation: they join its table with a mark."""

    models: list[ForeignModel] = Field(min_length=1, description="The models, in the order of the table.")
    max_missing: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Largest share of the samples that may be without an answer, from 0 to 1. They count as misses.",
    )

    @model_validator(mode="after")
    def _distinct(self) -> "PredictionsSettings":
        seen = [(model.model, model.task) for model in self.models]
        if double := next((one for one in seen if seen.count(one) > 1), None):
            raise ValueError(f"{double[0]} has two files for the task {double[1]}; join them")
        return self


class AggregateSettings(Settings):
    """The metrics table and the report."""

    fallbacks: list[Literal["simple_words", "no_meteor"]] = Field(
        [],
        description="What the stage may do instead of failing. simple_words: split texts into words by simpler rules where Java"
        " is not usable; each figure that depends on the words is then marked. no_meteor: leave METEOR out where its files are"
        " not usable.",
    )
    draws: int = Field(1000, ge=100, le=100_000, description="Draws of the bootstrap that intervals are computed from.")
    examples: int = Field(6, ge=0, description="Samples of each task that the report shows.")
    r2gen: bool = Field(False, description="Also score reports by R2Gen's protocol, under separate names.")
    metrics: list[OwnMetric] = Field([], description="Metrics of your own, each a further column.")
    compare_with: dict[str, str] = Field(
        default_factory=dict,
        description="Model -> the evaluated model that its marks compare it with. Default: the one that it was trained from, or"
        " the row above.",
    )
    controls: dict[str, str] = Field(
        default_factory=dict,
        description="Model -> an evaluated model that it is compared with as well: one that was trained likewise, but without"
        " what is studied.",
    )
    java_s: float = Field(180, gt=0, description="Seconds that the Java tokeniser may take.")
