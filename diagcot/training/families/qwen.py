"""Qwen2-VL, Qwen2.5-VL, Qwen3-VL and Qwen3-VL-MoE: any number of patches for an image, positions in three directions."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from diagcot.jobs import ModelError
from diagcot.training.config.settings import ModelSettings
from diagcot.training.families.family import ATTENTION, Family, Ids, tiny_text
from diagcot.training.families.shape import ModelShape, decoder, sizes

if TYPE_CHECKING:
    from diagcot.training.families.prepared_images import ImageSource, PreparedImages

MERGED = 4  # patches that the merger makes one visual token of


class Qwen2VL(Family):
    """Qwen2-VL."""

    name = "qwen2_vl"
    title = "Qwen2-VL"
    architecture = "Qwen2VLForConditionalGeneration"
    processor_class = "Qwen2VLProcessor"
    vision = ("visual",)
    projector = ("merger", "deepstack_merger_list")
    image_mark = image_token = "<|image_pad|>"
    image_words = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
    image_inputs = ("pixel_values", "image_grid_thw")
    keeps_features = True
    pixel_budget = True
    device_sync = True
    special_tokens = (
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|vision_start|>",
        "<|vision_end|>",
        "<|vision_pad|>",
        "<|image_pad|>",
        "<|video_pad|>",
    )
    pad_token = "<|endoftext|>"
    end_tokens = ("<|im_end|>",)
    chat_template = (
        "{%- for message in messages -%}"
        "{{- '<|im_start|>' + message.role + '\\n' -}}"
        "{%- if message.content is string -%}{{- message.content -}}"
        "{%- else -%}{%- for part in message.content -%}"
        "{%- if part.type in ('image', 'image_url') -%}{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}"
        "{%- elif part.type == 'text' -%}{{- part.text -}}{%- endif -%}"
        "{%- endfor -%}{%- endif -%}"
        "{{- '<|im_end|>\\n' -}}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
    )

    patch: ClassVar[int] = 14
    head_norms: ClassVar[bool] = False  # of queries and keys, in place of biases
    defaults: ClassVar[Mapping[str, Any]] = {"depth": 32, "embed_dim": 1280, "mlp_ratio": 4, "patch_size": 14}
    """What transformers fills in where the vision part of a published config.json is silent."""
    video_processor_class: ClassVar[str] = "Qwen2VLVideoProcessor"

    def shape(self, config: Mapping[str, Any], tiles: int | None = None) -> ModelShape:
        """See `Family.shape`. The language model stands at the top of config.json (as first published) or in `text_config`."""
        text: dict[str, Any] = {**config, **config.get("text_config", {})}
        vision = {**self.defaults, **config.get("vision_config", {})}
        size, tied = sizes(text), bool(config.get("tie_word_embeddings", False))
        wide, mlp = self.vision_sizes(vision)
        tower, norm = self.tower(vision, wide, mlp)
        merged = MERGED * wide
        projection = merged**2 + merged + merged * size["hidden"] + size["hidden"]
        deepstack = len(vision.get("deepstack_visual_indexes", ()))
        counts = {
            "vision": tower,
            "merger": norm + projection + deepstack * (2 * merged + projection),
            **decoder(size, tied, biases=not self.head_norms, head_norms=self.head_norms),
        }
        shape = ModelShape(
            family=self.name,
            counts=counts,
            **size,
            tied=tied,
            vision_depth=vision["depth"],
            vision_hidden=wide,
            vision_intermediate=mlp,
            patches_per_token=MERGED,
            token_side=2 * vision["patch_size"],
        )
        return self.with_experts(shape, text)

    def with_experts(self, shape: ModelShape, text: Mapping[str, Any]) -> ModelShape:
        """The shape with experts in place of the layers' MLPs, where the family has them. text: see `sizes`."""
        return shape

    def vision_sizes(self, vision: Mapping[str, Any]) -> tuple[int, int]:
        """Width of the vision tower and of its MLP."""
        return vision["embed_dim"], int(vision["embed_dim"] * vision["mlp_ratio"])

    def tower(self, vision: Mapping[str, Any], wide: int, mlp: int) -> tuple[int, int]:
        """Parameters of the vision tower, and of one of its norms."""
        gated = self.name == "qwen2_5_vl"
        norm = wide if gated else 2 * wide  # RMS norms have no bias
        ends = 3 * wide * mlp + 2 * mlp + wide if gated else 2 * wide * mlp + mlp + wide
        positions = vision.get("num_position_embeddings", 0) * wide
        patches = 3 * 2 * vision["patch_size"] ** 2 * wide + (wide if positions else 0) + positions
        return patches + vision["depth"] * (2 * norm + 4 * wide**2 + 4 * wide + ends), norm

    def tiny(self, settings: ModelSettings, vocabulary: int, ids: Ids) -> dict[str, Any]:
        """See `Family.tiny`."""
        tiny = settings.tiny
        # Rotary frequencies of time, height and width: Qwen's shares 16:24:24 of half a head.
        half = tiny.hidden // tiny.heads // 2
        section = [half - 2 * (half * 3 // 8), half * 3 // 8, half * 3 // 8]
        ends = {
            "bos_token_id": ids("<|endoftext|>"),
            "eos_token_id": ids("<|im_end|>"),
            "pad_token_id": ids("<|endoftext|>"),
        }
        text = tiny_text(tiny, vocabulary) | ends
        text["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": section}
        vision: dict[str, Any] = {"depth": tiny.vision_depth, "num_heads": tiny.vision_heads}
        return {
            "text_config": text,
            "vision_config": vision | {"patch_size": self.patch} | self.tiny_tower(settings),
            "image_token_id": ids("<|image_pad|>"),
            "video_token_id": ids("<|video_pad|>"),
            "vision_start_token_id": ids("<|vision_start|>"),
            "vision_end_token_id": ids("<|vision_end|>"),
            "tie_word_embeddings": False,
            **ends,
        }

    def tiny_tower(self, settings: ModelSettings) -> dict[str, Any]:
        """The sizes of a tiny vision tower that differ between the families."""
        return {"embed_dim": settings.tiny.vision_hidden, "hidden_size": settings.tiny.hidden, "mlp_ratio": 2}

    def processor(self, settings: ModelSettings, tokenizer: Any) -> Any:
        """See `Family.processor`."""
        import transformers

        smallest = settings.min_pixels or (2 * self.patch) ** 2 * 16
        largest = settings.max_pixels or smallest
        options = {
            "size": {"shortest_edge": min(smallest, largest), "longest_edge": largest},
            "patch_size": self.patch,
            "merge_size": 2,
            "temporal_patch_size": 2,
        }
        return getattr(transformers, self.processor_class)(
            image_processor=transformers.Qwen2VLImageProcessor(**options),
            tokenizer=tokenizer,
            video_processor=getattr(transformers, self.video_processor_class)(**options),
            chat_template=tokenizer.chat_template,
        )

    def images(self, processor: Any, source: "ImageSource", cache_mb: int) -> "PreparedImages":
        """See `Family.images`."""
        from diagcot.training.families.qwen_images import QwenImages

        return QwenImages(processor, source, cache_mb)


class Qwen25VL(Qwen2VL):
    """Qwen2.5-VL."""

    name = "qwen2_5_vl"
    title = "Qwen2.5-VL"
    architecture = "Qwen2_5_VLForConditionalGeneration"
    processor_class = "Qwen2_5_VLProcessor"
    defaults: ClassVar[Mapping[str, Any]] = {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "patch_size": 14,
    }

    def vision_sizes(self, vision: Mapping[str, Any]) -> tuple[int, int]:
        """See `Qwen2VL.vision_sizes`."""
        return vision["hidden_size"], vision["intermediate_size"]

    def tiny_tower(self, settings: ModelSettings) -> dict[str, Any]:
        """See `Qwen2VL.tiny_tower`."""
        tiny = settings.tiny
        last = {"fullatt_block_indexes": [tiny.vision_depth - 1], "window_size": 112}
        return {
            "hidden_size": tiny.vision_hidden,
            "intermediate_size": 2 * tiny.vision_hidden,
            "out_hidden_size": tiny.hidden,
        } | (last if self.name == "qwen2_5_vl" else {})


class Qwen3VL(Qwen25VL):
    """Qwen3-VL."""

    name = "qwen3_vl"
    title = "Qwen3-VL"
    architecture = "Qwen3VLForConditionalGeneration"
    processor_class = "Qwen3VLProcessor"
    patch = 16
    head_norms = True
    defaults: ClassVar[Mapping[str, Any]] = {
        "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "patch_size": 16,
        "num_position_embeddings": 2304, "deepstack_visual_indexes": (8, 16, 24),
    }  # fmt: skip
    video_processor_class = "Qwen3VLVideoProcessor"

    def tiny(self, settings: ModelSettings, vocabulary: int, ids: Ids) -> dict[str, Any]:
        """See `Family.tiny`."""
        config = super().tiny(settings, vocabulary, ids)
        config["text_config"] |= {"head_dim": settings.tiny.hidden // settings.tiny.heads}
        return config

    def tiny_tower(self, settings: ModelSettings) -> dict[str, Any]:
        """See `Qwen2VL.tiny_tower`."""
        return super().tiny_tower(settings) | {"num_position_embeddings": 64, "deepstack_visual_indexes": [0]}


class Qwen3VLMoe(Qwen3VL):
    """Qwen3-VL whose layers have a mixture of experts in place of an MLP.

    The projections of a layer's experts are two parameters of three dimensions. Adapters are for the attention alone, and
    the balance of the experts is left as it is: no loss moves it.
    """

    name = "qwen3_vl_moe"
    title = "Qwen3-VL-MoE"
    architecture = "Qwen3VLMoeForConditionalGeneration"
    lora_targets = ATTENTION
    device_sync = False
    turned = (".experts.gate_up_proj", ".experts.down_proj")

    def with_experts(self, shape: ModelShape, text: Mapping[str, Any]) -> ModelShape:
        """See `Qwen2VL.with_experts`. Raises ModelError for sizes that leave open how a file lays out experts."""
        experts, chosen, width = (
            text[name] for name in ("num_experts", "num_experts_per_tok", "moe_intermediate_size")
        )
        if shape.hidden in (width, 2 * width):
            raise ModelError(
                f"moe_intermediate_size {width} at hidden_size {shape.hidden} makes the experts' matrices square: transformers"
                " cannot tell them from turned ones"
            )
        step, dense = text.get("decoder_sparse_step", 1), set(text.get("mlp_only_layers") or ())
        mixed = sum(layer not in dense and not (layer + 1) % step for layer in range(shape.layers))
        expert = 3 * shape.hidden * width
        more = mixed * (experts * (expert + shape.hidden) - 3 * shape.hidden * shape.intermediate)
        return replace(
            shape,
            counts={**shape.counts, "language_model": shape.counts["language_model"] + more},
            intermediate=chosen * width,
            idle=mixed * (experts - chosen) * expert,
        )

    def tiny(self, settings: ModelSettings, vocabulary: int, ids: Ids) -> dict[str, Any]:
        """See `Family.tiny`. Two of four experts for a token, which together are as wide as another family's MLP."""
        config, hidden, width = (
            super().tiny(settings, vocabulary, ids),
            settings.tiny.hidden,
            settings.tiny.intermediate // 2,
        )
        config["text_config"] |= {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": width + 8 * (hidden in (width, 2 * width)),
            "norm_topk_prob": True,  # a server asks for it; transformers always does it
        }
        return config
