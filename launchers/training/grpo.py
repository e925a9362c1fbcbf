"""Kind `grpo`: one multi-node job of reinforcement learning: DeepSpeed ranks, and Ray with vLLM servers."""

from diagcot.jobs import UserError
from diagcot.training.config.grpo_settings import GrpoSettings
from diagcot.training.cost import POLICY_BYTES, Estimate, Workload, weights_storage
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
    settings, shape = stage.settings, model_size.shape(stage, chain)
    total = model_size.training_bytes(stage, chain, settings, settings.deepspeed)
    if total is None or shape is None:
        return None
    return total + (weights_storage(shape, settings.deepspeed) if settings.best else 0)


def estimate(stage: Stage[GrpoSettings], chain: ChainView) -> Estimate | None:
    """Memory and GPU-hours of the policy's training without the rollouts.

    Every answer is taken to be as long as it may be. Without gradients it is scored once more by the policy of the step's
    beginning, if the step has several updates, and once by the reference, if there is a KL term.
    """
    settings = stage.settings
    rollouts, steps = settings.prompts_per_step * settings.group_size, settings.deepspeed.steps
    reference = settings.kl_coef > 0
    load = Workload(
        model_size.visual_tokens(stage, chain),
        PROMPT_TOKENS + settings.max_tokens,
        settings.max_tokens,
        steps * rollouts if steps else None,
        scoring_passes=(settings.updates > 1) + reference,
        reference=reference,
        logit_bytes=POLICY_BYTES,
    )
    return model_size.training_estimate(stage, chain, settings, settings.deepspeed, load)


KIND = StageKind(
    work="diagcot.training.kinds.grpo",
    former_work="diagcot.training.grpo",
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
