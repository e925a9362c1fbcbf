"""Gemma 3 and MedGemma: a SigLIP tower over images of one size; the visual tokens of an image see each other both ways."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from diagcot.jobs import ModelError
from diagcot.training.config.settings import ModelSettings
from diagcot.training.families.family import Family, Ids, tiny_side, tiny_text, tiny_vision
from diagcot.training.families.shape import ModelShape, decoder, siglip, sizes

if TYPE_CHECKING:
    from diagcot.training.families.prepared_images import ImageSource, PreparedImages

_TEXT: Mapping[str, Any] = {
    "vocab_size": 262_208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
}  # fmt: skip
_VISION: Mapping[str, Any] = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "image_size": 224, "patch_size": 16, "vision_use_head": True,
}  # fmt: skip
"""What transformers fills in where a published config.json is silent."""
_PATCH, _POOL = 14, 2  # of a tiny model: pixels of a patch's side, patches of a side that make one visual token
_WINDOW = 64  # tokens that a tiny model's layers with a sliding window see


class Gemma3(Family):
    """Gemma 3 with images, which MedGemma 4B and 27B are."""

    name = "gemma3"
    title = "Gemma 3, MedGemma"
    architecture = "Gemma3ForConditionalGeneration"
    processor_class = "Gemma3Processor"
    image_mark = "<start_of_image>"
    image_token = "<image_soft_token>"
    image_words = ("<start_of_image>", "<end_of_image>", "<image_soft_token>")
    causal = False
    special_tokens = (
        "<pad>",
        "<eos>",
        "<bos>",
        "<unk>",
        "<start_of_turn>",
        "<end_of_turn>",
        "<start_of_image>",
        "<end_of_image>",
        "<image_soft_token>",
    )
    # The published vocabulary has runs of line breaks as tokens, and servers rely on it around images.
    text_tokens = ("\n", "\n\n", "\n\n\n", "\n\n\n\n")
    pad_token = "<pad>"
    end_tokens = ("<end_of_turn>", "<eos>")
    named_tokens: ClassVar[Mapping[str, str]] = {
        "bos_token": "<bos>",
        "unk_token": "<unk>",
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
    }
    # A system message stands before the first user's, as in the published template.
    chat_template = (
        "{{- bos_token -}}"
        "{%- set first = '' -%}{%- set turns = messages -%}"
        "{%- if messages and messages[0].role == 'system' -%}"
        "{%- set said = messages[0].content -%}"
        "{%- set first = (said if said is string else said[0].text) + '\\n\\n' -%}{%- set turns = messages[1:] -%}"
        "{%- endif -%}"
        "{%- for message in turns -%}"
        "{{- '<start_of_turn>' + ('model' if message.role == 'assistant' else message.role) + '\\n' -}}"
        "{%- if loop.first -%}{{- first -}}{%- endif -%}"
        "{%- if message.content is string -%}{{- message.content | trim -}}"
        "{%- else -%}{%- for part in message.content -%}"
        "{%- if part.type in ('image', 'image_url') -%}{{- '<start_of_image>' -}}"
        "{%- elif part.type == 'text' -%}{{- part.text | trim -}}{%- endif -%}"
        "{%- endfor -%}{%- endif -%}"
        "{{- '<end_of_turn>\\n' -}}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- '<start_of_turn>model\\n' -}}{%- endif -%}"
    )

    def shape(self, config: Mapping[str, Any], tiles: int | None = None) -> ModelShape:
        """See `Family.shape`."""
        vision = {**_VISION, **config.get("vision_config", {})}
        size, tied = sizes({**_TEXT, **config.get("text_config", {})}), bool(config.get("tie_word_embeddings", True))
        tokens = config.get("mm_tokens_per_image", 256)
        counts = {
            "vision": siglip(vision, pooled=vision["vision_use_head"]),
            "merger": vision["hidden_size"] * size["hidden"] + vision["hidden_size"],
            **decoder(size, tied, biases=False, head_norms=True, norms=4),
        }
        return ModelShape(
            family=self.name,
            counts=counts,
            **size,
            tied=tied,
            vision_depth=vision["num_hidden_layers"],
            vision_hidden=vision["hidden_size"],
            vision_intermediate=vision["intermediate_size"],
            patches_per_token=(vision["image_size"] // vision["patch_size"]) ** 2 / tokens,
            image_tokens=tokens,
        )

    def tiny(self, settings: ModelSettings, vocabulary: int, ids: Ids) -> dict[str, Any]:
        """See `Family.tiny`. Input and output embeddings are one matrix, as in all published models."""
        tiny, side = settings.tiny, tiny_side(settings, _PATCH * _POOL)
        head = tiny.hidden // tiny.heads
        ends = {
            "bos_token_id": ids("<bos>"),
            "eos_token_id": [ids(token) for token in self.end_tokens],
            "pad_token_id": ids("<pad>"),
            "tie_word_embeddings": True,
        }
        text = tiny_text(tiny, vocabulary) | ends
        text |= {"head_dim": head, "query_pre_attn_scalar": head, "sliding_window": _WINDOW}
        text["layer_types"] = [
            "full_attention" if layer == tiny.layers - 1 else "sliding_attention" for layer in range(tiny.layers)
        ]
        return {
            "text_config": text,
            "vision_config": tiny_vision(tiny, side, _PATCH),
            "mm_tokens_per_image": _tiny_tokens(settings),
            "boi_token_index": ids("<start_of_image>"),
            "eoi_token_index": ids("<end_of_image>"),
            "image_token_index": ids("<image_soft_token>"),
            **ends,
        }

    def processor(self, settings: ModelSettings, tokenizer: Any) -> Any:
        """See `Family.processor`."""
        import transformers

        side = tiny_side(settings, _PATCH * _POOL)
        return transformers.Gemma3Processor(
            transformers.Gemma3ImageProcessor(size={"height": side, "width": side}, do_pan_and_scan=False),
            tokenizer,
            chat_template=tokenizer.chat_template,
            image_seq_length=_tiny_tokens(settings),
        )

    def images(self, processor: Any, source: "ImageSource", cache_mb: int) -> "PreparedImages":
        """See `Family.images`. Raises ModelError for a processor that also crops images."""
        from diagcot.training.families.processed_images import ProcessedImages

        class Images(ProcessedImages):
            """Every image is resized to one size and has equally many tokens."""

            def text_of(self, height: int, width: int) -> str:
                """See `ProcessedImages.text_of`."""
                return str(self.processor.full_image_sequence)

        if processor.image_processor.do_pan_and_scan:
            raise ModelError(
                "the model's image processor crops images (do_pan_and_scan), which is not supported: set it to false"
            )
        return Images(processor, source, cache_mb, self.image_token, _PATCH)

    def sequence_inputs(self, visual: Any) -> dict[str, Any]:
        """See `Family.sequence_inputs`."""
        return {"token_type_ids": visual.long()}


def _tiny_tokens(settings: ModelSettings) -> int:
    """Visual tokens of a tiny model's image."""
    return (tiny_side(settings, _PATCH * _POOL) // _PATCH // _POOL) ** 2
