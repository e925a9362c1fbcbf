"""The contrastive loss: its gradient through cached embeddings, and which pairs are no negatives."""

from typing import Any

import pytest


@pytest.fixture(scope="module")
def torch() -> Any:
    import torch as module

    return module


def whole(torch: Any, films: Any, reports: Any, keys: list[list[int]], log_scale: Any) -> Any:
    """The definition, pair by pair."""
    near = films @ reports.T * log_scale.exp()
    total = 0.0
    for matrix in (near, near.T):
        for i in range(len(keys)):
            others = [
                j for j in range(len(keys)) if j == i or not any(a == b for a, b in zip(keys[i], keys[j], strict=True))
            ]
            total = total + torch.logsumexp(matrix[i, others], 0) - matrix[i, i]
    return total / (2 * len(keys))


@pytest.mark.parametrize("micro", [1, 3, 12])
def test_cached_gradient_is_that_of_the_whole_batch(torch: Any, micro: int) -> None:
    """Whatever part of the batch a forward pass holds; twelve pairs, some alike."""
    from torch.nn import functional as F

    from diagcot.training.losses import contrastive

    torch.manual_seed(3)
    inputs, reports = torch.randn(12, 7), F.normalize(torch.randn(12, 5), dim=-1)
    keys = [[i // 2, i] for i in range(8)] + [[i, -1] for i in range(8, 12)]
    projector = torch.nn.Sequential(torch.nn.Linear(7, 9), torch.nn.GELU(), torch.nn.Linear(9, 5))
    log_scale = torch.nn.Parameter(torch.tensor([2.0]))
    trained = [*projector.parameters(), log_scale]

    def embedded(rows: Any) -> Any:
        return F.normalize(projector(rows), dim=-1)

    expected = whole(torch, embedded(inputs), reports, keys, log_scale)
    wanted = torch.autograd.grad(expected.sum(), trained)

    with torch.no_grad():
        first = torch.cat([embedded(rows) for rows in inputs.split(micro)])
    found = contrastive.slopes(first, reports, torch.tensor(keys), log_scale)
    parts = [found._replace(to_films=rows) for rows in found.to_films.split(micro)]
    passes = len(parts)
    for part, rows in zip(parts, inputs.split(micro), strict=True):
        loss = part.surrogate(embedded(rows), log_scale * 1.0, passes) / passes
        assert float(loss.detach()) * passes == pytest.approx(float(expected), rel=1e-6)
        loss.backward()
    for parameter, gradient in zip(trained, wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-6, rtol=1e-6)


def test_likeness_masks_the_same_words_and_all_normals() -> None:
    from diagcot.training.kinds import align

    normals = ("The heart is normal. The lungs are clear.", "No pneumothorax. No pleural effusion.")
    assert all(align.normal(report) for report in normals)
    for report in ("There is a pleural effusion.", "Possible pneumonia.", "Lungs are clear. A pacemaker is in place."):
        assert not align.normal(report)


def test_recall_counts_distinct_reports(torch: Any) -> None:
    from diagcot.training.losses import contrastive

    reports = torch.eye(12)
    films = torch.eye(12)
    films[1] = reports[0] + 0.5 * reports[1]  # its own report comes second
    found = contrastive.recall(films, reports, list(range(12)))
    assert found == pytest.approx({"recall_at_1": 11 / 12, "recall_at_5": 1.0, "recall_at_10": 1.0, "candidates": 12.0})
    assert contrastive.recall(films, reports, [0, 0, *range(2, 12)])["recall_at_1"] == 1.0
