"""The windows of Qwen2.5-VL's vision tower: few calls of attention, and what transformers' plain tower computes."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training import images

GRIDS = torch.tensor([[1, 22, 30], [1, 8, 8], [1, 10, 34]])
"""Frames, rows and columns of patches: 12, 1 and 10 windows of at most 8 x 8, of three, one and three lengths."""


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """(ours, transformers' plain one), of two layers of windows and one of whole images."""
    from transformers import AutoModelForImageTextToText

    from diagcot.training.config.settings import ModelSettings, TinySettings
    from diagcot.training.models import model, tiny

    directory: Path = tmp_path_factory.mktemp("windows")
    sizes = TinySettings(hidden=64, layers=1, vision_depth=3, vision_hidden=32, intermediate=64, vocabulary=400)
    tiny.build(ModelSettings(tiny=sizes), [text for row in images.samples(4) for _, text in row.messages], directory)
    plain = AutoModelForImageTextToText.from_pretrained(directory, attn_implementation="eager")
    return model.load(directory).model.visual, plain.model.visual


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(sequences, tokens) of each call of torch's attention."""
    found: list[tuple[int, int]] = []
    real = torch.nn.functional.scaled_dot_product_attention

    def counted(query: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        found.append((query.shape[0], query.shape[2]))
        return real(query, *arguments, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    return found


def test_windows_of_one_length_are_one_call_and_compute_the_same(
    towers: tuple[Any, Any], calls: list[tuple[int, int]]
) -> None:
    from diagcot.training.models import attention

    ours, plain = towers
    pixels = torch.randn(int(GRIDS.prod(1).sum()), 3 * 2 * 14 * 14, generator=torch.Generator().manual_seed(1))
    expected = plain(pixels, grid_thw=GRIDS).pooler_output
    assert not calls
    found = ours(pixels, grid_thw=GRIDS, **attention.of_tower(ours, GRIDS, torch.device("cpu"))).pooler_output
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    of_windows = [(6, 64), (5, 48), (1, 36), (5, 64), (5, 16), (1, 4)]  # of 23 windows
    assert calls == [*of_windows, *of_windows, (1, 660), (1, 64), (1, 340)]
    for tower, made in ((ours, found), (plain, expected)):
        tower.zero_grad()
        (made**2).sum().backward()
    for (name, own), (_, other) in zip(ours.named_parameters(), plain.named_parameters(), strict=True):
        scale = max(1.0, float(other.grad.abs().max()))
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-5, atol=1e-5 * scale, msg=name)
