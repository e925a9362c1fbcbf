"""Kind `grpo`: one multi-node job of reinforcement learning: DeepSpeed ranks, and Ray with vLLM servers."""

from typing import TYPE_CHECKING

from diagcot.jobs import Unit, UserError
from diagcot.recipe import StageSpec
from diagcot.training.config.grpo_settings import GrpoSettings
from diagcot.training.cost import storage as sizes
from diagcot.training.cost.estimate import Estimate, Load
from launchers.training import model
from launchers.training.model import parameters

if TYPE_CHECKING:
    from launchers.chain import Chain

KIND = "diagcot.training.kinds.grpo"
SETTINGS = GrpoSettings
SIZE = "grpo"
PRODUCT = "weights"
STARTUP_S, UNIT_S = 90, 600
NEEDS = ("vllm", "ray", "deepspeed", "collective", "java")  # see diagcot.preflight.rehearsal.stage


def units(stage: StageSpec, chain: "Chain") -> list[Unit]:
    """The whole training is one unit, run by all ranks and resumed from its checkpoints."""
    return [Unit("model")]


def check(stage: StageSpec, chain: "Chain") -> None:
    """Raises UserError where the batches do not divide among the policy's ranks, or no node is left for it."""
    resources, settings = chain.cluster.resources(SIZE, stage.name), GrpoSettings.model_validate(stage.settings)
    if settings.mix and "mix" not in stage.inputs:
        raise UserError(f"stage {stage.name} mixes prompts and has no input of role mix")
    try:
        settings.deepspeed.accumulation(settings.trainers(resources.ranks, resources.nodes))
    except ValueError as error:
        raise UserError(f"stage {stage.name}: {error}") from error


def storage(stage: StageSpec, chain: "Chain") -> int | None:
    """Bytes of the weights, of the best ones and of the checkpoints that are kept; None where the model is not known."""
    settings, count = GrpoSettings.model_validate(stage.settings), parameters(stage, chain)
    if not count:
        return None
    best = count * sizes.BYTES[settings.deepspeed.precision] if settings.best else 0
    return sizes.training(count, settings.trainable, settings.deepspeed) + best


def estimate(stage: StageSpec, chain: "Chain") -> Estimate | None:
    """Of the policy's training, rollouts apart: every answer as long as it may be, scored twice more without gradients."""
    settings = GrpoSettings.model_validate(stage.settings)
    each, steps = settings.prompts_per_step * settings.group_size, settings.deepspeed.steps
    load = Load(
        model.visual(stage, chain), 100 + settings.max_tokens, settings.max_tokens, steps * each if steps else None, 2
    )
    return model.expect(stage, chain, SIZE, settings, load)
