"""RadGraph (Jain et al. 2021) and RadGraph-XL: the published archives of DyGIE++ models, read with transformers alone.

Spans of up to `max_span_width` words are scored as entities from the vectors of their first and last word and of their
width; pairs of the spans that a scorer of mentions thinks best are scored as relations (Wadden et al. 2019,
arXiv:1909.03546). Propagation over coreference and relations, which the published models do not use, is refused.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diagcot.jobs import ModelError
from diagcot.metrics.clinical.batches import batched
from diagcot.metrics.clinical.graphs import (
    Graph,
    graph_reasoning,
    radcliq_f1,
    radgraph_f1,
    radgraph_words,
    radgraph_xl_words,
)
from diagcot.metrics.reasoning import FIGURES

if TYPE_CHECKING:
    from torch import Tensor

_ENCODER = "_embedder.token_embedder_bert._matched_embedder.transformer_model."
_WIDTHS = "_endpoint_span_extractor._span_width_embedding.weight"
_ROWS = 16  # of pairs of spans scored at once: their vectors are long


class RadGraph:
    """Reads a graph of entities and relations from reports.

    folder: the unpacked archive (config.json, weights.th, vocabulary/), and in encoder/ the config and tokenizer of the
    transformer that config.json names. name: radgraph or radgraph-xl, which differ in how a report is split into words.
    Raises ModelError where the archive is not of that form.
    """

    def __init__(self, folder: Path, device: str, name: str) -> None:
        import torch
        from transformers import AutoConfig, AutoModel, AutoTokenizer

        self._name, self._device = name, device
        self._words = radgraph_words if name == "radgraph" else radgraph_xl_words
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model"]
        modules = config.get("modules", {})
        if any(modules.get(part, {}).get(how) for part, how in (("coref", "coref_prop"), ("relation", "rel_prop"))):
            raise ModelError(f"{folder}/config.json asks for propagation, which is not computed here")
        self._width, self._density = int(config["max_span_width"]), float(modules["relation"]["spans_per_word"])
        most = config["embedder"]["token_embedders"]["bert"].get("max_length")
        encoder = AutoConfig.from_pretrained(folder / "encoder", local_files_only=True)
        self._tokenizer = AutoTokenizer.from_pretrained(folder / "encoder", local_files_only=True)
        self._first, self._last = self._tokenizer("").input_ids
        self._pieces = int(most or encoder.max_position_embeddings) - 2
        state = torch.load(folder / "weights.th", map_location="cpu", weights_only=True)
        self._space = _space(folder, name)
        self._entities = _lines(folder, f"{self._space}__ner_labels")
        self._relations = _lines(folder, f"{self._space}__relation_labels")
        self._encoder = AutoModel.from_config(encoder).eval()
        own = {key.removeprefix(_ENCODER): value for key, value in state.items() if key.startswith(_ENCODER)}
        missing, unknown = self._encoder.load_state_dict(own, strict=False)
        odd = [key for key in (*missing, *unknown) if not key.endswith("position_ids") and "pooler" not in key]
        if odd:
            raise ModelError(f"{folder}/weights.th does not fit encoder/config.json: {odd[0]}")
        self._encoder.to(device)
        self._state = {key: value.to(device) for key, value in state.items() if not key.startswith(_ENCODER)}

    def read(self, texts: Sequence[str]) -> list[Graph]:
        """The graph of each text; an empty one has none, and so scores 0, as in F1RadGraph."""
        import torch

        split = [self._words(text) for text in texts]
        with torch.inference_mode():
            return [
                self._graph(words, vectors) if words else Graph(())
                for words, vectors in zip(split, self._embed(split), strict=True)
            ]

    def compare(self, ours: Graph, theirs: Graph) -> dict[str, float]:
        """F1 of each level under the model's name; RadGraph's own also as RadCliQ takes it."""
        name = self._name.replace("-", "_")
        found = {f"{name}_{level}": score for level, score in radgraph_f1(ours, theirs).items()}
        return found | ({"radgraph_radcliq": radcliq_f1(ours, theirs)} if self._name == "radgraph" else {})

    def reasoning(self, think: Graph, answer: Graph, reference: Graph) -> dict[str, float | None]:
        """The figures of a reasoning under the model's name, 0 to 1; None where the reference has no entity."""
        found = graph_reasoning(think, answer, reference)
        name = self._name.replace("-", "_")
        return {f"{name}_{figure}": None if found is None else getattr(found, figure) for figure in FIGURES}

    def _embed(self, split: Sequence[Sequence[str]]) -> "list[Tensor]":
        """Vectors of the words, (words, hidden): the mean over a word's pieces. What is longer than the transformer
        reads goes through it in several parts, each between its own ends.
        """
        import torch

        pieces = [self._tokenizer(list(words), add_special_tokens=False).input_ids if words else [] for words in split]
        parts: list[list[int]] = []
        mine: list[Sequence[int]] = []
        for words in pieces:
            flat = [piece for word in words for piece in word]
            cut = [flat[at : at + self._pieces] for at in range(0, len(flat), self._pieces)]
            mine.append(range(len(parts), len(parts) + len(cut)))
            parts += [[self._first, *part, self._last] for part in cut]
        vectors: list[Any] = [None] * len(parts)
        for places, tokens, mask in batched(parts, self._tokenizer.pad_token_id or 0, self._device):
            states = self._encoder(tokens, attention_mask=mask).last_hidden_state
            for row, place in enumerate(places):
                vectors[place] = states[row, 1 : len(parts[place]) - 1]
        found = []
        for words, own in zip(pieces, mine, strict=True):
            hidden = self._encoder.config.hidden_size
            flat = torch.cat([vectors[place] for place in own]) if own else torch.zeros(0, hidden, device=self._device)
            sizes = torch.tensor([len(word) for word in words], dtype=torch.long, device=self._device)
            word_of = torch.arange(len(words), device=self._device).repeat_interleave(sizes)
            sums = torch.zeros(len(words), hidden, device=self._device).index_add_(0, word_of, flat)
            found.append(sums / sizes.clamp(min=1)[:, None])
        return found

    def _graph(self, words: Sequence[str], vectors: "Tensor") -> Graph:
        """Entities and relations of one report from the vectors of its words, (words, hidden)."""
        import torch

        spans = [(at, end) for at in range(len(words)) for end in range(at, min(at + self._width, len(words)))]
        ends = torch.tensor(spans, device=self._device)
        widths = self._state[_WIDTHS][ends[:, 1] - ends[:, 0]]
        embedded = torch.cat([vectors[ends[:, 0]], vectors[ends[:, 1]], widths], -1)

        ner = f"_ner._ner_scorers.{self._space}"
        scores = self._linear(f"{ner}__ner_labels.1._module", self._hidden(f"{ner}__ner_labels.0._module", embedded))
        labels = torch.cat([torch.zeros_like(scores[:, :1]), scores], -1).argmax(-1).tolist()
        found = {span: self._entities[label] for span, label in zip(spans, labels, strict=True) if label}
        places = {span: place for place, span in enumerate(found)}
        entities = tuple((" ".join(words[at : end + 1]), label) for (at, end), label in found.items())

        pruner = f"_relation._mention_pruners.{self._space}__relation_labels._scorer"
        mention = self._linear(f"{pruner}.1._module", self._hidden(f"{pruner}.0._module", embedded))[:, 0]
        keep = min(len(spans), max(1, math.ceil(len(words) * self._density)))
        top = mention.topk(keep).indices.sort().values
        kept = [spans[place] for place in top.tolist()]
        relations = []
        for at in range(0, keep, _ROWS):
            best = self._pairs(embedded[top], mention[top], at)
            for source, target in best.nonzero().tolist():
                ends_of = places.get(kept[at + source]), places.get(kept[target])
                if None not in ends_of:
                    relations.append((*ends_of, self._relations[int(best[source, target]) - 1]))
        return Graph(entities, tuple(relations))  # type: ignore[arg-type]

    def _pairs(self, top: "Tensor", mention: "Tensor", at: int) -> "Tensor":
        """The best label, or 0 for none, of the pairs of spans from `at` on with all spans, (rows, spans)."""
        import torch

        rows, spans = top[at : at + _ROWS, None], top[None]
        count, wide = rows.shape[0], (-1, len(top), -1)
        pairs = torch.cat([rows.expand(wide), spans.expand(count, -1, -1), rows * spans], -1)
        part = f"{self._space}__relation_labels"
        hidden = self._hidden(f"_relation._relation_feedforwards.{part}", pairs)
        scores = self._linear(f"_relation._relation_scorers.{part}", hidden)
        scores = scores + (mention[at : at + _ROWS, None, None] + mention[None, :, None])
        return torch.cat([torch.zeros_like(scores[..., :1]), scores], -1).argmax(-1)

    def _hidden(self, name: str, vectors: "Tensor") -> "Tensor":
        """A feed-forward network of as many layers as there are weights."""
        layer = 0
        while f"{name}._linear_layers.{layer}.weight" in self._state:
            vectors = self._linear(f"{name}._linear_layers.{layer}", vectors).relu()
            layer += 1
        return vectors

    def _linear(self, name: str, vectors: "Tensor") -> "Tensor":
        return vectors @ self._state[f"{name}.weight"].T + self._state[f"{name}.bias"]


def _space(folder: Path, name: str) -> str:
    """The data set under whose name the archive keeps its labels."""
    end = "__ner_labels.txt"
    known = [path.name.removesuffix(end) for path in sorted((folder / "vocabulary").glob(f"*{end}"))]
    if name in known or len(known) == 1:
        return name if name in known else known[0]
    raise ModelError(f"{folder}/vocabulary has labels of {', '.join(known) or 'nothing'}, and not of {name}")


def _lines(folder: Path, name: str) -> list[str]:
    return (folder / "vocabulary" / f"{name}.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")
