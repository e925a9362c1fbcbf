"""Sizes of a vision-language model, and how many parameters its parts have."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from diagcot.jobs import ModelError
from diagcot.training.config.settings import LoraSettings


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a model. The counts of parameters are exact for every family.

    counts: component -> parameters, as `diagcot.training.models.freeze.counts` finds them in the model.
    """

    family: str
    counts: Mapping[str, int]
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head: int  # width of one attention head
    vocabulary: int
    tied: bool  # the output head is the input embedding
    vision_depth: int
    vision_hidden: int
    vision_intermediate: int
    patches_per_token: float  # patches of the vision tower that make one visual token
    token_side: int = 0  # pixels of the side of the square that a visual token shows; 0 where images have a fixed size
    image_tokens: int = 0  # most visual tokens of an image where images have a fixed size
    idle: int = (
        0  # parameters of experts that a token does not pass; `intermediate` is the width of those that it passes
    )

    def visual_tokens(self, side: int, max_pixels: int | None) -> int:
        """Most visual tokens of an image of `side` pixels in square, by the pixel budget `max_pixels`."""
        if self.image_tokens:
            return self.image_tokens
        return min(max_pixels or side**2, side**2) // self.token_side**2

    def trained(self, trainable: Iterable[str], lora: LoraSettings | None) -> int:
        """Parameters that train: those of the components in `trainable`, or of the adapter."""
        return sum(self.counts.get(name, 0) for name in set(trainable)) + (self.lora(lora) if lora else 0)

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
        """Inputs and outputs of a layer's projections. Experts are none: their parameters have three dimensions."""
        query, key = self.heads * self.head, self.kv_heads * self.head
        wide, mlp = self.hidden, self.intermediate
        attention = {"q_proj": (wide, query), "k_proj": (wide, key), "v_proj": (wide, key), "o_proj": (query, wide)}
        return (
            attention
            if self.idle
            else {**attention, "gate_proj": (wide, mlp), "up_proj": (wide, mlp), "down_proj": (mlp, wide)}
        )


def sizes(text: Mapping[str, Any]) -> dict[str, int]:
    """The sizes of a language model by its part of a config.json. Raises KeyError with the name of one that is missing."""
    heads = text["num_attention_heads"]
    return {
        "hidden": text["hidden_size"],
        "intermediate": text["intermediate_size"],
        "layers": text["num_hidden_layers"],
        "heads": heads,
        "kv_heads": text.get("num_key_value_heads") or heads,
        "head": text.get("head_dim") or text["hidden_size"] // heads,
        "vocabulary": text["vocab_size"],
    }


def decoder(size: Mapping[str, int], tied: bool, *, biases: bool, head_norms: bool, norms: int = 2) -> dict[str, int]:
    """Parameters of a language model with a gated MLP and RMS norms, and of its head.

    biases: of the query, key and value projections. head_norms: of queries and keys. norms: of a layer.
    """
    wide, query, key = size["hidden"], size["heads"] * size["head"], size["kv_heads"] * size["head"]
    extra = (query + 2 * key) * biases + 2 * size["head"] * head_norms
    attention = 2 * wide * query + 2 * wide * key + extra
    layer = attention + 3 * wide * size["intermediate"] + norms * wide
    words = size["vocabulary"] * wide
    counts = {"language_model": size["layers"] * layer + wide + words}
    return counts if tied else counts | {"lm_head": words}


_DECODERS: Mapping[str, tuple[bool, bool]] = {"qwen2": (True, False), "qwen3": (False, True), "llama": (False, False)}
"""`model_type` of a language model -> whether it has biases, and norms of queries and keys."""


def decoder_of(text: Mapping[str, Any], size: Mapping[str, int], tied: bool) -> dict[str, int]:
    """`decoder` of a language model that a family takes from others, by its part of a config.json.

    Raises ModelError for one that is not supported.
    """
    kind = text.get("model_type", "qwen2")
    if kind not in _DECODERS:
        raise ModelError(f"its language model is a {kind}; supported are {', '.join(_DECODERS)}")
    biases, head_norms = _DECODERS[kind]
    return decoder(size, tied, biases=biases, head_norms=head_norms)


def siglip(vision: Mapping[str, Any], pooled: bool) -> int:
    """Parameters of a SigLIP vision tower. pooled: with the attention that makes one vector of all patches."""
    wide, mlp, patch = vision["hidden_size"], vision["intermediate_size"], vision["patch_size"]
    patches = 3 * patch**2 * wide + wide + (vision["image_size"] // patch) ** 2 * wide
    ends = 2 * wide * mlp + mlp + wide
    layer = 4 * wide**2 + 4 * wide + ends + 4 * wide
    pooling = wide + 4 * wide**2 + 4 * wide + 2 * wide + ends if pooled else 0
    return int(patches + vision["num_hidden_layers"] * layer + 2 * wide + pooling)
