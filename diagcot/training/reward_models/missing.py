"""Which models of a stage's rewards cannot be had; imports nothing heavy, since the plan uses it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from diagcot.jobs import ModelError
from diagcot.metrics.clinical.weights import missing_files
from diagcot.training.config.grpo_settings import GrpoSettings
from diagcot.training.config.reward_settings import READERS


def check(settings: GrpoSettings, inputs: Mapping[str, Sequence[str]]) -> None:
    """Raises ModelError that names every component whose model is missing. inputs: those of the stage, by role."""
    models, absent = settings.reward_models, []
    for name in settings.scoring_models:
        if name != "judge":
            reason = missing_files(READERS.get(name, name), models.weights)
        elif models.judge.server.endpoint or len(inputs.get("judge", ())) == 1:
            reason = None
        else:
            reason = "give the stage the input `judge`: a stage of kind model"
        if reason:
            absent.append(f"{name}: {reason}")
    if absent:
        raise ModelError(
            f"the reward's components lack their models: {'; '.join(absent)}. docs/evaluation.md lists where each comes from;"
            " reward_models.weights is their folder"
        )


def folder(name: str, settings: GrpoSettings, inputs: Mapping[str, Sequence[str]]) -> Path:
    """The folder of a served model; of a judge that an endpoint serves, one that is not there."""
    if name == "green":
        assert settings.reward_models.weights
        return settings.reward_models.weights / "green"
    return Path(next(iter(inputs.get("judge", ())), "judge")) / "model"
