"""Components of a vision-language model by parameter name, and the freeze policy over them.

A parameter belongs to a component by the modules in its name, which each family declares (`diagcot.training.families`): the
vision tower, the projector (`merger`), the decoder with its input embeddings (`language_model`), the output (`lm_head`).
DiagCoT's release chooses trainable parts by editing the source (model/loader.py of the
LLaMA-Factory copy in TMLSIAT/DiagCoT-main); here they are declared, counted and asserted.
"""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from diagcot.training.config.settings import FreezePolicy
from diagcot.training.families import FAMILIES, MODULES

if TYPE_CHECKING:
    import torch

COMPONENTS = ("vision", "merger", "language_model", "lm_head", "lora")


def component_of(name: str) -> str:
    """The component that the parameter `name` belongs to. Raises ValueError for a name of an unknown family."""
    parts = name.split(".")
    if any(part.startswith("lora_") for part in parts):
        return "lora"
    for component, modules in MODULES.items():
        if not modules.isdisjoint(parts):
            return component
    supported = ", ".join(family.title for family in FAMILIES.values())
    raise ValueError(f"parameter {name} belongs to no known component; supported: {supported}")


def size_of(parameter: "torch.nn.Parameter") -> int:
    """Number of values, also where ZeRO-3 holds only a part of them here, or bitsandbytes has packed them."""
    packed = getattr(parameter, "quant_state", None)
    if packed is not None:
        return math.prod(packed.shape)
    return int(getattr(parameter, "ds_numel", None) or parameter.numel())


def counts(named: Iterable[tuple[str, "torch.nn.Parameter"]]) -> dict[str, int]:
    """Parameters of each component that is present, in the order of COMPONENTS."""
    sizes = dict.fromkeys(COMPONENTS, 0)
    for name, parameter in named:
        sizes[component_of(name)] += size_of(parameter)
    return {name: count for name, count in sizes.items() if count}


def freeze(model: "torch.nn.Module", policy: FreezePolicy) -> dict[str, int]:
    """Let only `policy.trainable` train; returns trainable parameters by component.

    Raises ValueError where a wanted component does not exist, where one of language model and head would train although
    their embeddings are one matrix, or where the count differs from `policy.expect_trainable`.
    """
    present = dict.fromkeys(counts(model.named_parameters()))
    if _tied(model):  # the head is the input embedding and has no parameter of its own
        present["lm_head"] = None
        if ("language_model" in policy.trainable) != ("lm_head" in policy.trainable):
            raise ValueError(
                "this model's input and output embeddings are one matrix, so language_model and lm_head train together:"
                " name both in `trainable`, or neither"
            )
    if missing := [name for name in policy.trainable if name not in present]:
        raise ValueError(f"the model has no {', '.join(missing)} to train; it has {', '.join(present)}")
    trainable: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        component = component_of(name)
        parameter.requires_grad_(component in policy.trainable)
        if parameter.requires_grad:
            trainable[component] = trainable.get(component, 0) + size_of(parameter)
    total = sum(trainable.values())
    if policy.expect_trainable is not None and total != policy.expect_trainable:
        parts = ", ".join(f"{name} {count:,}" for name, count in trainable.items())
        raise ValueError(
            f"{total:,} parameters would train ({parts}), the recipe expects {policy.expect_trainable:,};"
            " correct `trainable` or `expect_trainable`"
        )
    return trainable


def _tied(model: Any) -> bool:
    """Whether the output embeddings are the input embeddings."""
    output, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    return output is not None and embedding is not None and output.weight is embedding.weight


def describe(model: "torch.nn.Module") -> dict[str, int | float | str]:
    """Counts of a frozen model for logs and `diagcot.json`."""
    named = list(model.named_parameters())
    total = sum(size_of(parameter) for _, parameter in named)
    trainable = counts((name, parameter) for name, parameter in named if parameter.requires_grad)
    parts = {f"trainable_{name}": count for name, count in trainable.items()}
    return {"parameters": total, "trainable": sum(trainable.values()), **parts}
