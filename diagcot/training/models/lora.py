"""LoRA adapters (Hu et al. 2021, arXiv:2106.09685) on the language model's projections."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from diagcot.training.config.settings import LoraSettings

if TYPE_CHECKING:
    import torch

_PREFIX = "base_model.model."  # of every name in a model with an adapter
_NAME = "default"  # PEFT's name of the adapter


def add_adapter(network: Any, settings: LoraSettings) -> Any:
    """The model with a LoRA adapter on the language model's projections; vision tower and merger have none.

    The adapter has the model's type. peft would keep it in fp32 on a bf16 model, and ZeRO-3 leaves it so: each projection
    would then compute in fp32. DeepSpeed's optimiser holds its own fp32 copy.
    """
    from peft import LoraConfig, get_peft_model

    names = "|".join(settings.targets)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=rf".*language_model\..*\.({names})",
    )
    return get_peft_model(network, config, autocast_adapter_dtype=False)


def has_adapter(network: Any) -> bool:
    """Whether `network` is a model with an adapter."""
    return hasattr(network, "get_base_model")


@contextlib.contextmanager
def switched_off(network: Any) -> Iterator[None]:
    """Inside it `network` computes what its base computes.

    PEFT's own `disable_adapter` also changes which parameters have gradients, under the feet of DeepSpeed.
    """
    layers = list(_layers(network).values())
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


class ServedWeight(NamedTuple):
    """A weight as a server of the base gets it: its name there, and the parameters that it is made of.

    parameters: the base's, and where the layer has an adapter its two matrices, all with ZeRO-3 maybe divided. scaling: of
    the adapter.
    """

    name: str
    parameters: tuple["torch.nn.Parameter", ...]
    scaling: float = 1.0

    def value(self) -> "torch.Tensor":
        """The weight with its adapter added; of gathered parameters."""
        weight, *adapter = (parameter.data for parameter in self.parameters)
        if not adapter:
            return weight
        down, up = adapter
        return _sum(weight, down, up, self.scaling)


def served_weights(network: Any) -> Iterator[ServedWeight]:
    """All weights of `network`, with or without an adapter, as servers of its base get them."""
    layers = _layers(network) if has_adapter(network) else {}
    for name, parameter in network.named_parameters():
        layer = layers.get(name.removesuffix(f".{_PARTS[0]}.weight"))
        if layer is not None:
            matrices = (layer.lora_A[_NAME].weight, layer.lora_B[_NAME].weight)
            yield ServedWeight(_base_name(name), (parameter, *matrices), layer.scaling[_NAME])
        elif ".lora_" not in name:
            yield ServedWeight(_base_name(name), (parameter,))


def merged(network: Any, state: dict[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
    """The weights of the base with the adapter added, by the base's names.

    state: all weights of `network` by their names, in host memory; it is emptied.
    """
    result: dict[str, torch.Tensor] = {}
    for name, layer in _layers(network).items():
        weight, down, up = (state.pop(f"{name}.{part}.weight") for part in _PARTS)
        result[_base_name(f"{name}.weight")] = _sum(weight, down, up, layer.scaling[_NAME])
    for name in list(state):
        result[_base_name(name)] = state.pop(name)
    return result


def _sum(weight: "torch.Tensor", down: "torch.Tensor", up: "torch.Tensor", scaling: float) -> "torch.Tensor":
    """Weight and adapter, added in float32, in the weight's type."""
    return (weight.float() + scaling * (up.float() @ down.float())).to(weight.dtype)


def _base_name(name: str) -> str:
    return name.removeprefix(_PREFIX).replace(".base_layer.", ".")


def save(network: Any, state: dict[str, "torch.Tensor"], directory: Path) -> None:
    """Write the adapter as PEFT loads it, with the other modules that train (`modules_to_save`) beside it.

    state: all weights of `network`, or at least those that train, by their names.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    modules = _trained_modules(network.get_base_model())
    config = network.peft_config[_NAME]
    config.modules_to_save = modules or None
    network.save_pretrained(directory, state_dict={}, safe_serialization=True)  # its configuration and card
    config.modules_to_save = None
    adapter = get_peft_model_state_dict(network, state)
    whole = tuple(f"{_PREFIX}{name}." for name in modules)
    adapter |= {name: value for name, value in state.items() if name.startswith(whole)}
    tensors = {name: value.contiguous() for name, value in adapter.items()}
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})


_PARTS = ("base_layer", f"lora_A.{_NAME}", f"lora_B.{_NAME}")


def _layers(network: Any) -> dict[str, Any]:
    """Name -> layer with an adapter."""
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in network.named_modules() if isinstance(module, LoraLayer)}


def _trained_modules(base: Any, name: str = "") -> list[str]:
    """Names of the largest modules below `base` that train as a whole. PEFT takes no list of modules, only its members."""
    from torch.nn import ModuleList

    found: list[str] = []
    for child, module in base.named_children():
        path, parameters = f"{name}{child}", list(module.parameters())
        if child.startswith("lora_") or not any(p.requires_grad for p in parameters):
            continue
        if all(p.requires_grad for p in parameters) and not isinstance(module, ModuleList):
            found.append(path)
        else:
            found += _trained_modules(module, f"{path}.")
    return found
