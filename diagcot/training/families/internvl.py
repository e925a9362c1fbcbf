"""InternVL 2.5, 3 and 3.5 in the form of transformers (`…-hf`): tiles of one size, and the whole image beside them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from diagcot.training.config.settings import ModelSettings
from diagcot.training.families.family import Family, Ids, tiny_side, tiny_text
from diagcot.training.families.shape import ModelShape, decoder_of, sizes

if TYPE_CHECKING:
    from diagcot.training.families.prepared_images import ImageSource, PreparedImages

_VISION: Mapping[str, Any] = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "image_size": (448, 448),
    "patch_size": (14, 14), "attention_bias": False, "use_qk_norm": False, "use_mean_pooling": True,
    "use_mask_token": False, "use_absolute_position_embeddings": True, "norm_type": "layer_norm",
}  # fmt: skip
"""What transformers fills in where a published config.json is silent."""
_TILES = 12  # most tiles of an image, of a processor that does not say so
_PATCH, _TINY_TILES = 14, 4  # of a tiny model


class InternVL(Family):
    """InternVL whose language model is a Qwen2, Qwen3 or Llama."""

    name = "internvl"
    title = "InternVL"
    architecture = "InternVLForConditionalGeneration"
    processor_class = "InternVLProcessor"
    image_mark = image_token = "<IMG_CONTEXT>"
    image_words = ("<img>", "</img>", "<IMG_CONTEXT>", "<video>")
    special_tokens = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>")
    pad_token = "<|endoftext|>"
    end_tokens = ("<|im_end|>",)
    named_tokens: ClassVar[Mapping[str, str]] = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    chat_template = (
        "{%- for message in messages -%}"
        "{{- '<|im_start|>' + message.role + '\\n' -}}"
        "{%- if message.content is string -%}{{- message.content -}}"
        "{%- else -%}{%- for part in message.content -%}"
        "{%- if part.type in ('image', 'image_url') -%}{{- '<IMG_CONTEXT>\\n' -}}"
        "{%- elif part.type == 'text' -%}{{- part.text -}}{%- endif -%}"
        "{%- endfor -%}{%- endif -%}"
        "{{- '<|im_end|>\\n' -}}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
    )

    def shape(self, config: Mapping[str, Any], tiles: int | None = None) -> ModelShape:
        """See `Family.shape`."""
        vision = {**_VISION, **config.get("vision_config", {})}
        text = config.get("text_config", {})
        size, tied = sizes(text), bool(config.get("tie_word_embeddings", True))
        wide, mlp, patches = vision["hidden_size"], vision["intermediate_size"], _patches(vision)
        merged = round(wide / config.get("downsample_ratio", 0.5) ** 2)
        norm = wide if vision["norm_type"] == "rms_norm" else 2 * wide
        projections = 4 * wide**2 + wide + 3 * wide * vision["attention_bias"] + 2 * wide * vision["use_qk_norm"]
        layer = projections + 2 * wide * mlp + mlp + wide + 2 * wide + 2 * norm  # with a scale behind both halves
        start = 3 * _pair(vision["patch_size"])[0] ** 2 * wide + wide + wide * (1 + vision["use_mask_token"])
        places = (patches + 1) * wide * vision["use_absolute_position_embeddings"]
        end = 0 if vision["use_mean_pooling"] else 2 * wide
        hidden, tokens = size["hidden"], config.get("image_seq_length", 256)
        counts = {
            "vision": start + places + vision["num_hidden_layers"] * layer + end,
            "merger": 2 * merged + merged * hidden + hidden + hidden**2 + hidden,
            **decoder_of(text, size, tied),
        }
        tiles = _TILES if tiles is None else tiles
        return ModelShape(
            family=self.name,
            counts=counts,
            **size,
            tied=tied,
            vision_depth=vision["num_hidden_layers"],
            vision_hidden=wide,
            vision_intermediate=mlp,
            patches_per_token=patches / tokens,
            image_tokens=tokens * (tiles + 1 if tiles > 1 else 1),
        )

    def tiny(self, settings: ModelSettings, vocabulary: int, ids: Ids) -> dict[str, Any]:
        """See `Family.tiny`. The language model is a Qwen2."""
        tiny, side = settings.tiny, tiny_side(settings, 2 * _PATCH)
        ends = {
            "bos_token_id": ids("<|endoftext|>"),
            "eos_token_id": ids("<|im_end|>"),
            "pad_token_id": ids("<|endoftext|>"),
        }
        rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
        return {
            "text_config": {"model_type": "qwen2", **tiny_text(tiny, vocabulary), **ends, **rope},
            "vision_config": {
                "hidden_size": tiny.vision_hidden,
                "intermediate_size": 2 * tiny.vision_hidden,
                "num_hidden_layers": tiny.vision_depth,
                "num_attention_heads": tiny.vision_heads,
                "image_size": [side, side],
                "patch_size": [_PATCH, _PATCH],
                "attention_bias": True,
            },
            "image_token_id": ids("<IMG_CONTEXT>"),
            "image_seq_length": _tiny_tokens(settings),
            "tie_word_embeddings": False,
            **ends,
        }

    def processor(self, settings: ModelSettings, tokenizer: Any) -> Any:
        """See `Family.processor`."""
        import transformers

        side = tiny_side(settings, 2 * _PATCH)
        size = {"height": side, "width": side}
        return transformers.InternVLProcessor(
            transformers.GotOcr2ImageProcessor(size=size, max_patches=_TINY_TILES),
            tokenizer,
            transformers.InternVLVideoProcessor(size=size),
            image_seq_length=_tiny_tokens(settings),
            chat_template=tokenizer.chat_template,
        )

    def images(self, processor: Any, source: "ImageSource", cache_mb: int) -> "PreparedImages":
        """See `Family.images`."""
        from diagcot.training.families.processed_images import ProcessedImages

        class Images(ProcessedImages):
            """The number of tiles follows the sides of the image."""

            def text_of(self, height: int, width: int) -> str:
                """See `ProcessedImages.text_of`."""
                tiles = self._image_processor.get_number_of_image_patches(height, width, self._options)
                return str(self.processor.replace_image_token({"num_patches": [tiles]}, 0))

        return Images(processor, source, cache_mb, self.image_token, _PATCH)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _patches(vision: Mapping[str, Any]) -> int:
    """Patches of a tile."""
    (rows, columns), (height, width) = _pair(vision["image_size"]), _pair(vision["patch_size"])
    return (rows // height) * (columns // width)


def _tiny_tokens(settings: ModelSettings) -> int:
    """Visual tokens of a tile of a tiny model."""
    return (tiny_side(settings, 2 * _PATCH) // _PATCH // 2) ** 2
