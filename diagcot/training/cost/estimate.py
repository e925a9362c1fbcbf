"""What a stage of training will take: memory on a GPU and GPU-hours, from the model's shape and the recipe alone."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from diagcot.training.config.settings import DeepSpeedSettings, LoraSettings
from diagcot.training.cost.compute import gpu_hours, sequence_flops
from diagcot.training.cost.memory import Engine, budget, gpu_memory
from diagcot.training.cost.workload import Workload
from diagcot.training.families import ModelShape


@dataclass(frozen=True)
class Estimate:
    """The content of a stage's entry in estimates.json.

    parameters, trained: counts. memory: bytes on the fullest GPU at its fullest moment. budget: moment (`training`, and
    `rollouts` where an engine shares the GPU) -> part -> bytes. zero: the ZeRO stage; other_zero_memory: bytes with the
    other one, 2 or 3. tokens: of all sequences. sound, modest: GPU-hours at high and at low utilisation. None if the number
    of sequences is not known.
    """

    parameters: int
    trained: int
    memory: float
    budget: Mapping[str, Mapping[str, float]]
    zero: int
    other_zero_memory: float
    tokens: int | None
    sound: float | None
    modest: float | None

    def to_json(self) -> dict[str, Any]:
        """The entry as an object of JSON."""
        return asdict(self)


def estimate(
    shape: ModelShape,
    trainable: Iterable[str],
    lora: LoraSettings | None,
    settings: DeepSpeedSettings,
    load: Workload,
    ranks: int,
    engine: Engine | None = None,
) -> Estimate:
    """Estimate of a stage on `ranks` GPUs that trains the components `trainable`, a LoRA adapter, or both.

    engine: the rollout engine on the same GPUs.
    """
    components, adapter = set(trainable), shape.lora(lora) if lora else 0
    trained = shape.trained(components, lora)
    packed = shape.projections if lora and lora.load_in_4bit else 0
    hours = None
    if load.sequences is not None:
        hours = gpu_hours(load.sequences * sequence_flops(shape, components, trained, load))

    def moments(zero: Literal[2, 3]) -> dict[str, Mapping[str, float]]:
        divided = settings.model_copy(update={"stage": zero})
        return budget(gpu_memory(shape, components, adapter, divided, load, ranks, packed), engine)

    return Estimate(
        parameters=sum(shape.counts.values()) + adapter,
        trained=trained,
        memory=_fullest(moments(settings.stage)),
        budget=moments(settings.stage),
        zero=settings.stage,
        other_zero_memory=_fullest(moments(2 if settings.stage == 3 else 3)),
        tokens=None if load.sequences is None else load.sequences * load.tokens,
        sound=hours[0] if hours else None,
        modest=hours[1] if hours else None,
    )


def _fullest(moments: Mapping[str, Mapping[str, float]]) -> float:
    return max(sum(parts.values()) for parts in moments.values())
