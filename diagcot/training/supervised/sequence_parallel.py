"""Sequence parallelism: the ranks of a group share the tokens of each pass (DeepSpeed Ulysses, arXiv:2309.14509).

All ranks of a group get the same packed row. Each embeds the whole of it, with its images, and computes the layers of the
language model for its own part of the tokens. Inside attention the ranks exchange tokens for heads: each attends with its
share of the heads over the whole row. A rank learns the tokens that its part predicts, so the ranks' gradients add up to those
of the row.

DeepSpeed's own entry for transformers (UlyssesSPAttentionHF.register_with_transformers) takes the place of an attention by its
name, which the vision towers use too, and cuts token ids, between which the images' embeddings would no longer find their
places. Here the embeddings are cut, and DeepSpeed's exchange (DistributedAttention) runs in the language model alone.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch.nn import functional

from diagcot.jobs import Context, UserError
from diagcot.training.data.collator import IGNORED, Batch
from diagcot.training.models import attention


class SharedRows:
    """The group of ranks that share passes with this one. Creating it is a collective of all ranks.

    The network's language model computes from now on this rank's part of a row, which batches must be made for by `own`.
    """

    def __init__(self, network: Any, ranks: int, ctx: Context) -> None:
        """ranks: of a group, neighbours in rank. Raises UserError unless they divide the heads of keys and values."""
        from deepspeed.sequence.layer import DistributedAttention

        language = attention.language_of(network)
        if language.config.num_key_value_heads % ranks:
            raise UserError(
                f"deepspeed.sequence_parallel {ranks} does not divide the model's {language.config.num_key_value_heads} heads of"
                " keys and values: choose a divisor of that number"
            )
        groups = [dist.new_group(list(range(at, at + ranks))) for at in range(0, ctx.world_size, ranks)]
        self._ranks, self._place = ranks, ctx.rank % ranks
        self._exchanged = DistributedAttention(_attended, groups[ctx.rank // ranks], scatter_idx=2, gather_idx=1)
        language.config._attn_implementation = attention.BY_SEQUENCE  # FlashAttention of transformers exchanges nothing
        language.register_forward_pre_hook(self._cut, with_kwargs=True)

    def own(self, batch: Batch) -> Batch:
        """The batch of one row for this rank: the row filled up to a multiple of the ranks, and the labels of its part.

        `part_start` (scalar) is the first token of the part.
        """
        ids, labels = batch["input_ids"], batch["labels"]
        if missing := -ids.shape[1] % self._ranks:
            batch = batch | {
                "input_ids": torch.cat([ids, ids[:, :1].expand(-1, missing)], 1),
                "position_ids": functional.pad(batch["position_ids"], (0, missing)),
                "sequence_lengths": torch.cat([batch["sequence_lengths"], torch.tensor([missing])]),
            }
            labels = functional.pad(labels, (0, missing), value=IGNORED)
        part = self._part(labels.shape[1])
        learned = torch.full_like(labels, IGNORED)
        learned[:, part.start + 1 : part.stop + 1] = labels[:, part.start + 1 : part.stop + 1]
        return {**batch, "labels": learned, "part_start": torch.tensor(part.start)}

    def _part(self, tokens: int) -> slice:
        size = tokens // self._ranks
        return slice(self._place * size, (self._place + 1) * size)

    def _cut(self, module: torch.nn.Module, arguments: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The arguments of the language model for this rank's part of the row."""
        part = self._part(options["inputs_embeds"].shape[1])
        options = options | {
            "inputs_embeds": options["inputs_embeds"][:, part],
            "position_ids": options["position_ids"][..., part],
            "exchange": self._exchange,
        }
        places = options.get("visual_pos_masks")
        if places is not None and options.get("deepstack_visual_embeds") is not None:  # of Qwen3-VL
            first, count = int(places[:, : part.start].sum()), int(places[:, part].sum())
            rows = [row[first : first + count] for row in options["deepstack_visual_embeds"]]
            options |= {"visual_pos_masks": places[:, part], "deepstack_visual_embeds": rows}
        return arguments, options

    def _exchange(self, attend: "Attend", *states: torch.Tensor) -> torch.Tensor:
        """`attend` with this rank's heads over all tokens of the row.

        states: query, key and value of this rank's tokens, (rows, heads, tokens, width). Returns (rows, tokens, heads, width).
        """
        made: torch.Tensor = self._exchanged(*(state.transpose(1, 2) for state in states), 0, None, attend)
        return made


Attend = Callable[..., torch.Tensor]


def _attended(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attend: Attend) -> torch.Tensor:
    """`attend` over states (rows, tokens, heads, width)."""
    return attend(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
