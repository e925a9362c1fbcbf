"""The files of the models that read reports, and what is missing; imports nothing heavy, since the plan uses it."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator


def _settled(path: str | None) -> str | None:
    """Variables are replaced now, since jobs may lack them. An unset one stays and is reported when it is needed."""
    return os.path.expandvars(path) if isinstance(path, str) else path


WeightsFolder = Annotated[Path | None, BeforeValidator(_settled)]
"""The folder with a folder for each model, as a setting."""

_TOKENIZER = ("tokenizer.json", "vocab.txt", "spm.model")  # any of them
_MODEL = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class ModelFiles:
    """A model, by the name of its folder: the files it needs, one of each tuple."""

    files: tuple[tuple[str, ...], ...]
    metrics: str  # what it is for, in words


def _graph(what: str) -> ModelFiles:
    archive = (("config.json",), ("weights.th",), ("vocabulary",))
    return ModelFiles((*archive, ("encoder/config.json",), tuple(f"encoder/{name}" for name in _TOKENIZER)), what)


READERS = {
    "chexbert": ModelFiles((("chexbert.pth",), ("config.json",), _TOKENIZER), "CheXbert F1, SembScore and RadCliQ"),
    "distilroberta-base": ModelFiles(
        (("config.json",), _MODEL, ("tokenizer.json", "vocab.json")), "BERTScore and RadCliQ"
    ),
    "radgraph": _graph("RadGraph F1 and RadCliQ"),
    "radgraph-xl": _graph("RadGraph-XL F1"),
    "ratescore": ModelFiles(
        (
            *(("ner/config.json",), tuple(f"ner/{name}" for name in _MODEL)),
            tuple(f"ner/{name}" for name in _TOKENIZER),
            *(("synonyms/config.json",), tuple(f"synonyms/{name}" for name in _MODEL)),
            tuple(f"synonyms/{name}" for name in _TOKENIZER),
            ("venv/bin/python",),
        ),
        "RaTEScore",
    ),
}
"""Name -> its files. docs/evaluation.md lists where each file comes from."""

GREEN = ModelFiles(
    (
        ("config.json",),
        ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin.index.json"),
        ("prompt.txt",),
    ),
    "GREEN",
)
"""The language model of kind `green`, as downloaded, and its authors' prompt."""


def missing_files(name: str, root: Path | None) -> str | None:
    """Why the model `name` cannot be loaded from the folder of all models; None if it can."""
    if root is None:
        return "no folder of models: set `weights`"
    if "$" in str(root):
        return f"the variable in {root} is not set"
    folder = root / name
    if not folder.is_dir():
        return f"no folder {folder}"
    needed = (GREEN if name == "green" else READERS[name]).files
    absent = [" or ".join(names) for names in needed if not any((folder / file).exists() for file in names)]
    if absent:
        return f"{folder} lacks {', '.join(absent)}"
    return None


def notes(root: Path | None) -> list[str]:
    """One line for the models that are there, and one for each that is not."""
    why = {name: missing_files(name, root) for name in READERS}
    found = [name for name, reason in why.items() if reason is None]
    lines = [f"found {', '.join(found)}"] if found else []
    return lines + [
        f"no {READERS[name].metrics}: {reason} (docs/evaluation.md)" for name, reason in why.items() if reason
    ]
