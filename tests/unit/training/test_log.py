"""The figures of a training log: FLOPs against counts by hand, waiting, and lines that a full disk did not take."""

import errno
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from diagcot.metrics import curves

SIZES = {
    "model.visual.blocks.0.weight": 1000,
    "model.visual.merger.weight": 200,
    "model.language_model.embed_tokens.weight": 700,
    "model.language_model.layers.0.weight": 5000,
    "lm_head.weight": 700,
}
TEXT = SimpleNamespace(num_hidden_layers=2, num_attention_heads=4, head_dim=8, hidden_size=32)
ATTENTION = 4 * 2 * 32 * (10**2 + 6**2)


def inputs() -> dict[str, Any]:
    """Two sequences of 10 and 6 tokens; 32 patches, so 8 visual tokens; logits of the last 5 columns."""
    import torch

    return {
        "input_ids": torch.zeros(2, 10),
        "sequence_lengths": torch.tensor([10, 6]),
        "image_patches": torch.tensor([16, 16]),
        "image_tokens": torch.tensor([4, 4]),
        "logits_to_keep": 5,
    }


def net(trained: str, sizes: dict[str, int]) -> Any:
    import torch

    named = [(n, torch.nn.Parameter(torch.zeros(s), requires_grad=trained in n)) for n, s in sizes.items()]
    return SimpleNamespace(config=SimpleNamespace(text_config=TEXT), named_parameters=lambda: iter(named))


@pytest.mark.parametrize(
    ("trained", "expected"),
    [
        ("", 6 * (1000 * 32 + 200 * 8 + 5000 * 16 + 700 * 10) + 3 * ATTENTION),
        # A trained merger: the tower runs forward alone, the language model also passes gradients on.
        ("merger", 2 * 1000 * 32 + 6 * 200 * 8 + 4 * 5000 * 16 + 4 * 700 * 10 + 3 * ATTENTION),
        ("language_model", 2 * 1000 * 32 + 2 * 200 * 8 + 6 * 5000 * 16 + 4 * 700 * 10 + 3 * ATTENTION),
        ("lm_head", 2 * (1000 * 32 + 200 * 8 + 5000 * 16) + 4 * 700 * 10 + ATTENTION),
    ],
)
def test_flops_are_those_that_are_computed(trained: str, expected: float) -> None:
    from diagcot.training.cost import step_flops as flops

    assert flops.StepFlops(net(trained, SIZES)).of(inputs()) == expected


@pytest.mark.parametrize("apart", [("vision",), ("vision", "merger")])
def test_a_tower_apart_counts_when_it_computes(apart: tuple[str, ...]) -> None:
    """Passes over kept features and one pass of the tower, which is forward alone, are the passes with the tower inside."""
    from diagcot.training.cost import step_flops as flops

    runs = [name for name in flops.ALL_COMPONENTS if name not in apart]
    module = net("language_model", SIZES)
    cut = flops.StepFlops(module, runs)
    assert cut.of(inputs()) + cut.of_tower(32) == flops.StepFlops(module).of(inputs())
    assert cut.of_tower(32) == 2 * 1000 * 32 + (2 * 200 * 8 if "merger" in apart else 0)


def test_packed_sequences_take_attention_among_themselves_and_logits_of_learned_tokens_alone() -> None:
    import torch

    from diagcot.training.cost import step_flops as flops

    packed = inputs() | {"input_ids": torch.zeros(1, 16), "logits_to_keep": torch.tensor([8, 9, 15])}
    assert flops.StepFlops(net("", SIZES)).of(packed) == flops.StepFlops(net("", SIZES)).of(inputs()) - 6 * 700 * 7


def test_ranks_that_share_a_pass_count_it_once() -> None:
    import torch

    from diagcot.training.cost import step_flops as flops

    counted = flops.StepFlops(net("language_model", SIZES))
    whole = inputs() | {"input_ids": torch.zeros(1, 16), "logits_to_keep": torch.tensor([8, 9, 15])}
    parts = [whole | {"logits_to_keep": torch.tensor(own)} for own in ([8 - 8, 9 - 8, 15 - 8], [])]
    assert sum(counted.of(part, 2) for part in parts) == counted.of(whole)


def test_tied_embeddings_are_the_head_and_a_part_of_the_model_can_run_alone() -> None:
    from diagcot.training.cost import step_flops as flops

    tied = {name: size for name, size in SIZES.items() if name != "lm_head.weight"}
    assert flops.StepFlops(net("", tied)).of(inputs()) == flops.StepFlops(net("", SIZES)).of(inputs())
    tower = flops.StepFlops(net("merger", SIZES), ("vision", "merger"))
    assert tower.of(inputs()) == 2 * 1000 * 32 + 6 * 200 * 8


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H20", 148e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A800-SXM4-80GB", 312e12),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)
def test_the_peak_is_that_of_the_device_or_unknown(
    name: str, expected: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from diagcot.training.cost import step_flops as flops

    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert flops.peak(torch.device("cuda", 0), "bf16") == expected
    assert flops.peak(torch.device("cuda", 0), "fp32") is None
    assert flops.peak(torch.device("cpu"), "bf16") is None


def test_lines_that_a_full_disk_does_not_take_are_cut_off_whole(tmp_path: Path) -> None:
    from diagcot.training.monitoring import log

    path = tmp_path / "train.jsonl"
    log.append(path, '{"step": 1}\n')
    with pytest.raises(OSError) as caught:
        resource_limit(path, lambda: log.append(path, '{"step": 2, "loss": 0.123456789}\n'))
    assert caught.value.errno in (errno.EFBIG, None)
    assert path.read_text() == '{"step": 1}\n'


def resource_limit(path: Path, call: Any) -> None:
    """Let no file grow by more than ten bytes over what `path` holds (RLIMIT_FSIZE), as a full disk does."""
    import resource
    import signal

    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, before[1]))
    try:
        call()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_log_is_cut_at_the_step_that_training_goes_on_from(tmp_path: Path) -> None:
    from diagcot.training.monitoring import log

    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps({"step": n, "loss": 1 / n}) + "\n" for n in range(1, 6)) + '{"step": 6, "lo')
    log.rewind(path, 3)
    assert curves.read(path) == {"loss": [(1.0, 1.0), (2.0, 0.5), (3.0, 1 / 3)]}
    assert os.listdir(tmp_path) == ["train.jsonl"]
