"""Kind `merge`: a LoRA adapter and its base model become one model that a server loads.

DiagCoT's teacher is such a model (TMLSIAT/DiagCoT-main merges it by `llamafactory-cli export`).
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from diagcot.jobs import Context, Result, Unit
from diagcot.jobs.state import reading
from diagcot.training.config.settings import MergeSettings


@contextmanager
def prepare(ctx: Context) -> Iterator[MergeSettings]:
    """The stage's settings."""
    yield MergeSettings.model_validate(ctx.settings)


def run(unit: Unit, settings: MergeSettings, ctx: Context) -> Result | None:
    """Merge on the CPU in the base's precision. Inputs: role `model` is the base, role `adapter` the LoRA stage."""
    if ctx.rank:
        return Result()
    from diagcot.training.models import model
    from diagcot.training.models.inputs import model_input, write_counts

    base, adapter = model_input(ctx), model_input(ctx, "adapter")
    if not (adapter / "adapter_config.json").is_file():
        raise ValueError(f"{adapter} holds no adapter; role `adapter` must name a stage that trains [lora]")
    from peft import PeftModel

    precision = json.loads(reading.read_text(base / "config.json")).get("dtype", "float32")
    network = model.load(base, "bf16" if precision == "bfloat16" else "fp32")
    merged = PeftModel.from_pretrained(network, str(adapter), local_files_only=True).merge_and_unload()
    final = ctx.output / "model"
    staged = ctx.staged(final)
    shutil.rmtree(staged, ignore_errors=True)
    model.save(merged, model.load_processor(base), staged, shard_size=settings.shard_size)
    counts = {"parameters": sum(parameter.numel() for parameter in merged.parameters())}
    write_counts(ctx, staged, counts)
    ctx.progress(1, 1)
    return Result(outputs={final: staged}, counts=counts)
