"""The DeepSpeed engine of a stage: configuration, optimiser, learning-rate schedule, weights."""

from typing import Any, Protocol

from diagcot.jobs import Context, UserError
from diagcot.training.config.settings import DeepSpeedSettings
from diagcot.training.distributed import library_setup

library_setup.configure()

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from torch.optim import lr_scheduler  # noqa: E402

from diagcot.training.distributed import process_group  # noqa: E402


class Engine(Protocol):
    """What training uses of DeepSpeed's engine (deepspeed/runtime/engine.py: DeepSpeedEngine)."""

    module: Any
    optimizer: Any
    checkpoint_engine: Any

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model's forward pass."""

    def backward(self, loss: torch.Tensor) -> Any:
        """Add the gradients of a forward pass's loss to those of the step; the engine divides them by the ranks."""

    def step(self) -> Any:
        """Update the weights by the gradients since the last update."""

    def train(self) -> Any:
        """Training mode."""

    def eval(self) -> Any:
        """Evaluation mode."""

    def get_lr(self) -> list[float]:
        """Learning rate of each parameter group."""
        ...

    def get_global_grad_norm(self) -> Any:
        """Norm of the last step's gradients over all ranks, before clipping; None before a step."""

    def save_checkpoint(self, save_dir: str, **options: Any) -> Any:
        """Write the state of weights and optimiser. A collective."""

    def load_checkpoint(self, load_dir: str, **options: Any) -> Any:
        """Load the state of weights and optimiser. A collective."""

    def zero_optimization_stage(self) -> int:
        """2 or 3."""
        ...


def config(settings: DeepSpeedSettings, world_size: int) -> dict[str, Any]:
    """DeepSpeed's configuration of a run."""
    zero: dict[str, Any] = {"stage": settings.stage, "overlap_comm": torch.cuda.is_available()}
    if settings.offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if settings.stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
        if settings.offload:
            zero["offload_param"] = {"device": "cpu", "pin_memory": True}
    samples = max(1, settings.global_batch // world_size)  # of a rank; ranks that share samples may be more than these
    return {
        "train_batch_size": samples * world_size,
        "train_micro_batch_size_per_gpu": samples,
        "gradient_accumulation_steps": 1,
        # The loops call `step` after the last pass of a step: packed steps differ in their number of passes.
        "managed_gradient_accumulation": False,
        "gradient_clipping": settings.gradient_clipping,
        "bf16": {"enabled": settings.precision == "bf16"},
        "zero_optimization": zero,
        # torch's own AdamW: DeepSpeed's needs a compiler on the node.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31,
        "wall_clock_breakdown": False,
    }


def zero3_config(settings: DeepSpeedSettings, ctx: Context) -> dict[str, Any] | None:
    """DeepSpeed's configuration where each rank reads only its part of the model (ZeRO-3), else None."""
    return config(settings, ctx.world_size) if settings.stage == 3 else None


def schedule(optimizer: torch.optim.Optimizer, settings: DeepSpeedSettings, steps: int) -> lr_scheduler.LRScheduler:
    """The learning-rate scheduler of a stage of `steps` optimiser steps.

    Step k (0-based) of the warm-up has (k + 1) / warmup_steps of the highest rate. Then transformers' schedule of that
    name goes from the highest rate to 0 at `steps`. transformers' own warm-up would start at 0: its first step trains
    nothing.
    """
    from transformers import get_scheduler

    warmup = settings.warmup_steps
    decay: lr_scheduler.LRScheduler = get_scheduler(
        settings.schedule, optimizer, num_warmup_steps=0, num_training_steps=max(1, steps - warmup)
    )
    if not warmup:
        return decay
    rise = lr_scheduler.LinearLR(optimizer, start_factor=1 / warmup, total_iters=max(1, warmup - 1))
    return lr_scheduler.SequentialLR(optimizer, [rise, decay], milestones=[warmup])


def initialize(model: torch.nn.Module, settings: DeepSpeedSettings, ctx: Context, steps: int) -> Engine:
    """A DeepSpeed engine over the trainable parameters of `model`, for `steps` optimiser steps in all. A collective.

    Raises UserError if the warm-up is as long as the stage, which a plan cannot know of a stage that counts epochs.
    """
    if settings.warmup_steps >= steps:
        raise UserError(
            f"warmup_steps {settings.warmup_steps} is not below the {steps} steps of this stage: the learning rate would"
            " never reach its value. Lower it, or train for longer"
        )
    import deepspeed

    process_group.connect(ctx)
    device = process_group.device(ctx)
    if settings.gradient_checkpointing:
        recompute_activations(model)
    if settings.stage == 2:
        model.to(device)
    optimizer = torch.optim.AdamW(
        _parameter_groups(model, settings.weight_decay),
        lr=settings.learning_rate,
        betas=(0.9, settings.adam_beta2),
        fused=device.type == "cuda" and not settings.offload,
    )
    engine: Engine = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        lr_scheduler=lambda wrapped: schedule(wrapped, settings, steps),
        config=config(settings, ctx.world_size),
    )[0]
    return engine


def recompute_activations(model: torch.nn.Module) -> None:
    """Let the backward pass compute activations again instead of keeping them (gradient checkpointing).

    A frozen vision tower is neither computed again nor passed through. transformers asks for gradients at the text's and at
    the patches' embedding, which checkpoints without reentrance do not need.
    """
    network: Any = getattr(model, "vlm", model)
    network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    network.disable_input_require_grads()


def divided(settings: DeepSpeedSettings, ctx: Context) -> DeepSpeedSettings:
    """The settings of a model without gradients: ZeRO-3 on several ranks, whatever divides the trained one."""
    return settings.model_copy(update={"stage": 3 if ctx.world_size > 1 else settings.stage})


def frozen(model: torch.nn.Module, settings: DeepSpeedSettings, ctx: Context) -> Any:
    """`model` for passes without gradients, loaded and divided by `divided` settings. On one rank: whole on its device.

    On several ranks creating it and every pass are collectives.
    """
    model.requires_grad_(False).eval()
    if settings.stage == 2:
        return model.to(process_group.device(ctx))
    import deepspeed

    whole = config(settings, ctx.world_size)
    whole["zero_optimization"].pop("offload_optimizer", None)
    engine: Engine = deepspeed.initialize(model=model, config=whole)[0]
    engine.eval()
    return engine


def _parameter_groups(model: torch.nn.Module, decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices only: norms and biases have no scale to shrink."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [p for p in trainable if len(getattr(p, "ds_shape", p.shape)) > 1]
    vectors = [p for p in trainable if len(getattr(p, "ds_shape", p.shape)) <= 1]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def trained_weights(engine: Engine) -> dict[str, torch.Tensor] | None:
    """The weights that train, in rank 0's host memory, None on other ranks; frozen ones are not gathered. A collective."""
    import deepspeed

    divided, state = engine.zero_optimization_stage() == 3, dict[str, torch.Tensor]()
    for name, parameter in engine.module.named_parameters():
        if parameter.requires_grad:
            with deepspeed.zero.GatheredParameters([parameter], enabled=divided):
                if dist.get_rank() == 0:
                    state[name] = parameter.detach().cpu().clone()
    return state if dist.get_rank() == 0 else None


def weights(engine: Engine) -> dict[str, torch.Tensor] | None:
    """All weights in rank 0's host memory, None on other ranks. A collective."""
    if engine.zero_optimization_stage() == 3:
        state = engine._zero3_consolidated_16bit_state_dict()  # type: ignore[attr-defined]
        return {name: value.cpu() for name, value in state.items()} if dist.get_rank() == 0 else None
    if dist.get_rank():
        return None
    return {name: value.detach().cpu() for name, value in engine.module.state_dict().items()}
