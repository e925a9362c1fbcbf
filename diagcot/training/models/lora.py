"""LoRA adapters (Hu et al. 2021, arXiv:2106.09685) on the language model's projections."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diagcot.training.config.settings import LoraSettings

if TYPE_CHECKING:
    import torch

_PREFIX = "base_model.model."  # of every name in a model with an adapter
_NAME = "default"  # PEFT's name of the adapter


def add_adapter(network: Any, settings: LoraSettings) -> Any:
    """The model with a LoRA adapter on the language model's projections; vision tower and merger have none."""
    from peft import LoraConfig, get_peft_model

    names = "|".join(settings.targets)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=rf".*language_model\..*\.({names})",
    )
    return get_peft_model(network, config)


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


def merged(network: Any, state: dict[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
    """The weights of the base with the adapter added, by the base's names.

    state: all weights of `network` by their names, in host memory; it is emptied. Products are summed in float32.
    """
    result: dict[str, torch.Tensor] = {}
    layers = _layers(network)
    for name, layer in layers.items():
        weight, down, up = (state.pop(f"{name}.{part}.weight") for part in _PARTS)
        change = layer.scaling[_NAME] * (up.float() @ down.float())
        result[f"{name}.weight".removeprefix(_PREFIX)] = (weight.float() + change).to(weight.dtype)
    for name in list(state):
        result[name.removeprefix(_PREFIX).replace(".base_layer.", ".")] = state.pop(name)
    return result


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
