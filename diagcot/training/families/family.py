"""What the suite has to know of a family of vision-language models.

A family is what transformers calls a `model_type`. Its module says by which names its parameters, tokens and inputs go, and
how a tiny model of it is built. What is true of most families stands here. Nothing heavy is imported: plans read families.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from diagcot.training.config.settings import ModelSettings, TinySettings
from diagcot.training.families.shape import ModelShape

if TYPE_CHECKING:
    from diagcot.training.families.prepared_images import ImageSource, PreparedImages

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
PROJECTIONS = (*ATTENTION, "gate_proj", "up_proj", "down_proj")

Ids = Callable[[str], int]
"""Token -> its id in a vocabulary."""


class Family(ABC):
    """A family of models.

    Of its parts: `vision`, `projector` and `language` are names of modules below the model, `lora_targets` the projections of
    the language model that may get an adapter.

    Of its prompts: the chat template writes `image_mark` where an image stands, and `image_token` is one visual token. A reply
    must contain none of `image_words`, because the model would expect an image there.

    Of its passes: `image_inputs` are the arguments that hold images. `causal`: no token of the language model sees a later one.
    Where that is not so, attention takes a mask, and sequences cannot be packed. `keeps_features`: what a frozen vision tower
    makes of images can be kept (`diagcot.training.models.frozen_tower`). `pixel_budget`: images may be resized to
    a number of pixels; elsewhere the processor gives every image its one size, or tiles of it. `device_sync`: vLLM knows the
    parameters by their names in memory, so that they may travel from GPU to GPU; elsewhere they travel as files. `turned`: ends
    of the names of parameters whose last two dimensions change places in the files of published models. `packages`: those that
    its processor imports, beside transformers.

    Of a tiny model: its special tokens, further tokens that are text, the token that fills rows, the tokens that end a reply,
    and its chat template, laid out as the published models have them.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    architecture: ClassVar[str]
    processor_class: ClassVar[str]

    vision: ClassVar[tuple[str, ...]] = ("vision_tower",)
    projector: ClassVar[tuple[str, ...]] = ("multi_modal_projector",)
    language: ClassVar[str] = "language_model"
    lora_targets: ClassVar[tuple[str, ...]] = PROJECTIONS

    image_mark: ClassVar[str]
    image_token: ClassVar[str]
    image_words: ClassVar[tuple[str, ...]]

    image_inputs: ClassVar[tuple[str, ...]] = ("pixel_values",)
    causal: ClassVar[bool] = True
    keeps_features: ClassVar[bool] = False
    pixel_budget: ClassVar[bool] = False
    device_sync: ClassVar[bool] = False
    turned: ClassVar[tuple[str, ...]] = ()
    packages: ClassVar[tuple[str, ...]] = ()

    special_tokens: ClassVar[tuple[str, ...]]
    text_tokens: ClassVar[tuple[str, ...]] = ()
    pad_token: ClassVar[str]
    end_tokens: ClassVar[tuple[str, ...]]
    named_tokens: ClassVar[Mapping[str, str]] = {}  # attribute of the tokenizer -> token
    chat_template: ClassVar[str]

    @abstractmethod
    def shape(self, config: Mapping[str, Any], tiles: int | None = None) -> ModelShape:
        """Sizes by a config.json. Raises KeyError with the name of one that is missing.

        tiles: most parts that its processor cuts an image into, where it says so.
        """

    @abstractmethod
    def tiny(self, settings: ModelSettings, vocabulary: int, ids: Ids) -> dict[str, Any]:
        """The config.json of a tiny model with random weights."""

    @abstractmethod
    def processor(self, settings: ModelSettings, tokenizer: Any) -> Any:
        """The processor of a tiny model."""

    @abstractmethod
    def images(self, processor: Any, source: "ImageSource", cache_mb: int) -> "PreparedImages":
        """Images of `source` as the model takes them. cache_mb: MiB of host memory for those that are prepared."""

    def sequence_inputs(self, visual: Any) -> dict[str, Any]:
        """Further arguments of a pass. visual (rows, tokens): whether a token is visual."""
        return {}


def tiny_text(tiny: TinySettings, vocabulary: int) -> dict[str, Any]:
    """The sizes of a tiny language model, as they stand in a config.json."""
    return {
        "vocab_size": vocabulary,
        "hidden_size": tiny.hidden,
        "intermediate_size": tiny.intermediate,
        "num_hidden_layers": tiny.layers,
        "num_attention_heads": tiny.heads,
        "num_key_value_heads": tiny.kv_heads,
        "max_position_embeddings": tiny.context,
        "tie_word_embeddings": False,  # a server that reloads weights in place would keep a stale output head
    }


def tiny_vision(tiny: TinySettings, side: int, patch: int) -> dict[str, Any]:
    """The sizes of a tiny SigLIP vision tower for images of `side` pixels."""
    return {
        "hidden_size": tiny.vision_hidden,
        "intermediate_size": 2 * tiny.vision_hidden,
        "num_hidden_layers": tiny.vision_depth,
        "num_attention_heads": tiny.vision_heads,
        "image_size": side,
        "patch_size": patch,
        "vision_use_head": False,
    }


def tiny_side(settings: ModelSettings, step: int) -> int:
    """Pixels of the side of a tiny model's images: the largest multiple of `step` in the pixel budget, else 112 or near it."""
    return max(1, int((settings.max_pixels or 112**2) ** 0.5) // step) * step
