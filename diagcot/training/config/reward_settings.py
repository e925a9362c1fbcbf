"""Settings of the rewards of kind `grpo`. Imported while planning, so nothing heavy is imported here."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from diagcot.jobs.environment import own_code
from diagcot.jobs.settings import Settings
from diagcot.metrics.clinical.weights import WeightsFolder
from diagcot.rewards.names import MODES
from diagcot.serving.settings import ServerSettings

Weight = Annotated[float, Field(gt=0)]
PLAIN = "plain"
"""The component that is the reward of name and mode."""
RADGRAPH_REASONING = "radgraph_reasoning"
"""The component that is the metric of the reasoning by RadGraph's entities."""
READERS = {"chexbert": "chexbert", "radgraph": "radgraph", RADGRAPH_REASONING: "radgraph", "ratescore": "ratescore"}
"""Components that the reward workers compute -> the folder of the model that reads the texts."""
SERVED = ("green", "judge")
"""Components that a language model on a server gives."""
MODELS = (*READERS, *SERVED)
REASONING = "reasoning"
"""The component that is the metric of the reasoning itself (`diagcot.text.reasoning`)."""
OWN_STYLE = "trl"
"""How components of the user's own are called, see `diagcot.rewards.names.STYLES`."""
REASONED = ("report", "classification", "grounding", "open")
"""Rewards of tasks whose reasoning that metric reads."""
MODELS_OF = {"report": MODELS, "open": ("judge",)}
"""Reward -> the models that can score its replies; those of other projects may have all."""
TERMS = {
    "report": ("format", "nlg", "clinical"),
    "grounding": ("format",),
    "open": ("format", "accuracy"),
}
"""Reward -> terms of its default mode that may be components by themselves."""


class RewardSettings(Settings):
    """A reward of this project (`diagcot.rewards.names`) or of another one."""

    name: str = Field(
        "report", description="Name of a reward of this project, or path/to/file.py:function of an external one."
    )
    mode: str = Field("", description="Variant of the reward; empty takes its first one.")
    style: Literal["", "trl", "trl_messages", "easyr1"] = Field(
        "",
        description="How an external reward is called: trl, as TRL does where prompts are texts; trl_messages, as TRL does where"
        " they are messages, with images for example; easyr1, as EasyR1 does. Empty for rewards of this project.",
    )
    alpha: float = Field(
        0.2, gt=0, le=1, description="Rewards closed and open: weight of the newest batch in the gate's mean accuracy."
    )
    margin: float = Field(
        0.0,
        ge=-1,
        le=1,
        description="Rewards closed and open: by how much a batch's accuracy must exceed the gate's mean.",
    )
    components: dict[str, Weight] = Field(
        {},
        description="Component and its weight; the reward is their weighted sum. plain: the reward of name and mode; a term of"
        " that reward by its name in the log, such as format; reasoning; a model: chexbert, radgraph, radgraph_reasoning,"
        " ratescore, green, judge (docs/grpo.md); or path/to/file.py:function, a reward of your own that is called as by `style:"
        " trl`. Empty: the plain reward.",
    )
    workers: int = Field(1, ge=1, description="Number of processes that score rollouts.")
    score_timeout_s: float = Field(
        120,
        gt=0,
        description="Seconds that the plain reward may take for one rollout. One that takes longer scores 0, is named by the"
        " event `score_late` and counted (`late`), and its group is scored one by one.",
    )

    @field_validator("name")
    @classmethod
    def _whole_path(cls, name: str) -> str:
        return own_code.absolute(name)

    @field_validator("components")
    @classmethod
    def _whole_paths(cls, components: dict[str, float]) -> dict[str, float]:
        return {own_code.absolute(name): weight for name, weight in components.items()}

    @model_validator(mode="after")
    def _known(self) -> "RewardSettings":
        if ".py:" in self.name:
            if not self.style:
                raise ValueError(f"reward {self.name} needs a style, trl, trl_messages or easyr1")
            if self.mode:
                raise ValueError(
                    f"reward {self.name} is external and has no mode, but mode is {self.mode!r}; a recipe that extends"
                    " another one sets `mode: ''`"
                )
            return self
        if self.name not in MODES:
            raise ValueError(f"unknown reward {self.name!r}; known: {', '.join(MODES)}, or path/to/file.py:function")
        if self.style:
            raise ValueError(f"reward {self.name} is this project's own and has no style")
        if self.mode and self.mode not in MODES[self.name]:
            raise ValueError(f"reward {self.name} has no mode {self.mode!r}; it has {', '.join(MODES[self.name])}")
        return self

    @model_validator(mode="after")
    def _known_components(self) -> "RewardSettings":
        reasoning = (REASONING,) if self.name in REASONED else ()
        models = MODELS_OF.get(self.name, MODELS if self.style else ())
        known = (PLAIN, *TERMS.get(self.name, ()), *reasoning, *models)
        for name in self.components:
            if name not in known and not own_code.NAME.fullmatch(name):
                raise ValueError(
                    f"reward {self.name} has no component {name!r}; it has {', '.join(known)}, and path/to/file.py:function"
                )
        return self

    @property
    def chosen_mode(self) -> str:
        """The mode, or the style of a reward of another project."""
        return self.style or self.mode or MODES[self.name][0]

    @property
    def weights(self) -> dict[str, float]:
        """Component, by its name in scores and logs, and its weight."""
        return {own_code.label(name): weight for name, weight in self.components.items()}

    @property
    def own(self) -> dict[str, str]:
        """Components of the user's own: name in scores and logs -> `file.py:function`."""
        return {own_code.label(name): name for name in self.components if own_code.NAME.fullmatch(name)}

    @property
    def calls(self) -> tuple[tuple[str, str], ...]:
        """Each `file.py:function` that the reward calls, and in which style."""
        plain = ((self.name, self.style),) if self.style else ()
        return *plain, *((name, OWN_STYLE) for name in self.own.values())

    @property
    def models(self) -> tuple[str, ...]:
        """The components that models give."""
        return tuple(name for name in self.components if name in MODELS)


class ServedModelSettings(Settings):
    """A language model that judges replies, on a server of its own beside the rollouts."""

    max_tokens: int = Field(512, ge=16, description="Most tokens of a judgement.")
    server: ServerSettings = Field(
        ServerSettings(gpu_memory_utilization=0.2),
        description="The vLLM server of the model, on the last node that has rollout servers and on all of that node's GPUs.",
    )


class GreenModelSettings(ServedModelSettings):
    """GREEN's model (Ostmeier et al. 2024, arXiv:2405.03595)."""

    max_tokens: int = Field(1024, ge=16, description="Most tokens of its analysis.")
    words: int = Field(300, ge=1, description="Most words of each report that the model is shown, as in RadEval.")


class RewardModelsSettings(Settings):
    """The models behind the components of rewards, one set for all rewards of the stage."""

    weights: WeightsFolder = Field(
        None, description="Folder with a folder for each scoring model (docs/evaluation.md); $VARIABLES are replaced."
    )
    device: Literal["cpu", "cuda"] = Field(
        "cpu",
        description="Where the reward workers run chexbert, radgraph and ratescore; cuda: the GPUs of rank 0's node.",
    )
    kept: int = Field(
        20_000,
        ge=0,
        description="Pairs of reply and reference whose scores a reward worker keeps for when they return.",
    )
    green: GreenModelSettings = Field(GreenModelSettings(), description="GREEN's model, for the component green.")
    judge: ServedModelSettings = Field(
        ServedModelSettings(), description="The judge, for the component judge; its model is the input `judge`."
    )

    def served(self, name: str) -> ServedModelSettings:
        """The settings of one of SERVED."""
        return self.green if name == "green" else self.judge
