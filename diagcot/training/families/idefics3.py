"""Idefics3 (Idefics3-8B, the first SmolVLM) and SmolVLM2: tiles in rows and columns with their names, and the whole image."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from diagcot.training.config.settings import ModelSettings
from diagcot.training.families.family import Family, Ids, tiny_side, tiny_text
from diagcot.training.families.shape import ModelShape, decoder_of, siglip, sizes

if TYPE_CHECKING:
    from diagcot.training.families.prepared_images import ImageSource, PreparedImages, Tensors

_VISION: Mapping[str, Any] = {
    "hidden_size": 1152, "intermediate_size": 3072, "num_hidden_layers": 12, "image_size": 224, "patch_size": 32,
}  # fmt: skip
"""What transformers fills in where a published config.json is silent."""
_TILES = 16  # most tiles of an image: 4 x 4, by the published processors' sizes
_PATCH, _SCALE = 14, 2  # of a tiny model: pixels of a patch's side, patches of a side that make one visual token


class Idefics3(Family):
    """Idefics3 with a Llama as language model."""

    name = "idefics3"
    title = "Idefics3, SmolVLM"
    architecture = "Idefics3ForConditionalGeneration"
    processor_class = "Idefics3Processor"
    vision = ("vision_model",)
    projector = ("connector",)
    language = "text_model"
    image_mark = image_token = "<image>"
    image_words = (
        "<image>",
        "<fake_token_around_image>",
        "<global-img>",
        *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
    )
    special_tokens = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<end_of_utterance>", *image_words)
    pad_token = "<|im_end|>"
    end_tokens = ("<end_of_utterance>",)
    named_tokens: ClassVar[Mapping[str, str]] = {"bos_token": "<|im_start|>"}
    chat_template = (
        "{{- '<|im_start|>' -}}"
        "{%- for message in messages -%}"
        "{{- message.role | capitalize + (':' if message.content is not string and"
        " message.content[0].type in ('image', 'image_url') else ': ') -}}"
        "{%- if message.content is string -%}{{- message.content -}}"
        "{%- else -%}{%- for part in message.content -%}"
        "{%- if part.type in ('image', 'image_url') -%}{{- '<image>' -}}"
        "{%- elif part.type == 'text' -%}{{- part.text -}}{%- endif -%}"
        "{%- endfor -%}{%- endif -%}"
        "{{- '<end_of_utterance>\\n' -}}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- 'Assistant:' -}}{%- endif -%}"
    )

    def shape(self, config: Mapping[str, Any], tiles: int | None = None) -> ModelShape:
        """See `Family.shape`."""
        vision = {**_VISION, **config.get("vision_config", {})}
        text = {"model_type": "llama", **config.get("text_config", {})}
        size, tied = sizes(text), bool(config.get("tie_word_embeddings", False))
        wide, scale = vision["hidden_size"], config.get("scale_factor", 2)
        counts = {
            "vision": siglip(vision, pooled=False),
            "merger": wide * scale**2 * size["hidden"],
            **decoder_of(text, size, tied),
        }
        tokens = (vision["image_size"] // vision["patch_size"]) ** 2 // scale**2
        return ModelShape(
            family=self.name,
            counts=counts,
            **size,
            tied=tied,
            vision_depth=vision["num_hidden_layers"],
            vision_hidden=wide,
            vision_intermediate=vision["intermediate_size"],
            patches_per_token=scale**2,
            image_tokens=tokens * (1 + _TILES),
        )

    def tiny(self, settings: ModelSettings, vocabulary: int, ids: Ids) -> dict[str, Any]:
        """See `Family.tiny`."""
        tiny = settings.tiny
        ends = {
            "bos_token_id": ids("<|im_start|>"),
            "eos_token_id": ids("<end_of_utterance>"),
            "pad_token_id": ids("<|im_end|>"),
        }
        rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e5}}
        return {
            "text_config": {"model_type": "llama", **tiny_text(tiny, vocabulary), **ends, **rope},
            "vision_config": {
                "hidden_size": tiny.vision_hidden,
                "intermediate_size": 2 * tiny.vision_hidden,
                "num_hidden_layers": tiny.vision_depth,
                "num_attention_heads": tiny.vision_heads,
                "image_size": _tiny_tile(settings),
                "patch_size": _PATCH,
            },
            "scale_factor": _SCALE,
            "image_token_id": ids("<image>"),
            "tie_word_embeddings": False,
            **ends,
        }

    def processor(self, settings: ModelSettings, tokenizer: Any) -> Any:
        """See `Family.processor`."""
        import transformers

        tile = _tiny_tile(settings)
        images = transformers.Idefics3ImageProcessor(**_tiny_sizes(tile), resample=1)
        return transformers.Idefics3Processor(images, tokenizer, **_tiny_layout(tile, tokenizer))

    def images(self, processor: Any, source: "ImageSource", cache_mb: int) -> "PreparedImages":
        """See `Family.images`."""
        from diagcot.training.families.processed_images import ProcessedImages

        class Images(ProcessedImages):
            """Rows and columns of tiles follow the sides of the image. Every tile is full, so no mask of pixels is needed."""

            def text_of(self, height: int, width: int) -> str:
                """See `ProcessedImages.text_of`."""
                _, rows, columns = self._image_processor.get_number_of_image_patches(height, width, self._options)
                return str(self.processor.replace_image_token({"rows": [[rows]], "cols": [[columns]]}, 0))

            def _joined(self, entries: "Sequence[Tensors]", texts: Sequence[str]) -> "Tensors":
                batch = super()._joined(entries, texts)
                return batch | {"pixel_values": batch["pixel_values"][None]}  # all tiles as those of one sample

        return Images(processor, source, cache_mb, self.image_token, _PATCH)


class SmolVLM2(Idefics3):
    """SmolVLM2, whose images are those of Idefics3. Its processor also takes videos, and imports num2words for them."""

    name = "smolvlm"
    title = "SmolVLM2"
    architecture = "SmolVLMForConditionalGeneration"
    processor_class = "SmolVLMProcessor"
    packages = ("num2words",)

    def processor(self, settings: ModelSettings, tokenizer: Any) -> Any:
        """See `Family.processor`."""
        import transformers

        tile = _tiny_tile(settings)
        images = transformers.SmolVLMImageProcessor(**_tiny_sizes(tile), resample=1)
        videos = transformers.SmolVLMVideoProcessor(**_tiny_sizes(tile))
        return transformers.SmolVLMProcessor(images, tokenizer, videos, **_tiny_layout(tile, tokenizer))


def _tiny_sizes(tile: int) -> dict[str, Any]:
    """Sizes of a tiny model's images and of their tiles, in pixels."""
    return {"size": {"longest_edge": 2 * tile}, "max_image_size": {"longest_edge": tile}}


def _tiny_layout(tile: int, tokenizer: Any) -> dict[str, Any]:
    """Visual tokens of a tile of `tile` pixels in square, and the chat template."""
    return {"image_seq_len": (tile // _PATCH // _SCALE) ** 2, "chat_template": tokenizer.chat_template}


def _tiny_tile(settings: ModelSettings) -> int:
    """Pixels of the side of a tiny model's tiles, of which the largest image has four."""
    step = _PATCH * _SCALE
    return tiny_side(settings, 2 * step) // 2 // step * step
