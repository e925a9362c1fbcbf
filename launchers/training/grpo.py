"""Kind `grpo`: one multi-node job of reinforcement learning: DeepSpeed ranks, and Ray with vLLM servers."""

from collections.abc import Iterator
from typing import Any

from diagcot.jobs import UserError
from diagcot.rewards import trial
from diagcot.training.config.grpo_settings import GrpoSettings
from diagcot.training.config.reward_settings import SERVED
from diagcot.training.config.settings import SftSettings
from diagcot.training.cost import GPU_BYTES, Engine, Estimate, Workload, weights_storage
from diagcot.training.reward_models import missing
from launchers import model_size, server_memory
from launchers.inputs import SAMPLES, SHARDS, WEIGHTS, one_training, without_samples
from launchers.stage_kind import ChainView, Stage, StageKind

PROMPT_TOKENS = 100  # text of a prompt
LAYOUT_KINDS = ("filter", "questions", "synthetic-sft")  # whose samples answer in the layout that rewards ask for
LOW_TEMPERATURE = 0.5  # below it most answers of a group are the same


def check(stage: Stage[GrpoSettings], chain: ChainView) -> None:
    """Raises UserError if the batches do not divide among the policy's ranks, no node is left for it, or what its settings need
    is absent: a package, a GPU, a model of its rewards.
    """
    resources, settings = chain.resources(stage.name), stage.settings
    if settings.mix and "mix" not in stage.inputs:
        raise UserError(f"stage {stage.name} mixes prompts and has no input of role mix")
    try:
        missing.check(settings, stage.inputs)
    except UserError as error:
        raise UserError(f"stage {stage.name}: {error}") from None
    for key, reward in settings.reward_table.items():
        for name, style in reward.calls:
            trial.check(name, style, settings.task if key == "" else key)
    if settings.reward_models.device == "cuda" and not resources.gpus:
        raise UserError(f"stage {stage.name}: reward_models.device is cuda, and the cluster gives it no GPU")
    base = model_size.base_of(stage, chain)
    family = model_size.trained_family(stage, base) if base else None
    if family and not family.causal and not resources.gpus:
        raise UserError(
            f"stage {stage.name}: on a CPU vLLM lets no token of an image see a later one, as"
            f" {family.title} needs it: its rollouts would not be the policy's. Give the stage a GPU"
        )
    ranks = settings.trainers(resources.ranks, resources.nodes)
    model_size.check_training(stage, chain, settings.deepspeed, ranks, resources.gpus, settings.lora)


def notes(stage: Stage[GrpoSettings], chain: ChainView) -> list[str]:
    """What a plan shows of a stage that will learn little, and of what its servers' GPUs hold."""
    resources = chain.resources(stage.name)
    gpus = resources.gpus * resources.tasks_per_node // stage.settings.engines
    of_servers = server_memory.notes(stage, chain, stage.settings.server, gpus)
    said = [f"{stage.name}: {line}" for line in (*_learning_notes(stage, chain), *of_servers)]
    return [*said, *without_samples(stage, chain, [stage.settings.task])]


def _learning_notes(stage: Stage[GrpoSettings], chain: ChainView) -> Iterator[str]:
    settings = stage.settings
    # The mode `whole` pays for answers without the layout, too; what a reward of the user's own asks for is not known.
    asked = any(
        reward.chosen_mode != "whole" and ".py:" not in reward.name for reward in settings.reward_table.values()
    )
    if asked and settings.reasoning == "expected" and not settings.format_instruction and not _taught(stage, chain):
        yield (
            "no stage before it teaches the layout that its reward asks for, and its prompts do not ask for it"
            " (`format_instruction: true`); where no rollout has it, "
            + ("the stage is refused before its first update" if settings.precheck_groups else "it learns nothing")
        )
    expected, clauses = model_size.TRACE_TOKENS[1], model_size.has_clause_tokens(stage, chain)
    reports = settings.task == "report" and stage.inputs.get("shards") and settings.reasoning == "expected"
    if reports and model_size.base_of(stage, chain) and not clauses and settings.max_tokens < expected:
        yield f"max_tokens {settings.max_tokens} cuts most answers: a report with its reasoning takes about {expected}"
    if settings.temperature < LOW_TEMPERATURE:
        yield (
            f"at temperature {settings.temperature:g} the {settings.group_size} answers of a group hardly differ, and equal"
            " rewards teach nothing"
        )


def _taught(stage: Stage[Any], chain: ChainView) -> bool:
    """Whether a stage that the model descends from was trained on answers in the layout that rewards ask for."""
    for role in ("model", "adapter"):
        for name in stage.inputs.get(role, []):
            before = chain.stage(name)
            sources = [chain.stage(source).spec.kind for source in before.inputs.get("samples", [])]
            learns = isinstance(before.settings, SftSettings) and before.settings.reasoning != "dropped"
            if (learns and any(kind in LAYOUT_KINDS for kind in sources)) or _taught(before, chain):
                return True
    return False


def storage(stage: Stage[GrpoSettings], chain: ChainView) -> int | None:
    """Bytes of the weights and of the best ones; None if the model is not known."""
    settings, shape = stage.settings, model_size.shape(stage, chain)
    total = model_size.training_bytes(stage, chain, settings, settings.deepspeed, settings.lora)
    if total is None or shape is None:
        return None
    # With an adapter, the merged model is published.
    copies = (settings.lora is not None) + (settings.best is not None)
    return total + copies * weights_storage(shape, settings.deepspeed)


def estimate(stage: Stage[GrpoSettings], chain: ChainView) -> Estimate | None:
    """Memory of policy and rollout engine, and GPU-hours of the policy's training without the rollouts.

    Every answer is taken to be as long as it may be. Without gradients it is scored once more by the policy of the step's
    beginning, if the step has several updates, and once by the reference, if there is a KL term.
    """
    settings = stage.settings
    rollouts, steps = settings.prompts_per_step * settings.group_size, settings.deepspeed.steps
    load = Workload(
        model_size.visual_tokens(stage, chain),
        PROMPT_TOKENS + settings.max_tokens,
        settings.max_tokens,
        steps * rollouts if steps else None,
        scoring_passes=(settings.updates > 1) + (settings.kl_coef > 0),
        reference=settings.own_reference,
    )
    resources = chain.resources(stage.name)
    ranks = settings.trainers(resources.ranks, resources.nodes)
    return model_size.training_estimate(
        stage, chain, settings, settings.deepspeed, load, settings.lora, ranks, _engine(settings)
    )


def _engine(settings: GrpoSettings) -> Engine | None:
    """What the servers take of the policy's GPUs; None if they have nodes of their own."""
    if settings.rollout_nodes:
        return None
    models = [settings.reward_models.served(name) for name in settings.scoring_models if name in SERVED]
    servers = [settings.server, *(served.server for served in models if not served.server.endpoint)]
    share = sum(server.gpu_memory_utilization for server in servers)
    return Engine(share * GPU_BYTES, sleeps=not settings.max_staleness)


KIND = StageKind(
    work="diagcot.training.kinds.grpo",
    former_work="diagcot.training.grpo",
    settings=GrpoSettings,
    resource_profile="grpo",
    product="weights",
    startup_s=90,
    unit_s=600,
    units=one_training,
    reads={"model": WEIGHTS, "shards": SHARDS, "samples": SAMPLES, "mix": SAMPLES, "judge": WEIGHTS},
    check=check,
    notes=notes,
    storage=storage,
    work_storage=model_size.checkpoints,
    estimate=estimate,
    needs=("vllm", "ray", "deepspeed", "collective", "java"),
)
