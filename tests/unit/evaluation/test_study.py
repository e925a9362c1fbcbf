"""A study: what follows from differences on seeds, and a whole study of made-up answers whose verdicts are known."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diagcot.evaluation.study import study
from diagcot.evaluation.study.claims import Pair, over_seeds, weigh
from diagcot.jobs import Unit, UserError
from diagcot.jobs.state.counts import nothing_of
from diagcot.jobs.testing import context, run_unit
from diagcot.metrics.intervals import Bootstrap, Interval, mean
from diagcot.tasks.predictions import Prediction

SAMPLES = 60


def pair(gain: float, noise: float = 0.05, seed: int = 0) -> Pair:
    """Two models on 60 studies whose scores differ by exactly `gain` in the mean."""
    own = np.random.default_rng(seed).normal(0, noise, SAMPLES)
    than = np.random.default_rng(seed + 1).random(SAMPLES)
    return Pair(Bootstrap([str(i) for i in range(SAMPLES)]), mean(than + gain + own - own.mean()), mean(than))


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [
        ((0.1, 0.12, 0.09), "holds"),
        ((-0.1, -0.12, -0.09), "does not hold"),
        ((0.1, 0.12, -0.02), "not decided"),  # one seed says otherwise
        ((0.06, 0.3, 0.9), "holds"),  # the seeds differ, but each is better beyond the noise of its studies
        ((0.01, 0.3, 0.9), "not decided"),  # they differ, and one is not
        ((0.004, 0.0041, 0.0042), "holds"),  # each within the noise of its studies, and all alike
        ((0.2,), "holds"),
        ((0.001,), "not decided"),
    ],
)
def test_a_claim_needs_every_seed_or_a_mean_beyond_its_interval(gains: tuple[float, ...], verdict: str) -> None:
    found = weigh([pair(gain, seed=10 * place) for place, gain in enumerate(gains)], low=False)
    assert [one.value for one in found.seeds] == pytest.approx(gains)
    assert found.mean.value == pytest.approx(np.mean(gains)) and found.verdict == verdict


def test_where_less_is_better_the_differences_are_turned_round() -> None:
    pairs = [pair(-0.1 - 0.01 * place, seed=place) for place in range(3)]
    up, down = weigh(pairs, low=False), weigh(pairs, low=True)
    assert (up.verdict, down.verdict) == ("does not hold", "holds")
    for one, other in zip((*up.seeds, up.mean), (*down.seeds, down.mean), strict=True):
        assert (other.value, other.low, other.high) == pytest.approx((-one.value, -one.high, -one.low))


def test_the_interval_of_the_mean_is_the_textbook_one() -> None:
    """Mean 2, standard deviation 1, three values: 2 ± 4.303 / sqrt(3)."""
    found = over_seeds([Interval(value, value - 9, value + 9) for value in (1.0, 2.0, 3.0)])
    assert (found.value, found.low, found.high) == pytest.approx((2, 2 - 2.484, 2 + 2.484), abs=1e-3)
    alone = Interval(1.0, 0.5, 1.6)
    assert over_seeds([alone]) == alone


def rows(model: str, seed: int, hits: float, samples: int = 200) -> list[dict[str, Any]]:
    """Ranks of a model: the first `hits` of the samples, shuffled by the seed, have rank 1."""
    order = np.random.default_rng(seed).permutation(samples)
    found = []
    for n in range(samples):
        rank = 1 if order[n] < round(hits * samples) else 50
        words: dict[str, Any] = {"output": "a", "answer": "a", "reference": "b", "finish": "stop"}
        keys: dict[str, Any] = {
            "id": f"d/{n}",
            "study": f"d/{n}",
            "task": "retrieval",
            "dataset": "d",
            "model": f"{model}-{seed}",
        }
        about = {"report_rank": rank, "image_rank": rank}
        found.append(Prediction(**keys, **words, phantom=True, images=[], about=about).row())
    return found


CLAIMS = [
    {"text": "Alignment helps.", "column": "retrieval_recall_1", "better": "align", "than": "base"},
    {"text": "Less alignment helps more.", "column": "retrieval_recall_1", "better": "base", "than": "align"},
    {"text": "Nothing changes it.", "column": "retrieval_recall_1", "better": "later", "than": "align"},
    {"text": "Reports are better.", "column": "bleu4", "better": "align", "than": "base"},
]
RECALL = {"base": (0.1, 0.12, 0.08), "align": (0.5, 0.6, 0.4), "later": (0.52, 0.55, 0.41)}


def write(root: Path, recall: Mapping[str, tuple[float, ...]]) -> Any:
    folder = root / "shards" / "test" / "retrieval"
    folder.mkdir(parents=True)
    for model, values in recall.items():
        for seed, value in zip((7, 8, 9), values, strict=True):
            lines = [json.dumps(row) for row in rows(model, seed, value)]
            (folder / f"{model}-{seed}.jsonl").write_text("\n".join(lines) + "\n")
    logs = root / "logs" / "test"
    settings = {"claims": CLAIMS, "seeds": [7, 8, 9]}
    inputs = {"predictions": [str(folder)]}
    return context(root, settings, stage="study", output=logs, stage_dir=logs / "study", inputs=inputs)


def test_a_study_of_known_answers(tmp_path: Path) -> None:
    ctx = write(tmp_path, RECALL)
    result = run_unit(study, Unit("study"), ctx)
    assert result is not None and not nothing_of(result.counts)
    assert {name: result.counts[name] for name in result.counts if name != "needed"} == {
        "holds": 1, "does not hold": 1, "not decided": 2,
    }  # fmt: skip
    found = json.loads((ctx.output / "study.json").read_text())
    assert [claim["verdict"] for claim in found["claims"]] == ["holds", "does not hold", "not decided", "not decided"]
    first, _, third, fourth = found["claims"]
    assert [first["seeds"][seed]["value"] for seed in "789"] == pytest.approx([0.4, 0.48, 0.32])
    assert first["mean"]["value"] == pytest.approx(0.4) and first["mean"]["low"] > 0.15
    assert third["seeds"]["8"]["value"] == pytest.approx(-0.05)
    assert fourth["mean"] is None and "align-7 has no answers to the task report" in fourth["why"]
    scores = {row["model"]: row["scores"]["retrieval_recall_1"]["value"] for row in found["models"]}
    assert scores == pytest.approx({"base": 0.1, "align": 0.5, "later": 0.4933}, abs=1e-3)

    said = (ctx.output / "study.md").read_text()
    held = said.index("## What holds at this size")
    assert held < said.index("Alignment helps.") < said.index("## What does not hold at this size")
    assert "recall@1 of align against base: +0.400 [" in said and "better on 3 of 3 seeds" in said
    page = (ctx.output / "study.html").read_text()
    assert page.count("<svg") == 3 and "Alignment helps." in page and "http" not in page.replace("http-equiv", "")


def test_models_with_other_samples_are_refused(tmp_path: Path) -> None:
    ctx = write(tmp_path, RECALL)
    path = tmp_path / "shards" / "test" / "retrieval" / "align-8.jsonl"
    path.write_text("\n".join(path.read_text().splitlines()[1:]) + "\n")
    with pytest.raises(UserError, match="align-8 and base-8 did not answer the same samples of retrieval"):
        run_unit(study, Unit("study"), ctx)
