"""Samples to batches: tokens with the prompt masked, films by reference, and the order of an epoch."""

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diagcot.tasks.samples import Sample
from diagcot.training.data.images import Films, ShardSource, Source

IGNORED = -100  # label of a token that is not learned


@dataclass(frozen=True)
class Encoded:
    """Token ids and labels (IGNORED outside the assistant's turns) of one sample, both int64 of one length."""

    ids: torch.Tensor
    labels: torch.Tensor
    cut: bool = False

    @property
    def targets(self) -> int:
        """Tokens that are predicted and learned."""
        return int((self.labels[1:] != IGNORED).sum())


class Collator:
    """Samples -> input_ids, attention_mask, mm_token_type_ids, labels (samples, tokens), films (samples,): how many each has,
    pixel_values, image_grid_thw.

    Right-padded. The chat template is the model's own; each assistant turn and its end token are learned. The prompt is
    tokenised by itself, as a server does, so that training and generation see the same ids.
    """

    KEPT = 20_000

    def __init__(
        self, processor: Any, shards_root: Path, max_length: int, cache_mb: int = 1024, source: Source | None = None
    ) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.max_length = max_length
        # Where some passes have films and others none, all run the vision tower: ranks that train or gather it must meet.
        self.show_blank = False
        self.films = Films(processor.image_processor, source or ShardSource(shards_root), cache_mb)
        self.image_token = processor.image_token
        self.image_id = self.tokenizer.convert_tokens_to_ids(self.image_token)
        self._known: dict[tuple[str, str], Encoded] = {}  # tokens of the samples met last

    def encode(self, sample: Sample) -> Encoded:
        """Tokens of a sample, cut at `max_length`. Raises ValueError if its prompt alone is longer or films miss."""
        known = self._known.get((sample.task, sample.id))
        if known is not None:
            return known
        ids: list[int] = []
        labels: list[int] = []
        refs = iter(sample.images)
        for text, learned in self._turns(sample):
            piece = self._tokens(text, refs, sample)
            ids += piece
            labels += piece if learned else [IGNORED] * len(piece)
        if next(refs, None) is not None:
            raise ValueError(f"sample {sample.id} has more films than <image> marks")
        cut = len(ids) > self.max_length
        made = Encoded(torch.tensor(ids[: self.max_length]), torch.tensor(labels[: self.max_length]), cut)
        if not made.targets or (cut and self.image_id in ids[self.max_length :]):
            raise ValueError(
                f"sample {sample.id} has a prompt of over max_length {self.max_length} tokens; raise max_length"
                " or lower the pixel budget"
            )
        if len(self._known) >= self.KEPT:
            self._known.pop(next(iter(self._known)), None)
        self._known[sample.task, sample.id] = made
        return made

    def __call__(self, samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
        return self.pad([self.encode(sample) for sample in samples], samples)

    def pad(self, encoded: Sequence[Encoded], samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
        """The batch of sequences that are encoded already, with the films of their samples."""
        width = max(len(one.ids) for one in encoded)
        pad = self.tokenizer.pad_token_id
        ids = torch.full((len(encoded), width), pad, dtype=torch.long)
        labels = torch.full((len(encoded), width), IGNORED, dtype=torch.long)
        mask = torch.zeros((len(encoded), width), dtype=torch.long)
        for row, one in enumerate(encoded):
            size = len(one.ids)
            ids[row, :size] = one.ids
            labels[row, :size] = one.labels
            mask[row, :size] = 1
        films = self.films.batch([ref for sample in samples for ref in sample.images])
        if not films and self.show_blank:
            ids, labels, mask, films = self._blank(ids, labels, mask)
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "mm_token_type_ids": (ids == self.image_id).int(),
            "labels": labels,
            "films": torch.tensor([len(sample.images) for sample in samples]),
            **films,
        }

    def _blank(self, *rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        """The first sequence followed by a blank film that no token sees, the others by padding."""
        films = self.films.blank()
        size = int(films["image_grid_thw"][0].prod()) // int(self.processor.image_processor.merge_size) ** 2
        fills = (self.tokenizer.pad_token_id, IGNORED, 0)
        ids, labels, mask = (torch.cat([t, t.new_full((len(t), size), f)], 1) for t, f in zip(rows, fills, strict=True))
        ids[0, -size:] = self.image_id
        return ids, labels, mask, films

    def _turns(self, sample: Sample) -> Iterator[tuple[str, bool]]:
        """Pieces of the rendered conversation and whether each is learned."""
        messages = [{"role": role, "content": parts_of(text)} for role, text in sample.messages]
        done = ""
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            prompt = self._render(messages[:index], True)
            whole = self._render(messages[: index + 1], False).rstrip("\n")
            if not (prompt.startswith(done) and whole.startswith(prompt)):
                raise ValueError("the model's chat template rewrites earlier turns; it cannot be trained turn by turn")
            yield prompt[len(done) :], False
            yield whole[len(prompt) :], True
            done = whole
        if not done:
            raise ValueError(f"sample {sample.id} has no assistant turn to learn")

    def _render(self, messages: list[dict[str, Any]], prompt: bool) -> str:
        return str(self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt))

    def _tokens(self, text: str, refs: Iterator[Any], sample: Sample) -> list[int]:
        pieces = text.split(self.image_token)
        for index in range(1, len(pieces)):
            ref = next(refs, None)
            if ref is None:
                raise ValueError(f"sample {sample.id} has more <image> marks than films")
            pieces[index] = self.image_token * self.films.tokens(ref) + pieces[index]
        return list(self.tokenizer("".join(pieces), add_special_tokens=False)["input_ids"])


def parts_of(text: str) -> list[dict[str, str]]:
    parts: list[dict[str, str]] = []
    for index, piece in enumerate(text.split("<image>")):
        if index:
            parts.append({"type": "image"})
        if piece:
            parts.append({"type": "text", "text": piece})
    return parts


class Order:
    """Which samples make step k on which rank: a function of seed, lengths and global batch alone.

    Batches hold samples of similar length (sorted within windows of 64 batches), their order is shuffled, and inside a
    batch neighbours in length go to the ranks at the same forward pass. The number of ranks changes only who computes
    what, so other ranks see the same batches. A last incomplete batch is filled from the epoch's start.
    """

    WINDOW = 64

    def __init__(self, lengths: Sequence[int], global_batch: int, micro_batch: int, seed: int) -> None:
        if not lengths:
            raise ValueError("no samples to train on; check the stage's inputs and its `tasks`")
        self.lengths, self.seed = lengths, seed
        self.global_batch, self.micro_batch = global_batch, micro_batch
        self.steps_per_epoch = -(-len(lengths) // global_batch)
        self._epoch: tuple[int, list[list[int]]] = (-1, [])

    def batch(self, step: int) -> list[int]:
        """Sample indices of step `step` (0-based) over all ranks."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = epoch, self._shuffle(epoch)
        return self._epoch[1][position]

    def micro(self, step: int, rank: int, world_size: int) -> list[list[int]]:
        """This rank's forward passes of a step."""
        batch, size = self.batch(step), self.micro_batch
        return [batch[at + rank * size : at + (rank + 1) * size] for at in range(0, len(batch), size * world_size)]

    def _shuffle(self, epoch: int) -> list[list[int]]:
        chance = random.Random(f"{self.seed}/{epoch}")
        order = list(range(len(self.lengths)))
        chance.shuffle(order)
        order += [order[i % len(order)] for i in range(self.steps_per_epoch * self.global_batch - len(order))]
        batches = []
        window = self.global_batch * self.WINDOW
        for start in range(0, len(order), window):
            part = sorted(order[start : start + window], key=lambda index: (self.lengths[index], index))
            batches += [part[at : at + self.global_batch] for at in range(0, len(part), self.global_batch)]
        chance.shuffle(batches)
        return batches


class Prefetch:
    """Makes the batches of coming steps in threads while the model computes the present one.

    Decoding and resizing release the interpreter's lock, so threads do; they also share the cache of films.
    """

    def __init__(self, make: Any, first: int, last: int, ahead: int = 2, threads: int = 1) -> None:
        self._make, self._next, self._last, self._ahead = make, first, last, ahead
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="batches")
        self._waiting: list[Future[Any]] = []

    def __enter__(self) -> "Prefetch":
        self._fill()
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def __next__(self) -> Any:
        """The next step's batches, in order. Raises what making them raised."""
        if not self._waiting:
            raise StopIteration
        made = self._waiting.pop(0).result()
        self._fill()
        return made

    def _fill(self) -> None:
        while self._next < self._last and len(self._waiting) < self._ahead:
            self._waiting.append(self._pool.submit(self._make, self._next))
            self._next += 1
