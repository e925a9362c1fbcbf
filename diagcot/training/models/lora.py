"""LoRA adapters (Hu et al. 2021, arXiv:2106.09685) on the language model's projections."""

from typing import Any

from diagcot.training.config.settings import LoraSettings


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
