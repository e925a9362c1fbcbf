"""Parameters of a vision-language model by component, from its config.json alone: no weights, no torch."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from diagcot.jobs import ModelError
from diagcot.jobs.state import reading
from diagcot.training.config.settings import Family, LoraSettings, ModelSettings
from diagcot.training.models.pretrained import configuration_of, family_of

# What transformers fills in where a published config.json is silent.
_VISION: dict[str, dict[str, Any]] = {
    "qwen2_vl": {"depth": 32, "embed_dim": 1280, "mlp_ratio": 4, "patch_size": 14},
    "qwen2_5_vl": {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "patch_size": 14},
    "qwen3_vl": {
        "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "patch_size": 16,
        "num_position_embeddings": 2304, "deepstack_visual_indexes": (8, 16, 24),
    },
}  # fmt: skip
PATCHES_PER_TOKEN = 4  # of the vision tower, merged into one visual token


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a model. The counts of parameters are exact for the three families."""

    family: Family
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head: int  # width of one attention head
    vocabulary: int
    tied: bool  # the output head is the input embedding
    patch: int  # pixels of a patch's side
    vision_depth: int
    vision_hidden: int
    vision_intermediate: int
    positions: int = 0  # learned ones of the vision tower
    deepstack: int = 0  # further mergers

    @property
    def counts(self) -> dict[str, int]:
        """Component -> parameters, as `diagcot.training.models.freeze.counts` finds them in the model."""
        qwen3, wide, mlp = self.family == "qwen3_vl", self.vision_hidden, self.vision_intermediate
        norm = wide if self.family == "qwen2_5_vl" else 2 * wide  # RMS norms have no bias
        patches = 3 * 2 * self.patch**2 * wide + (wide if qwen3 else 0) + self.positions * wide
        ends = 3 * wide * mlp + 2 * mlp + wide if self.family == "qwen2_5_vl" else 2 * wide * mlp + mlp + wide
        vision = patches + self.vision_depth * (2 * norm + 4 * wide**2 + 4 * wide + ends)
        merged = PATCHES_PER_TOKEN * wide
        projection = merged**2 + merged + merged * self.hidden + self.hidden
        merger = norm + projection + self.deepstack * (2 * merged + projection)
        query, key = self.heads * self.head, self.kv_heads * self.head
        extra = 2 * self.head if qwen3 else query + 2 * key  # norms of query and key, or their biases
        attention = 2 * self.hidden * query + 2 * self.hidden * key + extra
        layer = attention + 3 * self.hidden * self.intermediate + 2 * self.hidden
        words = self.vocabulary * self.hidden
        components = {
            "vision": vision, "merger": merger, "language_model": self.layers * layer + self.hidden + words,
            "lm_head": 0 if self.tied else words,
        }  # fmt: skip
        return {name: count for name, count in components.items() if count}

    def trained(self, trainable: Iterable[str], lora: LoraSettings | None) -> int:
        """Parameters that train: those of the components in `trainable`, or of the adapter."""
        counts = self.counts
        return sum(counts.get(name, 0) for name in set(trainable)) + (self.lora(lora) if lora else 0)

    def lora(self, settings: LoraSettings) -> int:
        """Parameters of an adapter on the language model's projections."""
        ends = [self._ends[name] for name in settings.targets if name in self._ends]
        lengths = sum(outputs for _, outputs in ends) if settings.use_dora else 0
        return self.layers * (settings.rank * sum(map(sum, ends)) + lengths)

    @property
    def projections(self) -> int:
        """Parameters of the language model's projections, which QLoRA packs."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self._ends.values())

    @property
    def _ends(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of a layer's projections."""
        query, key = self.heads * self.head, self.kv_heads * self.head
        wide, mlp = self.hidden, self.intermediate
        return {
            "q_proj": (wide, query), "k_proj": (wide, key), "v_proj": (wide, key), "o_proj": (query, wide),
            "gate_proj": (wide, mlp), "up_proj": (wide, mlp), "down_proj": (mlp, wide),
        }  # fmt: skip


def shape_of(settings: ModelSettings) -> ModelShape:
    """Shape of the model that kind `model` takes over or builds. Raises ModelError if it is missing or of another family."""
    if settings.pretrained is None:
        return _tiny(settings)
    family_of(settings.pretrained)
    path = configuration_of(settings.pretrained) / "config.json"
    return parse_config(json.loads(reading.read_text(path)), str(path))


def parse_config(config: dict[str, Any], where: str = "config.json") -> ModelShape:
    """Shape by a config.json, whose language model stands at its top (as first published) or in `text_config`."""
    family, text = config.get("model_type"), {**config, **config.get("text_config", {})}
    if family not in _VISION:
        raise ModelError(f"{where}: model_type {family!r} is none of {', '.join(_VISION)}")
    vision = _VISION[family] | config.get("vision_config", {})
    wide = vision["embed_dim"] if family == "qwen2_vl" else vision["hidden_size"]
    try:
        return ModelShape(
            family=family,
            hidden=text["hidden_size"],
            intermediate=text["intermediate_size"],
            layers=text["num_hidden_layers"],
            heads=text["num_attention_heads"],
            kv_heads=text["num_key_value_heads"],
            head=text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"],
            vocabulary=text["vocab_size"],
            tied=bool(config.get("tie_word_embeddings", False)),
            patch=vision["patch_size"],
            vision_depth=vision["depth"],
            vision_hidden=wide,
            vision_intermediate=int(wide * vision["mlp_ratio"])
            if family == "qwen2_vl"
            else vision["intermediate_size"],
            positions=vision.get("num_position_embeddings", 0),
            deepstack=len(vision.get("deepstack_visual_indexes", ())),
        )
    except KeyError as error:
        raise ModelError(f"{where} has no {error}") from error


def _tiny(settings: ModelSettings) -> ModelShape:
    """Shape of the model that `diagcot.training.models.tiny` builds if the corpus fills the vocabulary."""
    tiny, qwen3 = settings.tiny, settings.family == "qwen3_vl"
    return ModelShape(
        family=settings.family,
        hidden=tiny.hidden,
        intermediate=tiny.intermediate,
        layers=tiny.layers,
        heads=tiny.heads,
        kv_heads=tiny.kv_heads,
        head=tiny.hidden // tiny.heads,
        vocabulary=tiny.vocabulary,
        tied=False,
        patch=16 if qwen3 else 14,
        vision_depth=tiny.vision_depth,
        vision_hidden=tiny.vision_hidden,
        vision_intermediate=2 * tiny.vision_hidden,
        positions=64 if qwen3 else 0,
        deepstack=1 if qwen3 else 0,
    )
