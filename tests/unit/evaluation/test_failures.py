"""No figure of the table gains by requests that fail, whichever they are."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from diagcot.data.study import CHEXPERT_LABELS
from diagcot.evaluation.clinical.scores import AS_WRITTEN, CLINICAL, REASONING, ClinicalScores, clinical_metrics
from diagcot.evaluation.scores.columns import BY_NAME, judged_metrics, measured
from diagcot.evaluation.scores.reports import r2gen_metrics
from diagcot.evaluation.settings import CLOSED, WRITTEN
from diagcot.metrics import tokens
from diagcot.metrics.intervals import Bootstrap, Metric
from diagcot.tasks.predictions import Prediction

SAMPLES = 40
SENTENCES = (
    "the heart is enlarged", "there is no pleural effusion", "a small left pleural effusion is seen", "lungs are clear",
    "there is mild pulmonary edema", "right basal atelectasis", "no pneumothorax", "a pacemaker is in place",
    "the mediastinum is normal", "focal consolidation in the right upper lobe",
)  # fmt: skip
Answers = tuple[str, str]  # a task's answer and its reference
METEOR = {"meteor", "meteor_r2gen", *(f"{task}_meteor" for task in WRITTEN)}  # tests/unit/metrics/test_meteor.py
RETRIEVAL = {name for name, column in BY_NAME.items() if column.task == "retrieval"}  # asks no server


def report(rng: np.random.Generator, skill: float, words: int) -> Answers:
    reference = list(rng.choice(SENTENCES, 3, replace=False))
    said = [one if rng.random() < skill else str(rng.choice(SENTENCES)) for one in reference]
    return " . ".join((said * words)[: max(1, words * 2)]) + " .", " . ".join(reference) + " ."


def boxes(rng: np.random.Generator, skill: float, words: int) -> Answers:
    there, moved = rng.random() < 0.6, 0 if rng.random() < skill else int(rng.integers(50, 400))
    left = int(rng.integers(0, 300))
    said = f"<box>({left + moved},100),({left + moved + 200},300)</box>" if rng.random() < 0.8 else "there is none"
    said = said.replace("<box>", "[").replace("</box>", "]") if rng.random() < 0.2 else said
    return said, f"<box>({left},100),({left + 200},300)</box>" if there else "there is none"


def pixels(rng: np.random.Generator, skill: float, words: int) -> Answers:
    moved = 0 if rng.random() < skill else int(rng.integers(20, 90))
    return f"[{10 + moved}, 10, {110 + moved}, 110]", "[10, 10, 110, 110]"


def labels(rng: np.random.Generator, skill: float, words: int) -> Answers:
    said, true = (
        [name for name, drawn in zip(CHEXPERT_LABELS[1:], rng.random(13), strict=True) if drawn < share]
        for share in (0.1 * words, 0.2)
    )
    said = [name for name in CHEXPERT_LABELS[1:] if name in (true if rng.random() < skill else said)]
    return ", ".join(said) or "No Finding", ", ".join(true) or "No Finding"


def option(rng: np.random.Generator, skill: float, words: int) -> Answers:
    return "AB"[int(rng.random() > skill)], "A"


MADE = {
    **dict.fromkeys(("report", *WRITTEN), report), **dict.fromkeys(CLOSED, option), "grounding": boxes,
    "grounding_pixels": pixels, "classification": labels, "open": labels,
}  # fmt: skip


def answered(task: str, skill: float, words: int) -> list[Prediction]:
    rng = np.random.default_rng([len(task), int(10 * skill), words])
    rows = []
    for number in range(SAMPLES):
        answer, reference = MADE[task](rng, skill, words)
        true = {name: int(name in reference) for name in CHEXPERT_LABELS}
        scores = {name: float(np.clip(skill * true[name] + rng.normal(0.3, 0.2), 0, 1)) for name in CHEXPERT_LABELS}
        about = {"options": ["Yes", "No"], "option": "A", "labels": true}
        if task not in CLOSED and rng.random() < 0.9:
            output = f"<think>{' . '.join(rng.choice(SENTENCES, 2))} .</think><answer>{answer}</answer>"
        else:
            output = answer
        rows.append(
            Prediction(str(number), str(number // 2), task, "iu_xray", "m", output, answer, reference, "stop", True, [],
                       scores=scores if task == "classification" else {}, about=about)
        )  # fmt: skip
    return rows


def lost(row: Prediction) -> Prediction:
    return replace(row, output="", answer="", scores={}, finish="error")


def read(rows: Sequence[Prediction], seed: int) -> ClinicalScores:
    """What models that read reports might say; of an empty text half a point and no label."""
    rng = np.random.default_rng(seed)
    scores: dict[str, dict[str, Any]] = {}
    for row in rows:
        drawn = {name: float(rng.random()) for name in CLINICAL}
        ours = {name: int(rng.random() < 0.3) for name in CHEXPERT_LABELS}
        theirs = {name: int(rng.random() < 0.3) for name in CHEXPERT_LABELS}
        if row.finish == "error":
            drawn = {
                name: 0.5
                for name in drawn
                if name.removesuffix(AS_WRITTEN) not in REASONING  # it has no reasoning
            }
            ours = {}
        pair = [ours, theirs]
        scores[row.id] = drawn | {"chexbert": pair, f"chexbert{AS_WRITTEN}": pair}
    readers = {reader for column in CLINICAL.values() for reader in column.needs}
    return ClinicalScores({(rows[0].task, "m"): scores}, {}, frozenset(readers))


def figures(rows: Sequence[Prediction], validation: Sequence[Prediction]) -> Mapping[str, Metric | str]:
    task = rows[0].task
    words = {side: tokens.words(side) for row in rows for side in (row.answer, row.reference)}
    found = measured(rows, validation, words)
    if task in (*CLOSED, "open"):
        verdicts = {row.id: [row.answer == row.reference, int(row.id) % 3 > 0] for row in rows if row.answer}
        found |= judged_metrics(rows, verdicts)
    if task in ("report", *WRITTEN):
        found |= clinical_metrics(rows, read(rows, 1))
    if task == "report":
        found |= r2gen_metrics(rows)
    return found


@pytest.mark.parametrize("task", MADE)
@pytest.mark.parametrize(("skill", "words"), [(0.1, 1), (0.9, 2), (0.3, 4)])
def test_failures_improve_no_figure(task: str, skill: float, words: int) -> None:
    whole, validation = answered(task, skill, words), []
    if task == "classification":
        validation = [replace(row, split="validate") for row in answered(task, skill, words)]
    boot = Bootstrap([row.study for row in whole], 1)
    before = {name: boot.value(one) for name, one in figures(whole, validation).items() if isinstance(one, Metric)}
    rng = np.random.default_rng(words)
    for share in (0.1, 0.5, 0.95):
        gone = set(rng.permutation(SAMPLES)[: round(share * SAMPLES)])
        rows = [lost(row) if place in gone else row for place, row in enumerate(whole)]
        after = figures(rows, validation)
        for name, value in before.items():
            metric = after[name]
            assert isinstance(metric, Metric), name
            gain = (boot.value(metric) - value) * (-1 if BY_NAME[name].low else 1)
            assert gain <= 1e-9, (name, share, value, gain)


def test_every_column_of_the_registry_is_tried() -> None:
    tried = {name for task in MADE for name in figures(answered(task, 0.5, 2), answered("classification", 0.5, 2))}
    assert set(BY_NAME) - tried == METEOR | RETRIEVAL
