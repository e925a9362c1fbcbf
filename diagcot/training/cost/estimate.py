"""What a stage of training will take: memory on a GPU and GPU-hours, from the model's shape and the recipe alone."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from diagcot.training.config.settings import DeepSpeedSettings, LoraSettings
from diagcot.training.cost.compute import gpu_hours, sequence_flops
from diagcot.training.cost.memory import gpu_memory
from diagcot.training.cost.shape import ModelShape
from diagcot.training.cost.workload import Workload


@dataclass(frozen=True)
class Estimate:
    """The content of a stage's entry in estimates.json.

    parameters, trained: counts. memory: bytes on the fullest GPU. tokens: of all sequences. sound, modest: GPU-hours at
    high and at low utilisation. None if the number of sequences is not known.
    """

    parameters: int
    trained: int
    memory: float
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
) -> Estimate:
    """Estimate of a stage on `ranks` GPUs that trains the components `trainable`, or a LoRA adapter."""
    components, adapter = set(trainable), shape.lora(lora) if lora else 0
    trained = shape.trained(components, lora)
    hours = None
    if load.sequences is not None:
        hours = gpu_hours(load.sequences * sequence_flops(shape, components, trained, load))
    return Estimate(
        parameters=sum(shape.counts.values()) + adapter,
        trained=trained,
        memory=gpu_memory(shape, components, adapter, settings, load, ranks).total,
        tokens=None if load.sequences is None else load.sequences * load.tokens,
        sound=hours[0] if hours else None,
        modest=hours[1] if hours else None,
    )
