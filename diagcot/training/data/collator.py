"""Samples to batches: tokens with the prompt masked, and images by reference."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diagcot.tasks.samples import ImageRef, Sample
from diagcot.training.data.images import ShardImages, prepared
from diagcot.training.families import family_by_processor
from diagcot.training.families.prepared_images import ImageSource

IGNORED = -100  # label of a token that is not learned

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class EncodedSample:
    """Token ids and labels (IGNORED outside the assistant's turns) of one sample, both int64 of shape (tokens,)."""

    ids: torch.Tensor
    labels: torch.Tensor
    truncated: bool = False

    @property
    def learned_tokens(self) -> int:
        """Number of tokens that are predicted and learned."""
        return int((self.labels[1:] != IGNORED).sum())


class Collator:
    """Makes batches of samples: padded on the right, or packed, one sequence after the other in a single row.

    A batch holds input_ids and labels (rows, tokens), position_ids (rows, tokens), or (3, rows, tokens) in families whose
    positions have three axes, sequence_lengths (samples,), image_counts (samples,), and, if there are images, what
    `PreparedImages.batch` makes of them. Padding has the label IGNORED, and so has the first token of a sequence.

    The chat template is the model's own; each assistant turn and its end token are learned. The prompt is tokenised
    separately, as a server does, so that training and generation see the same ids.
    """

    CACHED = 20_000  # encoded samples kept in memory

    def __init__(
        self,
        processor: Any,
        shards_root: Path,
        max_length: int,
        cache_mb: int = 1024,
        source: ImageSource | None = None,
        packed: bool = False,
    ) -> None:
        self.processor, self.packed = processor, packed
        self.tokenizer = processor.tokenizer
        self.max_length = max_length
        # Where some passes have images and others none, all run the vision tower: ranks that train or gather it
        # must meet there.
        self.show_blank = False
        self.family = family_by_processor(processor)
        if packed and not self.family.causal:
            raise ValueError(
                f"sequences of {self.family.title} cannot be packed: give micro_batch, not micro_batch_tokens"
            )
        self.images = prepared(processor, source or ShardImages(shards_root), cache_mb)
        self.image_id = self.tokenizer.convert_tokens_to_ids(self.family.image_token)
        self._cache: dict[tuple[object, ...], EncodedSample] = {}

    def encode(self, sample: Sample) -> EncodedSample:
        """Tokens of a sample, cut at `max_length`.

        Raises ValueError if its prompt alone is longer, or if its images and its <image> marks differ in number.
        """
        content = (sample.messages, sample.images)  # two stages may give one id to different conversations
        cached = self._cache.get(content)
        if cached is not None:
            return cached
        ids: list[int] = []
        labels: list[int] = []
        refs = iter(sample.images)
        for text, learned in self._turns(sample):
            tokens = self._tokens(text, refs, sample)
            ids += tokens
            labels += tokens if learned else [IGNORED] * len(tokens)
        if next(refs, None) is not None:
            raise ValueError(f"sample {sample.id} has more images than <image> marks")
        truncated = len(ids) > self.max_length
        encoded = EncodedSample(
            torch.tensor(ids[: self.max_length]), torch.tensor(labels[: self.max_length]), truncated
        )
        if not encoded.learned_tokens or (truncated and self.image_id in ids[self.max_length :]):
            raise ValueError(
                f"sample {sample.id} has a prompt of over max_length {self.max_length} tokens; raise max_length"
                " or lower the pixel budget"
            )
        if len(self._cache) >= self.CACHED:
            self._cache.pop(next(iter(self._cache)), None)
        self._cache[content] = encoded
        return encoded

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """The batch of these samples."""
        return self.join([self.encode(sample) for sample in samples], samples)

    def join(self, encoded: Sequence[EncodedSample], samples: Sequence[Sample]) -> Batch:
        """The batch of sequences that are encoded already, with the images of their samples."""
        images = self.images.batch([ref for sample in samples for ref in sample.images])
        counts = [len(sample.images) for sample in samples]
        ids, labels = [sequence.ids for sequence in encoded], [sequence.labels.clone() for sequence in encoded]
        shown = list(counts)
        if not images and self.show_blank:
            (images, text), shown[0] = self.images.blank(), 1
            blank = ids[0].new_tensor(self._ids(text))
            # Behind the first sequence, where no token sees it.
            ids[0] = torch.cat([ids[0], blank])
            labels[0] = torch.cat([labels[0], labels[0].new_full(blank.shape, IGNORED)])
        for row in labels:
            row[0] = IGNORED
        places = self.images.positions([row == self.image_id for row in ids], images, shown)
        axes = [self._rows([place[axis] for place in places], 0) for axis in range(len(places[0]))]
        input_ids = self._rows(ids, self.tokenizer.pad_token_id)
        return {
            "input_ids": input_ids,
            "position_ids": torch.stack(axes) if len(axes) > 1 else axes[0],
            "labels": self._rows(labels, IGNORED),
            "sequence_lengths": torch.tensor([len(row) for row in ids]),
            "image_counts": torch.tensor(counts),
            **self.family.sequence_inputs(input_ids == self.image_id),
            **images,
        }

    def _rows(self, sequences: Sequence[torch.Tensor], fill: int) -> torch.Tensor:
        """Sequences as the rows of a table, or one after the other in its only row."""
        if self.packed:
            return torch.cat(list(sequences))[None]
        return torch.nn.utils.rnn.pad_sequence(list(sequences), batch_first=True, padding_value=fill)

    def _turns(self, sample: Sample) -> Iterator[tuple[str, bool]]:
        """Pieces of the rendered conversation, and whether each is learned."""
        messages = [{"role": role, "content": message_parts(text)} for role, text in sample.messages]
        rendered = ""
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            prompt = self._render(messages[:index], True)
            turn = self._render(messages[: index + 1], False).rstrip("\n")
            if not (prompt.startswith(rendered) and turn.startswith(prompt)):
                raise ValueError("the model's chat template rewrites earlier turns; it cannot be trained turn by turn")
            yield prompt[len(rendered) :], False
            yield turn[len(prompt) :], True
            rendered = turn
        if not rendered:
            raise ValueError(f"sample {sample.id} has no assistant turn to learn")

    def _render(self, messages: list[dict[str, Any]], prompt: bool) -> str:
        return str(self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt))

    def _tokens(self, text: str, refs: Iterator[ImageRef], sample: Sample) -> list[int]:
        """Ids of a piece, the tokens of an image in the place of its mark."""
        pieces = text.split(self.family.image_mark)
        for index in range(1, len(pieces)):
            ref = next(refs, None)
            if ref is None:
                raise ValueError(f"sample {sample.id} has more <image> marks than images")
            pieces[index] = self.images.text(ref) + pieces[index]
        return self._ids("".join(pieces))

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def message_parts(text: str) -> list[dict[str, str]]:
    """Content parts of a chat message: an image part for each <image> mark, a text part for what lies between."""
    parts: list[dict[str, str]] = []
    for index, piece in enumerate(text.split("<image>")):
        if index:
            parts.append({"type": "image"})
        if piece:
            parts.append({"type": "text", "text": piece})
    return parts
