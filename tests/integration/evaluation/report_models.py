"""Tiny models in the published formats of those that read reports, the same on every machine."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

HIDDEN, WIDTH, FEATURE, FORWARD = 16, 6, 4, 12
WORDS = re.split(
    " ",
    "[PAD] [UNK] [CLS] [SEP] [MASK] the heart is mild ##ly enlarged . , no pleural effusion ##s left right lung base opacity"
    " small large pneumothorax cardio ##megaly with stable and of clear normal size ( ) / 1 2 cm % -",
)
ENTITIES = ("", "Anatomy::definitely present", "Observation::definitely present", "Observation::definitely absent")
RELATIONS = ("modify", "located_at", "suggestive_of")


def numbers(shape: tuple[int, ...], turn: int, scale: float = 1.0) -> Any:
    """Normal numbers from the generator whose stream NumPy has frozen for good."""
    import torch

    return torch.from_numpy(scale * np.random.RandomState(turn).standard_normal(shape)).float()


def settle(model: Any, scale: float) -> Any:
    """Give every parameter its numbers; norms stay near one."""
    for turn, (name, parameter) in enumerate(model.named_parameters(), 1):
        norm, small = "LayerNorm.weight" in name, name.endswith("bias") or "LayerNorm" in name
        parameter.data = numbers(tuple(parameter.shape), turn, 0.1 if small else scale) + (1.0 if norm else 0.0)
    return model


def bert_config(positions: int = 512) -> Any:
    import transformers

    return transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=positions,
    )


def write_vocabulary(folder: Path, words: list[str] = WORDS) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    about = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))


def write_chexbert(root: Path) -> Path:
    """chexbert.pth as published: `model_state_dict` under DataParallel's names, a buffer of old transformers included."""
    import torch
    import transformers

    folder = root / "chexbert"
    write_vocabulary(folder)
    config = bert_config()
    config.save_pretrained(folder)
    state = {
        f"module.bert.{name}": value for name, value in settle(transformers.BertModel(config), 0.7).state_dict().items()
    }
    state["module.bert.embeddings.position_ids"] = torch.arange(512)[None]
    for head in range(14):
        classes = 4 if head < 13 else 2
        state[f"module.linear_heads.{head}.weight"] = numbers((classes, HIDDEN), 40 + head)
        state[f"module.linear_heads.{head}.bias"] = numbers((classes,), 60 + head)
    torch.save({"epoch": 1, "model_state_dict": state, "optimizer_state_dict": {}}, folder / "chexbert.pth")
    return folder


def write_roberta(root: Path) -> Path:
    """A RoBERTa of six layers under the name of distilroberta-base, its words in bytes and a few merges."""
    import transformers
    from tokenizers.pre_tokenizers import ByteLevel

    folder = root / "distilroberta-base"
    folder.mkdir(parents=True, exist_ok=True)
    merges = ["Ġ h", "h e", "e a", "Ġ e", "u r", "n o", "Ġ l", "o n", "Ġ p", "i s"]
    vocabulary = ["<s>", "<pad>", "</s>", "<unk>", *sorted(ByteLevel.alphabet()), *(m.replace(" ", "") for m in merges)]
    (folder / "vocab.json").write_text(
        json.dumps({token: place for place, token in enumerate([*vocabulary, "<mask>"])})
    )
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(merge + "\n" for merge in merges))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "RobertaTokenizer", "model_max_length": 62})
    )
    config = transformers.RobertaConfig(
        vocab_size=len(vocabulary) + 1,
        hidden_size=HIDDEN,
        num_hidden_layers=6,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=66,
        type_vocab_size=1,
    )
    settle(transformers.RobertaModel(config), 0.5).save_pretrained(folder)
    return folder


def write_radgraph(root: Path, name: str, folded: int = 16) -> Path:
    """An archive of DyGIE++ as AllenNLP writes it, unpacked, whose transformer reads `folded` pieces at once."""
    import torch
    import transformers

    folder = root / name
    write_vocabulary(folder / "encoder")
    config = bert_config(64)
    config.save_pretrained(folder / "encoder")
    (folder / "vocabulary").mkdir()
    (folder / "vocabulary" / f"{name}__ner_labels.txt").write_text("\n".join(ENTITIES) + "\n")
    (folder / "vocabulary" / f"{name}__relation_labels.txt").write_text("\n".join(RELATIONS) + "\n")
    (folder / "vocabulary" / "non_padded_namespaces.txt").write_text("*labels\n*tags\n")
    bert = settle(transformers.BertModel(config), 0.6).state_dict()
    prefix = "_embedder.token_embedder_bert._matched_embedder.transformer_model"
    state = {f"{prefix}.{key}": value for key, value in bert.items()}
    span, ner, relation = 2 * HIDDEN + FEATURE, f"{name}__ner_labels", f"{name}__relation_labels"

    def linear(key: str, wide: int, out: int, scale: float = 1.0, bias: float = 0.0) -> None:
        state[f"{key}.weight"] = numbers((out, wide), len(state), scale * 2 / wide**0.5)
        state[f"{key}.bias"] = numbers((out,), len(state), 0.1) + bias

    def forward(key: str, wide: int) -> None:
        linear(f"{key}._linear_layers.0", wide, FORWARD)
        linear(f"{key}._linear_layers.1", FORWARD, FORWARD)

    state["_endpoint_span_extractor._span_width_embedding.weight"] = numbers((WIDTH, FEATURE), 5)
    forward(f"_ner._ner_scorers.{ner}.0._module", span)
    linear(f"_ner._ner_scorers.{ner}.1._module", FORWARD, len(ENTITIES) - 1, 2.0, -1.0)
    forward(f"_relation._mention_pruners.{relation}._scorer.0._module", span)
    linear(f"_relation._mention_pruners.{relation}._scorer.1._module", FORWARD, 1)
    forward(f"_relation._relation_feedforwards.{relation}", 3 * span)
    linear(f"_relation._relation_scorers.{relation}", FORWARD, len(RELATIONS), 3.0, -2.0)
    torch.save(state, folder / "weights.th")
    embedder = {
        "type": "pretrained_transformer_mismatched",
        "model_name": str(folder / "encoder"),
        "max_length": folded,
    }
    modules = {
        "coref": {"spans_per_word": 0.3, "max_antecedents": 100, "coref_prop": 0},
        "ner": {},
        "relation": {"spans_per_word": 0.5},
        "events": {"trigger_spans_per_word": 0.3, "argument_spans_per_word": 0.8, "loss_weights": {}},
    }
    model = {
        "type": "dygie",
        "embedder": {"token_embedders": {"bert": embedder}},
        "initializer": {},
        "module_initializer": {},
        "modules": modules,
        "feature_size": FEATURE,
        "max_span_width": WIDTH,
        "target_task": "relation",
        "feedforward_params": {"num_layers": 2, "hidden_dims": FORWARD, "dropout": 0.4},
        "loss_weights": {"ner": 0.2, "relation": 1.0, "coref": 0.0, "events": 0.0},
    }
    reader = {"type": "dygie", "max_span_width": WIDTH, "token_indexers": {"bert": embedder}}
    (folder / "config.json").write_text(json.dumps({"dataset_reader": reader, "vocabulary": {}, "model": model}))
    return folder


def write_ratescore(root: Path, python: str) -> Path:
    """A token classifier and an encoder as RaTEScore loads them, and the Python that has the package."""
    import transformers

    folder = root / "ratescore"
    for part in ("ner", "synonyms"):
        write_vocabulary(folder / part)
    kinds = ("ABNORMALITY", "NON-ABNORMALITY", "DISEASE", "NON-DISEASE", "ANATOMY")
    names = ["O", *(f"{place}-{kind}" for kind in kinds for place in "BI")]
    config = bert_config()
    config.id2label = dict(enumerate(names))
    config.label2id = {name: place for place, name in enumerate(names)}
    settle(transformers.BertForTokenClassification(config), 0.7).save_pretrained(folder / "ner")
    settle(transformers.BertModel(bert_config()), 0.7).save_pretrained(folder / "synonyms")
    (folder / "venv/bin").mkdir(parents=True)
    (folder / "venv/bin/python").symlink_to(python)
    return folder
