"""Two ranks that share packed rows learn what one rank learns of them: loss and every gradient, for each family of models."""

import json
from pathlib import Path
from typing import Any

import pytest

from diagcot.training.config.settings import ModelSettings, TinySettings
from tests.conftest import free_ports
from tests.training import images
from tests.training.ranks import _FORKS

pytestmark = pytest.mark.heavy
FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


def differences_of(plain: Any, shared: Any, rows: Any, batch: dict[str, Any]) -> dict[str, float]:
    """Loss and gradients summed over the ranks, compared with those of the whole batch. A collective."""
    import torch
    import torch.distributed as dist

    from diagcot.training.distributed import process_group
    from diagcot.training.losses import language

    for network in (plain, shared):
        network.zero_grad(set_to_none=True)
    expected = language.summed_loss(plain, language.model_inputs(batch), batch["labels"])
    expected.backward()
    own = rows.own(batch)
    loss = language.summed_loss(shared, language.model_inputs(own), own["labels"])
    loss.backward()
    largest, compared = 0.0, 0
    for (name, mine), (_, whole) in zip(shared.named_parameters(), plain.named_parameters(), strict=True):
        gradient = torch.zeros_like(mine) if mine.grad is None else mine.grad.clone()
        dist.all_reduce(gradient)
        if whole.grad is None:
            assert not gradient.any(), name
            continue
        size = max(1.0, float(whole.grad.abs().max()))
        largest, compared = max(largest, float((gradient - whole.grad).abs().max()) / size), compared + 1
    total, learned = process_group.sum_values([float(loss.detach()), language.learned_tokens(own)])
    return {
        "loss": abs(total / float(expected.detach()) - 1),
        "gradients": largest,
        "compared": compared,
        "own_share": float((loss / expected).detach()),
        "tokens": learned - language.learned_tokens(batch),
        "filled": own["input_ids"].shape[1] - batch["input_ids"].shape[1],
    }


def compare(rank: int, port: int, root: Path) -> None:
    """One of two ranks; rank 0 writes the largest differences of each family, over the size of what they differ from."""
    import copy
    import os

    os.environ |= {"DS_ACCELERATOR": "cpu", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    from diagcot.jobs.testing import context
    from diagcot.training.data.collator import Collator
    from diagcot.training.distributed import engine, process_group
    from diagcot.training.models import model
    from diagcot.training.supervised.sequence_parallel import SharedRows
    from tests.integration.training.test_packing import SAMPLES

    ctx = context(root / str(rank), rank=rank, world_size=2, local_rank=rank, local_world_size=2, cpus=1, attempt="one")
    found: dict[str, dict[str, float]] = {}
    with process_group.connected(ctx):
        for family in FAMILIES:
            plain = model.load(root / family)
            shared = copy.deepcopy(plain)
            engine.recompute_activations(shared)
            collator = Collator(
                model.load_processor(root / family), root, 512, source=images.DrawnImages(), packed=True
            )
            rows = SharedRows(shared, 2, ctx)
            for name, samples in (("images", SAMPLES), ("text", SAMPLES[1:2]), ("both", SAMPLES[:2])):
                row = differences_of(plain, shared, rows, collator(samples))
                found[f"{family}/{name}"] = row
    if rank == 0:
        (root / "found.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def differences(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    from diagcot.training.models import tiny

    root = tmp_path_factory.mktemp("shared")
    texts = [text for row in images.samples(8) for _, text in row.messages]
    sizes = TinySettings(hidden=64, layers=2, vision_hidden=32, intermediate=128, vocabulary=400)
    for family in FAMILIES:
        tiny.build(ModelSettings.model_validate({"family": family, "tiny": sizes}), texts, root / family)
    port = free_ports(1)
    processes = [_FORKS.Process(target=compare, args=(rank, port, root)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
        process.kill()
    assert [process.exitcode for process in processes] == [0, 0]
    found: dict[str, Any] = json.loads((root / "found.json").read_text())
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_shared_rows_give_the_loss_and_gradients_of_whole_rows(
    differences: dict[str, dict[str, float]], family: str
) -> None:
    rows = {name: row for name, row in differences.items() if name.startswith(f"{family}/")}
    for name, row in rows.items():
        assert row["loss"] < 1e-5 and row["gradients"] < 1e-5, name
        assert row["tokens"] == 0 and 0.05 < row["own_share"] < 0.95, name  # both ranks learn a part
    assert rows[f"{family}/images"]["compared"] > 40
    assert rows[f"{family}/images"]["filled"] == 1  # a row of odd length
