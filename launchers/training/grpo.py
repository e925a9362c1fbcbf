"""Kind `grpo`: one multi-node job of reinforcement learning: DeepSpeed ranks, and Ray with vLLM servers."""

from diagcot.jobs import UserError
from diagcot.training.config.grpo_settings import GrpoSettings
from diagcot.training.cost import storage as weight_storage
from diagcot.training.cost.estimate import Estimate, Load
from launchers import model_size
from launchers.inputs import one_training
from launchers.stage_kind import ChainView, Stage, StageKind

PROMPT_TOKENS = 100  # text of a prompt


def check(stage: Stage[GrpoSettings], chain: ChainView) -> None:
    """Raises UserError if the batches do not divide among the policy's ranks, or no node is left for it."""
    resources, settings = chain.resources(stage.name), stage.settings
    if settings.mix and "mix" not in stage.inputs:
        raise UserError(f"stage {stage.name} mixes prompts and has no input of role mix")
    model_size.check_batches(stage, settings.deepspeed, settings.trainers(resources.ranks, resources.nodes))


def storage(stage: Stage[GrpoSettings], chain: ChainView) -> int | None:
    """Bytes of the weights, of the best ones and of the checkpoints that are kept; None if the model is not known."""
    settings, count = stage.settings, model_size.parameters(stage, chain)
    total = model_size.training_bytes(stage, chain, settings, settings.deepspeed)
    if total is None or count is None:
        return None
    return total + (count * weight_storage.BYTES[settings.deepspeed.precision] if settings.best else 0)


def estimate(stage: Stage[GrpoSettings], chain: ChainView) -> Estimate | None:
    """Memory and GPU-hours of the policy's training without the rollouts.

    Every answer is taken to be as long as it may be. It is scored twice more without gradients.
    """
    settings = stage.settings
    rollouts, steps = settings.prompts_per_step * settings.group_size, settings.deepspeed.steps
    load = Load(
        model_size.visual_tokens(stage, chain),
        PROMPT_TOKENS + settings.max_tokens,
        settings.max_tokens,
        steps * rollouts if steps else None,
        2,
    )
    return model_size.training_estimate(stage, chain, settings, settings.deepspeed, load)


KIND = StageKind(
    work="diagcot.training.kinds.grpo",
    settings=GrpoSettings,
    resource_profile="grpo",
    product="weights",
    startup_s=90,
    unit_s=600,
    units=one_training,
    check=check,
    storage=storage,
    estimate=estimate,
    needs=("vllm", "ray", "deepspeed", "collective", "java"),
)
