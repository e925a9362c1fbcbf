"""The contrastive loss: its gradient through cached embeddings, and which pairs are not negatives."""

from typing import Any

import pytest


@pytest.fixture(scope="module")
def torch() -> Any:
    import torch as module

    return module


def by_definition(torch: Any, images: Any, reports: Any, keys: list[list[int]], log_scale: Any) -> Any:
    """The loss of the whole batch, pair by pair."""
    similarity = images @ reports.T * log_scale.exp()
    total = 0.0
    for matrix in (similarity, similarity.T):
        for i in range(len(keys)):
            others = [
                j for j in range(len(keys)) if j == i or not any(a == b for a, b in zip(keys[i], keys[j], strict=True))
            ]
            total = total + torch.logsumexp(matrix[i, others], 0) - matrix[i, i]
    return total / (2 * len(keys))


@pytest.mark.parametrize("micro", [1, 3, 12])
def test_cached_gradient_is_that_of_the_whole_batch(torch: Any, micro: int) -> None:
    """Whatever part of the batch a forward pass holds; twelve pairs, some alike."""
    from torch.nn import functional

    from diagcot.training.losses import contrastive

    torch.manual_seed(3)
    inputs, reports = torch.randn(12, 7), functional.normalize(torch.randn(12, 5), dim=-1)
    keys = [[i // 2, i] for i in range(8)] + [[i, -1] for i in range(8, 12)]
    projector = torch.nn.Sequential(torch.nn.Linear(7, 9), torch.nn.GELU(), torch.nn.Linear(9, 5))
    log_scale = torch.nn.Parameter(torch.tensor([2.0]))
    trained = [*projector.parameters(), log_scale]

    def embedded(rows: Any) -> Any:
        return functional.normalize(projector(rows), dim=-1)

    loss = by_definition(torch, embedded(inputs), reports, keys, log_scale)
    expected = torch.autograd.grad(loss.sum(), trained)

    with torch.no_grad():
        first = torch.cat([embedded(rows) for rows in inputs.split(micro)])
    gradients = contrastive.cached_gradients(first, reports, torch.tensor(keys), log_scale)
    parts = [gradients._replace(image_gradient=rows) for rows in gradients.image_gradient.split(micro)]
    passes = len(parts)
    for part, rows in zip(parts, inputs.split(micro), strict=True):
        share = part.surrogate(embedded(rows), log_scale * 1.0, passes) / passes
        assert float(share.detach()) * passes == pytest.approx(float(loss.detach()), rel=1e-6)
        share.backward()
    for parameter, gradient in zip(trained, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-6, rtol=1e-6)


def test_normal_reports_are_those_without_a_finding() -> None:
    from diagcot.training.supervised import reports

    normals = ("The heart is normal. The lungs are clear.", "No pneumothorax. No pleural effusion.")
    assert all(reports.is_normal(report) for report in normals)
    for report in ("There is a pleural effusion.", "Possible pneumonia.", "Lungs are clear. A pacemaker is in place."):
        assert not reports.is_normal(report)


def test_recall_counts_distinct_reports(torch: Any) -> None:
    from diagcot.training.losses import contrastive

    reports = torch.eye(12)
    images = torch.eye(12)
    images[1] = reports[0] + 0.5 * reports[1]  # its own report comes second
    recall = contrastive.retrieval_recall(images, reports, list(range(12)))
    expected = {"recall_at_1": 11 / 12, "recall_at_5": 1.0, "recall_at_10": 1.0, "candidates": 12.0}
    assert recall == pytest.approx(expected)
    assert contrastive.retrieval_recall(images, reports, [0, 0, *range(2, 12)])["recall_at_1"] == 1.0


def test_ranks_are_those_of_a_count_over_all_candidates(torch: Any) -> None:
    """Thirty pairs, some of the same words."""
    from torch.nn import functional

    from diagcot.training.losses import contrastive

    torch.manual_seed(5)
    keys = [i // 2 if i < 8 else i for i in range(30)]
    images, reports = (functional.normalize(torch.randn(30, 6), dim=-1) for _ in range(2))
    reports = torch.stack([reports[keys.index(key)] for key in keys])
    found = contrastive.retrieve(images, reports, keys)
    near = (images @ reports.T).tolist()
    for i, key in enumerate(keys):
        by_words = {keys[j]: near[i][j] for j in range(30)}
        assert found.report_ranks[i] == sum(value >= by_words[key] for value in by_words.values())
        assert found.image_ranks[i] == 1 + sum(near[j][i] >= near[i][i] for j in range(30) if keys[j] != key)
        assert keys[found.nearest[i]] == max(by_words, key=lambda word: by_words[word])


def test_an_embedding_that_is_always_the_same_finds_nothing(torch: Any) -> None:
    from diagcot.training.losses import contrastive

    constant = torch.ones(12, 4) / 2
    found = contrastive.retrieve(constant, constant, [0, 0, *range(2, 12)])
    assert found.report_ranks.tolist() == [11] * 12 and found.image_ranks.tolist() == [11] * 2 + [12] * 10


@pytest.mark.parametrize("count", [0, 1, 5, 8, 9])
def test_every_item_is_in_one_share_and_all_ranks_make_as_many_passes(count: int, tmp_path: Any) -> None:
    from diagcot.jobs.testing import context
    from diagcot.training.supervised import reports

    shares = [reports.shares(count, 2, context(tmp_path, rank=rank, world_size=2)) for rank in (0, 1)]
    assert len(shares[0]) == len(shares[1])
    assert sorted(index for rank in shares for own in rank for index in own) == list(range(count))
