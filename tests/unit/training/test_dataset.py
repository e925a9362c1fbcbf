"""The samples of a training stage: what is left out of them."""

import json
from pathlib import Path

import pytest

from diagcot.data.errors import DataError
from diagcot.jobs.testing import context
from diagcot.tasks.samples import Sample, write_samples


def conversation(number: int, *answers: str) -> Sample:
    turns = tuple(turn for answer in answers for turn in (("user", f"question {number}"), ("assistant", answer)))
    return Sample(f"text/{number}", "text", f"text/{number}", (), turns)


def test_samples_with_an_empty_answer_are_left_out_and_counted(tmp_path: Path) -> None:
    from diagcot.training.data import dataset

    (tmp_path / "in").mkdir()
    samples = [
        conversation(0, "yes"),
        conversation(1, ""),
        conversation(2, " \n"),
        conversation(3, "yes", ""),
        conversation(4, "no"),
    ]
    write_samples(tmp_path / "in" / "0.jsonl", samples)
    ctx = context(tmp_path, inputs={"samples": [str(tmp_path / "in")]})
    loaded = dataset.load(ctx, {}, 1.0, 0)
    assert [sample.study for sample in loaded.train] == ["text/0", "text/4"]
    assert loaded.needed == {"training samples of the input samples": 5}
    (event,) = (json.loads(line) for line in (ctx.stage_dir / "events.jsonl").read_text().splitlines())
    assert (event["event"], event["samples"], event["of"]) == ("blank_answers", 3, 5)
    write_samples(tmp_path / "in" / "0.jsonl", samples[1:3])
    with pytest.raises(DataError, match="no samples to train on"):
        dataset.load(ctx, {}, 1.0, 0)


def test_samples_that_state_the_validate_split_are_held_out(tmp_path: Path) -> None:
    from diagcot.training.data import dataset

    (tmp_path / "in").mkdir()
    samples = [conversation(n, "yes").with_meta(split="validate" if n < 2 else "train") for n in range(4)]
    write_samples(tmp_path / "in" / "0.jsonl", samples)
    ctx = context(tmp_path, inputs={"samples": [str(tmp_path / "in")]})
    loaded = dataset.load(ctx, {}, 1.0, 5)
    assert [sample.study for sample in loaded.train] == ["text/2", "text/3"]
    assert {sample.study for sample in loaded.validation} == {"text/0", "text/1"}
    assert not dataset.load(ctx, {}, 1.0, 0).validation
