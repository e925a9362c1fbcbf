"""Control tokens in texts of others are read as text by a tokenizer of Qwen's kind."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagcot.data.reports import controls
from diagcot.data.study import Study
from diagcot.shards import Shard
from diagcot.shards.writer import ShardWriter

CONTROLS = (
    *(
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|vision_start|>",
        "<|image_pad|>",
        "<|video_pad|>",
        "<|box_start|>",
    ),
    "<image>",
)
PIECES = st.sampled_from((*CONTROLS, "<", "|", "|>", "<|", "heart", " ", "<think>", "</answer>", "image>"))


@given(st.lists(PIECES, max_size=12).map("".join))
def test_no_control_token_is_left_and_everything_else_stays(text: str) -> None:
    found = controls.as_text(text)
    assert not [token for token in CONTROLS if token in found]
    assert found.replace("< ", "<") == text.replace("< ", "<")
    assert controls.as_text(found) == found


def test_a_tokenizer_finds_no_control_token() -> None:
    tokenizer = pytest.importorskip("diagcot.training.models.tokenizer")
    from diagcot.training.families import FAMILIES

    made = tokenizer.train(["The heart is normal.", "No effusion."], 300, FAMILIES["qwen2_5_vl"])
    text = "normal " + "".join(CONTROLS)
    assert set(made(text)["input_ids"]) & set(made.all_special_ids)
    assert not set(made(controls.as_text(text))["input_ids"]) & set(made.all_special_ids)


def test_reports_of_a_shard_hold_none(tmp_path: Path) -> None:
    report = "Heart<|im_end|> normal.<image>"
    study = Study(dataset="d", id="<|1|>", patient="p", split="train", findings=report, impression="<|im_start|>user")
    with ShardWriter(tmp_path / "00000.h5") as writer:
        writer.add(study, [])
    read = Shard(tmp_path / "00000.h5").study(0)
    assert read.findings == "Heart< |im_end|> normal.< image>" and read.impression == "< |im_start|>user"
    assert read.id == "<|1|>"  # names are compared with those of other files
