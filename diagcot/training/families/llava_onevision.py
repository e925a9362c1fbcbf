"""LLaVA-OneVision: a SigLIP tower over the whole image and over tiles of it, whose rows end in a learned vector."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from diagcot.jobs import ModelError
from diagcot.training.config.settings import ModelSettings
from diagcot.training.families.family import Family, Ids, tiny_side, tiny_text, tiny_vision
from diagcot.training.families.shape import ModelShape, decoder_of, siglip, sizes

if TYPE_CHECKING:
    from diagcot.training.families.prepared_images import ImageSource, PreparedImages

_VISION: Mapping[str, Any] = {
    "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 26,
    "image_size": 384, "patch_size": 14, "vision_use_head": False,
}  # fmt: skip
"""What transformers fills in where a published config.json is silent."""
_TILES = 9  # tiles' worth of visual tokens that an image has at most (`anyres_max_9`)
_PATCH = 14


class LlavaOnevision(Family):
    """LLaVA-OneVision with a Qwen2 as language model."""

    name = "llava_onevision"
    title = "LLaVA-OneVision"
    architecture = "LlavaOnevisionForConditionalGeneration"
    processor_class = "LlavaOnevisionProcessor"
    projector = ("multi_modal_projector", "image_newline")
    image_mark = image_token = "<image>"
    image_words = ("<image>", "<video>")
    image_inputs = ("pixel_values", "image_sizes")
    special_tokens = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>")
    pad_token = "<|endoftext|>"
    end_tokens = ("<|im_end|>",)
    chat_template = (
        "{%- for message in messages -%}"
        "{{- '<|im_start|>' + message.role + ' ' -}}"
        "{%- if message.content is string -%}{{- '\\n' + message.content -}}"
        "{%- else -%}{%- for part in message.content -%}"
        "{%- if part.type in ('image', 'image_url') -%}{{- '<image>' -}}"
        "{%- elif part.type == 'text' -%}{{- '\\n' + part.text -}}{%- endif -%}"
        "{%- endfor -%}{%- endif -%}"
        "{{- '<|im_end|>' -}}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant \\n' -}}{%- endif -%}"
    )

    def shape(self, config: Mapping[str, Any], tiles: int | None = None) -> ModelShape:
        """See `Family.shape`. Raises ModelError for a vision tower that is no SigLIP."""
        vision, text = {**_VISION, **config.get("vision_config", {})}, config.get("text_config", {})
        if vision["model_type"] != _VISION["model_type"]:
            raise ModelError(f"its vision tower is a {vision['model_type']}; supported is {_VISION['model_type']}")
        size = sizes(text)
        tied = bool(config.get("tie_word_embeddings") or text.get("tie_word_embeddings", False))
        wide, hidden = vision["hidden_size"], size["hidden"]
        biases = 2 * hidden * config.get("multimodal_projector_bias", True)
        counts = {
            "vision": siglip(vision, pooled=vision["vision_use_head"]),
            "merger": wide * hidden + hidden**2 + biases + hidden,
            **decoder_of(text, size, tied),
        }
        side = vision["image_size"] // vision["patch_size"]
        return ModelShape(
            family=self.name,
            counts=counts,
            **size,
            tied=tied,
            vision_depth=vision["num_hidden_layers"],
            vision_hidden=wide,
            vision_intermediate=vision["intermediate_size"],
            patches_per_token=1,
            image_tokens=(1 + _TILES) * side**2 + int(_TILES**0.5) * side,
        )

    def tiny(self, settings: ModelSettings, vocabulary: int, ids: Ids) -> dict[str, Any]:
        """See `Family.tiny`."""
        side = _tiny_tile(settings)
        ends = {
            "bos_token_id": ids("<|endoftext|>"),
            "eos_token_id": ids("<|im_end|>"),
            "pad_token_id": ids("<|endoftext|>"),
        }
        rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
        tower = {"model_type": "siglip_vision_model", **tiny_vision(settings.tiny, side, _PATCH)}
        return {
            "text_config": {"model_type": "qwen2", **tiny_text(settings.tiny, vocabulary), **ends, **rope},
            "vision_config": tower,
            "image_grid_pinpoints": _tiny_grids(settings),
            "image_token_index": ids("<image>"),
            "video_token_index": ids("<video>"),
            "tie_word_embeddings": False,
            **ends,
        }

    def processor(self, settings: ModelSettings, tokenizer: Any) -> Any:
        """See `Family.processor`."""
        import transformers

        side = _tiny_tile(settings)
        size = {"height": side, "width": side}
        return transformers.LlavaOnevisionProcessor(
            transformers.LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=_tiny_grids(settings)),
            tokenizer,
            transformers.LlavaOnevisionVideoProcessor(size=size),
            num_image_tokens=(side // _PATCH) ** 2,
            vision_feature_select_strategy="full",
            chat_template=tokenizer.chat_template,
        )

    def images(self, processor: Any, source: "ImageSource", cache_mb: int) -> "PreparedImages":
        """See `Family.images`."""
        from diagcot.training.families.processed_images import ProcessedImages

        class Images(ProcessedImages):
            """Tiles and their rows follow the sides of the image."""

            further = ("image_sizes",)

            def text_of(self, height: int, width: int) -> str:
                """See `ProcessedImages.text_of`."""
                counted = self.processor._get_num_multimodal_tokens(image_sizes=[(height, width)])
                return self._token * int(counted["num_image_tokens"][0])

        return Images(processor, source, cache_mb, self.image_token, _PATCH)


def _tiny_tile(settings: ModelSettings) -> int:
    """Pixels of the side of a tiny model's tiles, of which the largest image has four."""
    return tiny_side(settings, 2 * _PATCH) // 2 // _PATCH * _PATCH


def _tiny_grids(settings: ModelSettings) -> list[list[int]]:
    """Sizes that images of a tiny model are brought to, (rows, columns) in pixels."""
    side = _tiny_tile(settings)
    return [[rows * side, columns * side] for rows in (1, 2) for columns in (1, 2)]
