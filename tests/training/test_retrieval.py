"""The retrieval of a real model: each rank as an embedding of one image or report at a time gives it."""

import json
from pathlib import Path

import pytest

from diagcot.jobs import Unit, UserError
from diagcot.jobs.testing import context, run_unit
from tests.unit.evaluation.evaluated_run import write_shard

pytestmark = pytest.mark.heavy
SETTINGS = {"precision": "fp32", "micro_batch": 5}


def test_ranks_follow_from_the_embeddings_of_single_samples(training_root: Path) -> None:
    """Two collections, whose candidates are kept apart; the two images of a study have the same report."""
    import torch
    from torch.nn import functional

    from diagcot.shards import Shard
    from diagcot.tasks.diagnosis import report_samples
    from diagcot.training.kinds import retrieval
    from diagcot.training.models import model

    root = training_root / "shards/test/drawn"
    for place, dataset in enumerate(("mimic_cxr", "iu_xray")):
        write_shard(root / f"{place:05d}.h5", 9, dataset, size=112, seed=place)
    directory = training_root / "shards/test/base"
    inputs = {"models": [str(directory)], "shards": [str(root)]}
    ctx = context(training_root, SETTINGS, inputs=inputs, stage="retrieval")
    unit = Unit("base.retrieval.drawn", {"model": "base", "source": "drawn", "shards": ["00000", "00001"]})
    result = run_unit(retrieval, unit, ctx)
    assert result is not None
    rows = [json.loads(line) for line in (ctx.output / f"{unit.key}.jsonl").read_text().splitlines()]

    network, processor = model.load(directory / "model").eval(), model.load_processor(directory / "model")
    shards = [Shard(root / f"0000{place}.h5") for place in range(2)]
    pairs = [(sample, shard) for shard in shards for sample in report_samples(shard, "drawn.h5", "test")]
    assert result.counts["samples"] == len(rows) == len(pairs) == 2 * 9 * 2  # a frontal and a lateral image
    with torch.no_grad():
        texts, images = [], []
        for sample, shard in pairs:
            ids = processor.tokenizer(sample.answer, return_tensors="pt", add_special_tokens=False)
            texts.append(network.model.language_model(**ids).last_hidden_state[0].mean(0))
            seen = processor.image_processor([shard.pixels(sample.images[0].row)], return_tensors="pt")
            features = network.model.get_image_features(seen["pixel_values"], seen["image_grid_thw"], return_dict=True)
            images.append(torch.cat(list(features.pooler_output)).mean(0))
        reports = torch.stack(texts)
        left = functional.normalize(torch.stack(images) - reports.mean(0), dim=-1)
        right = functional.normalize(reports - reports.mean(0), dim=-1)
    near = left @ right.T
    words = [sample.answer for sample, _ in pairs]
    expected = {}
    for i, (sample, _) in enumerate(pairs):
        own = [j for j, (other, _) in enumerate(pairs) if other.dataset == sample.dataset]
        first = {words[j]: j for j in reversed(own)}
        reports_before = sum(bool(near[i, j] >= near[i, first[words[i]]]) for j in first.values())
        images_before = sum(bool(near[j, i] >= near[i, i]) for j in own if words[j] != words[i])
        expected[sample.id] = reports_before, 1 + images_before
    assert {row["id"]: (row["about"]["report_rank"], row["about"]["image_rank"]) for row in rows} == expected
    assert {row["task"] for row in rows} == {"retrieval"} and {row["model"] for row in rows} == {"base"}
    nearest = {row["id"]: row["answer"] for row in rows}
    assert all(
        (rank[0] == 1) == (nearest[sample.id] == sample.answer) for sample, _ in pairs for rank in [expected[sample.id]]
    )


def test_shards_without_a_test_split_are_named(training_root: Path) -> None:
    from diagcot.shards.writer import ShardWriter
    from diagcot.training.kinds import retrieval

    root = training_root / "shards/test/empty"
    root.mkdir(parents=True, exist_ok=True)
    with ShardWriter(root / "00000.h5"):
        pass
    inputs = {"models": [str(training_root / "shards/test/base")], "shards": [str(root)]}
    unit = Unit("base.retrieval.empty", {"model": "base", "source": "empty", "shards": ["00000"]})
    with pytest.raises(UserError, match="the shards of empty have no report in the test split"):
        run_unit(retrieval, unit, context(training_root, SETTINGS, inputs=inputs, stage="retrieval"))
