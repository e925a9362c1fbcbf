"""GRPO measures its prompts before the first step: those that its servers cannot take are left out, or refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from diagcot.jobs import UserError
from diagcot.jobs.testing import context
from diagcot.tasks.samples import Sample
from diagcot.training.config.grpo_settings import GrpoSettings


def sample(name: str, words: int, images: int = 0) -> Sample:
    from diagcot.tasks.samples import ImageRef

    refs = tuple(ImageRef("a.h5", row) for row in range(images))
    text = "<image>" * images + "w" * words  # a token for each letter
    return Sample(name, "report", name, refs, (("user", text), ("assistant", "clear")))


def test_prompts_that_servers_cannot_take_are_counted_before_the_first_step(tmp_path: Path) -> None:
    from diagcot.training.data.collator import Collator
    from diagcot.training.distributed import process_group
    from diagcot.training.kinds.grpo import UNCUT
    from diagcot.training.models import model
    from diagcot.training.rl import curriculum
    from tests.serving import tiny

    processor = model.load_processor(tiny.build(tmp_path / "model"))
    collator = Collator(processor, tmp_path, UNCUT, cache_mb=0)
    own: dict[str, Any] = {"max_tokens": 56, "prompts_per_step": 1, "server": {"max_model_len": 256, "images": 2}}
    settings = GrpoSettings.model_validate(own)
    ctx = context(tmp_path)
    around = len(collator.encode(sample("a", 0)).ids) - collator.encode(sample("a", 0)).learned_tokens
    fits, long = sample("fits", 200 - around), sample("long", 201 - around)
    prompts = [sample("a", 8), fits, long, sample("views", 8, images=3)]
    with process_group.connected(ctx):
        read = curriculum.Curriculum(settings, 7, 4, prompts, [], [sample("b", 8), sample("c", 900)])
        left = curriculum.within_limits(read, ctx, collator)
        assert [one.id for one in left.prompts] == ["a", "fits"] and [one.id for one in left.validation] == ["b"]
        assert left.steps == 2  # an epoch of those that are left
        assert curriculum.within_limits(left, ctx, collator) is left
        (event,) = map(json.loads, (ctx.stage_dir / "events.jsonl").read_text().splitlines())
        assert (event["event"], event["long"], event["images"], event["of"]) == ("prompts_left_out", 2, 1, 6)

        refusing = GrpoSettings.model_validate(own | {"long_prompts": "refuse"})
        for cannot, message in (
            (
                curriculum.Curriculum(refusing, 7, 4, prompts, [], []),
                r"1 prompts have more than the 200 tokens .* max_tokens 56",
            ),
            (curriculum.Curriculum(settings, 7, 4, [long], [], []), "if others are left"),
            (curriculum.Curriculum(settings, 7, 4, [fits], [long], []), "if others are left"),
        ):
            with pytest.raises(UserError, match=message):
                curriculum.within_limits(cannot, ctx, collator)
