"""CheXbert (Smit et al. 2020, arXiv:2004.09167): BERT-base and 14 linear heads, read from its published checkpoint."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diagcot.jobs import ModelError
from diagcot.metrics.clinical.batches import batched

HEADS = (
    *("Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation"),
    *("Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices"),
    "No Finding",
)
"""The label of each head. The last has two classes, blank and positive; the others four: see STATED."""
STATED = {1: 1, 2: 0, 3: -1}
"""Class of a head -> the label's value as in CheXpert: positive, negative, uncertain. Class 0 is blank."""

Reading = tuple[dict[str, int], "np.ndarray[Any, np.dtype[np.float32]]"]


class CheXbert:
    """Reads labels and an embedding, the last layer's vector of [CLS], from reports.

    folder: chexbert.pth as published (`model_state_dict`), with config.json and the tokenizer of bert-base-uncased.
    Raises ModelError where the checkpoint is not of that form.
    """

    def __init__(self, folder: Path, device: str) -> None:
        import torch
        from transformers import AutoConfig, AutoTokenizer, BertModel

        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._device = device
        bert = BertModel(AutoConfig.from_pretrained(folder, local_files_only=True))
        heads = torch.nn.ModuleList([torch.nn.Linear(bert.config.hidden_size, 4 if i < 13 else 2) for i in range(14)])
        self._model = torch.nn.ModuleDict({"bert": bert, "linear_heads": heads})
        state = torch.load(folder / "chexbert.pth", map_location="cpu", weights_only=True)["model_state_dict"]
        named = {name.removeprefix("module."): tensor for name, tensor in state.items()}
        named.pop("bert.embeddings.position_ids", None)  # older transformers kept it as a buffer
        try:
            self._model.load_state_dict(named)
        except RuntimeError as error:
            raise ModelError(
                f"{folder}/chexbert.pth does not fit its config.json: {str(error).splitlines()[-1].strip()}"
            ) from None
        self._model.eval().to(device)

    def read(self, texts: Sequence[str]) -> list[Reading]:
        """Label -> 1, 0 or -1 (blank ones are absent), and the embedding, shape (hidden,), of each text."""
        import torch

        ids = [self._tokenizer(text, truncation=True, max_length=512).input_ids for text in texts]
        found: list[Reading] = [({}, np.zeros(0, np.float32))] * len(texts)
        for places, tokens, mask in batched(ids, self._tokenizer.pad_token_id, self._device):
            with torch.inference_mode():
                first = self._model["bert"](tokens, attention_mask=mask).last_hidden_state[:, 0]
                classes = torch.stack([head(first).argmax(-1) for head in self._model["linear_heads"]], -1).cpu()
            for place, row, vector in zip(places, classes.tolist(), first.float().cpu().numpy(), strict=True):
                labels = {name: STATED[said] for name, said in zip(HEADS, row, strict=True) if said}
                found[place] = labels, vector
        return found

    def compare(self, ours: Reading, theirs: Reading) -> dict[str, Any]:
        """Labels of both sides, and the cosine of the embeddings (SembScore of CXR-Report-Metric), -1 to 1."""
        norms = float(np.linalg.norm(ours[1]) * np.linalg.norm(theirs[1]))
        cosine = float(ours[1] @ theirs[1]) / norms if norms else 0.0
        return {"chexbert": [ours[0], theirs[0]], "semb": cosine}
