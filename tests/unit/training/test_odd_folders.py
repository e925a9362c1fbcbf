"""Folders of models as they are published, of every family: what a tiny model of ours does not have, training and server take."""

import json
from pathlib import Path
from typing import Any

import pytest

from diagcot.tasks.samples import Sample
from diagcot.training.families import FAMILIES
from tests.training import images

SYSTEM = "You are a careful radiologist."
MORE = 28  # rows of the embeddings for which there is no token


@pytest.fixture(scope="module", params=FAMILIES)
def odd(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny model, and its odd twin: more embeddings than tokens, a system prompt of its own, no token for filling rows, and
    older files, which ask for a slow processor."""
    from diagcot.training.config.settings import ModelSettings, TinySettings
    from diagcot.training.models import model, tiny

    root = tmp_path_factory.mktemp(request.param)
    sizes = TinySettings(hidden=64, layers=1, vision_hidden=32, intermediate=96, vocabulary=420)
    texts = [text for sample in images.samples(8) for _, text in sample.messages]
    tiny.build(ModelSettings(family=request.param, tiny=sizes), texts, root / "plain")
    network, processor = model.load(root / "plain"), model.load_processor(root / "plain")
    network.resize_token_embeddings(len(processor.tokenizer) + MORE, mean_resizing=False)
    says = (
        "{%- if messages[0].role != 'system' -%}{%- set messages = [{'role': 'system', 'content': '"
        + SYSTEM
        + "'}] + messages -%}"
    )
    template = says + "{%- endif -%}" + processor.chat_template
    processor.chat_template = processor.tokenizer.chat_template = template
    model.save(network, processor, root / "odd")
    return root / "plain", _older(root / "odd")


def _older(folder: Path) -> Path:
    """The folder without a token for filling rows, and with a processor's files as transformers 4 wrote them."""
    path = folder / "tokenizer_config.json"
    about = json.loads(path.read_text())
    del about["pad_token"]
    path.write_text(json.dumps(about))
    path = folder / "processor_config.json"
    about = json.loads(path.read_text())
    image = about.pop("image_processor") | {"processor_class": about["processor_class"]}
    video = about.pop("video_processor", None)
    (folder / "preprocessor_config.json").write_text(json.dumps(image | {"use_fast": False}))
    if video:
        (folder / "video_preprocessor_config.json").write_text(json.dumps(video))
    path.write_text(json.dumps(about))
    return folder


def collator_of(folder: Path) -> Any:
    from diagcot.training.data.collator import Collator
    from diagcot.training.models import model

    return Collator(model.load_processor(folder), Path(), 512, source=images.DrawnImages())


def test_an_odd_folder_is_taken_over_and_trains_as_its_plain_twin(odd: tuple[Path, Path], tmp_path: Path) -> None:
    import torch

    from diagcot.training.config.settings import ModelSettings
    from diagcot.training.losses import language
    from diagcot.training.models import model

    plain, folder = odd
    name = json.loads((folder / "config.json").read_text())["model_type"]
    model.adopt(ModelSettings(family=name, pretrained=folder), tmp_path / "mine")
    mine, ours = collator_of(tmp_path / "mine"), collator_of(plain)
    network = model.load(tmp_path / "mine")
    rows = network.get_input_embeddings().weight.shape[0]
    assert rows == len(mine.tokenizer) + MORE
    samples = images.samples(2)
    short = Sample("t", "text", "t", (), (("user", "Why?"), ("assistant", "clear .")))
    batch, twin = mine([*samples, short]), ours([*samples, short])
    # The template's own system prompt stands before the first question, once, and is not learned.
    system = ours.tokenizer(SYSTEM, add_special_tokens=False)["input_ids"]
    text = mine.tokenizer.decode(batch["input_ids"][0])
    assert text.count(SYSTEM) == 1 and SYSTEM not in ours.tokenizer.decode(twin["input_ids"][0]) and system
    given = mine.encode(Sample("s", "text", "s", (), (("system", "Be brief."), *short.messages)))
    assert SYSTEM not in mine.tokenizer.decode(given.ids)
    assert [row[row >= 0].tolist() for row in batch["labels"]] == [row[row >= 0].tolist() for row in twin["labels"]]
    torch.testing.assert_close(batch["pixel_values"], twin["pixel_values"], atol=0.02, rtol=0)
    assert mine.tokenizer.pad_token_id is not None and int(batch["input_ids"].max()) < len(mine.tokenizer)
    with torch.no_grad():
        loss = language.summed_loss(network, language.model_inputs(batch), batch["labels"])
    assert bool(torch.isfinite(loss))
