"""LoRA adapters (Hu et al. 2021, arXiv:2106.09685) and their variants by peft, on the language model's projections."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from diagcot.jobs import UserError
from diagcot.training.config.settings import LoraSettings
from diagcot.training.families import FAMILIES

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig

_PREFIX = "base_model.model."  # of every name in a model with an adapter
_NAME = "default"  # PEFT's name of the adapter
_ONE = "projection"  # name of a module that stands alone


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
        use_rslora=settings.use_rslora,
        use_dora=settings.use_dora,
        target_modules=rf".*{FAMILIES[network.config.model_type].language}\..*\.({names})",
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

    parameters: the base's, and those of the layer's adapter by their names in an adapter's file, all with ZeRO-3 maybe
    divided. config: peft's of the adapter.
    """

    name: str
    base: "torch.nn.Parameter"
    adapter: Mapping[str, "torch.nn.Parameter"] = MappingProxyType({})
    config: "LoraConfig | None" = None

    @property
    def parameters(self) -> list["torch.nn.Parameter"]:
        """All that must be whole for `value`."""
        return [self.base, *self.adapter.values()]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole weight."""
        packed = getattr(self.base, "quant_state", None)
        return tuple(getattr(self.base, "ds_shape", self.base.shape) if packed is None else packed.shape)

    @property
    def dtype(self) -> "torch.dtype":
        """Of the weight, also where bitsandbytes packs it."""
        packed = getattr(self.base, "quant_state", None)
        return self.base.dtype if packed is None else packed.dtype

    def value(self) -> "torch.Tensor":
        """The weight with its adapter added; of gathered parameters."""
        weight = self.base.data
        if getattr(self.base, "quant_state", None) is not None:
            from peft.utils.integrations import dequantize_bnb_weight

            weight = dequantize_bnb_weight(self.base)
        parts = {name: parameter.data for name, parameter in self.adapter.items()}
        return add(weight, parts, self.config) if self.config else weight


def served_weights(network: Any) -> Iterator[ServedWeight]:
    """All weights of `network`, with or without an adapter, as servers of its base get them."""
    layers = _layers(network) if has_adapter(network) else {}
    for name, parameter in network.named_parameters():
        layer = layers.get(name.removesuffix(".base_layer.weight"))
        if layer is not None:
            own = {"lora_A.weight": layer.lora_A[_NAME].weight, "lora_B.weight": layer.lora_B[_NAME].weight}
            if _NAME in layer.lora_magnitude_vector:  # of DoRA
                own["lora_magnitude_vector"] = layer.lora_magnitude_vector[_NAME].weight
            yield ServedWeight(_base_name(name), parameter, own, network.peft_config[_NAME])
        elif ".lora_" not in name:
            yield ServedWeight(_base_name(name), parameter)


def merged(network: Any) -> dict[str, "torch.Tensor"] | None:
    """The weights of the base with the adapter added, in rank 0's host memory, None on other ranks. A collective."""
    import deepspeed
    import torch.distributed as dist

    first, result = not dist.is_initialized() or dist.get_rank() == 0, dict[str, "torch.Tensor"]()
    for weight in served_weights(network):
        divided = hasattr(weight.base, "ds_id")
        with deepspeed.zero.GatheredParameters(weight.parameters, enabled=divided):
            if first:
                result[weight.name] = weight.value().detach().cpu().clone()
    return result if first else None


def add(weight: "torch.Tensor", parts: Mapping[str, "torch.Tensor"], config: "LoraConfig") -> "torch.Tensor":
    """`weight` (outputs, inputs) plus an adapter's share, computed by peft, in the weight's type.

    parts: such as lora_A.weight and lora_B.weight. Raises UserError for parts that LoRA of this kind does not have.
    """
    import torch
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = torch.nn.Parameter(weight.clone(), requires_grad=False)
    holder = torch.nn.ModuleDict({_ONE: layer})
    settings = {"r": config.r, "lora_alpha": config.lora_alpha, "use_rslora": config.use_rslora}
    alone = LoraConfig(**settings, use_dora=config.use_dora, target_modules=[_ONE])
    network = inject_adapter_in_model(alone, holder)
    found = set_peft_model_state_dict(network, {f"{_ONE}.{name}": value for name, value in parts.items()})
    if found.unexpected_keys:
        raise UserError(f"the adapter holds {', '.join(found.unexpected_keys)}, which LoRA of this kind does not have")
    projection: Any = network[_ONE]
    projection.merge()
    return projection.get_base_layer().weight.detach().to(weight.dtype)


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
