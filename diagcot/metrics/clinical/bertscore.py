"""BERTScore (Zhang et al. 2020, arXiv:1904.09675) as RadCliQ's authors have it: distilroberta-base, layer 5, no idf,
rescaled by the baseline of bert-score 0.3.13 for English.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diagcot.metrics.clinical.batches import batched

if TYPE_CHECKING:
    from torch import Tensor

LAYER = 5
BASELINE = 0.8473319  # F of unrelated sentences at that layer: rescale_baseline/en/distilroberta-base.tsv

Reading = tuple["Tensor", int]


class BertScore:
    """Embeds the tokens of reports, and matches them greedily by cosine.

    folder: distilroberta-base as downloaded.
    """

    def __init__(self, folder: Path, device: str) -> None:
        from transformers import AutoModel, AutoTokenizer

        # bert-score gives RoBERTa a blank before the first word, as before every other.
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, add_prefix_space=True)
        self._model = AutoModel.from_pretrained(folder, local_files_only=True, output_hidden_states=True)
        self._model.eval().to(device)
        self._device = device
        self._ends = self._tokenizer("").input_ids

    def read(self, texts: Sequence[str]) -> list[Reading]:
        """Unit vectors of the tokens, (tokens, hidden), and how many of them are the text's own: the first and the
        last stand for its ends.
        """
        import torch

        clean = [re.sub(" +", " ", text).strip() for text in texts]
        most = min(self._tokenizer.model_max_length, 512)
        ids = [self._tokenizer(text, truncation=True, max_length=most).input_ids for text in clean]
        found: list[Any] = [None] * len(texts)
        for places, tokens, mask in batched(ids, self._tokenizer.pad_token_id, self._device):
            with torch.inference_mode():
                states = self._model(tokens, attention_mask=mask).hidden_states[LAYER]
                vectors = torch.nn.functional.normalize(states.float(), dim=-1)
            for row, place in enumerate(places):
                found[place] = vectors[row, : len(ids[place])], len(ids[place]) - len(self._ends)
        return found

    def compare(self, ours: Reading, theirs: Reading) -> dict[str, float]:
        """F after rescaling: 1 for equal texts, about 0 for unrelated ones. An empty text has F 0 before it."""
        score = f_of(*ours, *theirs)
        return {"bertscore": (score - BASELINE) / (1 - BASELINE)}


def f_of(ours: "Tensor", own: int, theirs: "Tensor", their: int) -> float:
    """F of unit vectors (tokens, hidden). The ends of a text may be matched, but are not themselves counted."""
    if not own or not their:
        return 0.0
    cosines = ours @ theirs.T
    precision = float(cosines.max(1).values[1:-1].mean())
    recall = float(cosines.max(0).values[1:-1].mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
