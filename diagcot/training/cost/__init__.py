"""Costs of training: parameters, bytes on a GPU and on disk, floating-point operations and GPU-hours.

Everything here is computed from config.json and the recipe, without torch. The one exception is `step_flops`, which
counts the operations of passes that are really made and is imported by the jobs alone.
"""

from diagcot.training.cost.compute import HIGH_UTILISATION, LOW_UTILISATION, gpu_hours, sequence_flops
from diagcot.training.cost.estimate import Estimate, estimate
from diagcot.training.cost.hardware import GPU_BYTES, OPTIMIZER_BYTES, VALUE_BYTES, peak_flops
from diagcot.training.cost.memory import ASLEEP_BYTES, BASE_BYTES, Engine, GpuMemory, budget, gpu_memory
from diagcot.training.cost.shape import parse_config, shape_of
from diagcot.training.cost.storage import checkpoint_storage, model_storage, training_storage, weights_storage
from diagcot.training.cost.workload import CHUNK_TOKENS, LOGIT_BYTES, Workload
from diagcot.training.families import ModelShape

__all__ = [
    "ASLEEP_BYTES",
    "BASE_BYTES",
    "CHUNK_TOKENS",
    "GPU_BYTES",
    "HIGH_UTILISATION",
    "LOGIT_BYTES",
    "LOW_UTILISATION",
    "OPTIMIZER_BYTES",
    "VALUE_BYTES",
    "Engine",
    "Estimate",
    "GpuMemory",
    "ModelShape",
    "Workload",
    "budget",
    "checkpoint_storage",
    "estimate",
    "gpu_hours",
    "gpu_memory",
    "model_storage",
    "parse_config",
    "peak_flops",
    "sequence_flops",
    "shape_of",
    "training_storage",
    "weights_storage",
]
