"""A reply that is the same for every image earns less than a noisy honest model, in every main column of every task."""

import csv
import random
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from diagcot.data.study import CHEXPERT_LABELS
from diagcot.evaluation.predict import samples_of
from diagcot.evaluation.report import report
from diagcot.evaluation.scores import constant as constants
from diagcot.evaluation.scores.columns import COLUMNS, TEXTS, measured, meteor_column
from diagcot.evaluation.scores.table import table
from diagcot.evaluation.scores.text_tools import TextTools, meteor_metric
from diagcot.evaluation.settings import EvaluateSettings
from diagcot.metrics import tokens
from diagcot.metrics.intervals import Bootstrap, Metric
from diagcot.tasks import diagnosis, prompts
from diagcot.tasks.predictions import ASKED, Prediction
from diagcot.tasks.prompt_set import DEFAULT
from diagcot.tasks.questions.questions import question_samples
from diagcot.tasks.questions.wording import Wording
from diagcot.tasks.samples import Sample
from tests.unit.evaluation.evaluated_run import write_shard

OPENI = Path(__file__).resolve().parents[4] / "shared" / "data" / "openi_reports"
TASKS = ("report", "classification", "grounding", *ASKED)
RIGHT = 0.6  # share of the honest model's answers that are right; the others belong to another image
NORMAL = "Findings: The heart is normal in size. The lungs are clear. Impression: No acute cardiopulmonary process."
EVERYTHING = ", ".join(CHEXPERT_LABELS[1:])
TEXT_REPLIES = ("", NORMAL, "The lungs are clear.", f"There is {EVERYTHING.lower()}.")
REPLIES = (
    *TEXT_REPLIES,
    "No Finding",
    "No abnormality is seen.",
    EVERYTHING,
    *CHEXPERT_LABELS,
    *(f"No {name} regions detected." for name in diagnosis.GROUNDED),
    *(f"{letter}) ✅" for letter in "ABCDEFG"),
    "Yes",
    "No",
    "<box>(0,0),(1000,1000)</box>",
    "[0, 0, 64, 64]",
    "<|box_start|>(0,0),(1000,1000)<|box_end|>",
    '[{"bbox_2d": [250, 250, 750, 750], "label": "opacity"}]',
    "(0.1,0.1),(.9,.9)",
)


def scores(rows: list[Prediction]) -> dict[str, float]:
    """The main columns of one model's rows of one task."""
    task = rows[0].task
    words = {text: " ".join(tokens.words(text).split()) for row in rows for text in (row.answer, row.reference)}
    found = measured(rows, [], words)
    if task == "report":
        pairs = [(words[row.answer], words[row.reference]) for row in rows]
        found[meteor_column(task)] = meteor_metric([[pair] for pair in pairs], TextTools().meteor(pairs))
    boot = Bootstrap([row.study for row in rows], draws=100)
    main = {column.name for column in COLUMNS if column.main and column.task == task}
    return {name: boot.value(metric) for name, metric in found.items() if name in main and isinstance(metric, Metric)}


def honest(samples: list[Sample], seed: int) -> list[Prediction]:
    """Answers of which RIGHT are the reference, and the others that of another image asked in the same way."""
    rng = random.Random(seed)
    rows = []
    for sample in samples:
        right = rng.random() < RIGHT
        options = sample.meta.get("options")
        guess = f"{rng.choice('ABCDEFG'[: len(options)])}) ✅" if options else rng.choice(samples).answer
        labels = sample.meta.get("labels", {})
        said = {name: (labels.get(name) == 1) * 0.4 * right + rng.random() * 0.6 for name in CHEXPERT_LABELS}
        scored = said if sample.task == "classification" else None
        rows.append(Prediction.of(sample, "honest", sample.answer if right else guess, "stop", "test", scored))
    return rows


def constant(samples: list[Sample], reply: str) -> list[Prediction]:
    same = dict.fromkeys(CHEXPERT_LABELS, 0.5) if samples[0].task == "classification" else None
    return [Prediction.of(sample, "constant", reply, "stop", "test", same) for sample in samples]


def refuted(samples: list[Sample], replies: set[str], seed: int = 0) -> list[tuple[str, str, float, float]]:
    """(reply, column, its score, the honest model's) of every constant reply that is at least as good in a column."""
    model = scores(honest(samples, seed))
    assert model
    return [
        (reply, name, value, model[name])
        for reply in sorted(replies)
        for name, value in scores(constant(samples, reply)).items()
        if value >= model[name]
    ]


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    root = tmp_path_factory.mktemp("shards")
    shard = write_shard(root / "00000.h5", studies=40, size=64)
    found: dict[str, list[Sample]] = {}
    for task in TASKS:
        made = (
            diagnosis.SAMPLES[task](shard, "00000.h5", "test", "image", DEFAULT) if task in diagnosis.SAMPLES else None
        )
        found[task] = list(made or question_samples(shard, "00000.h5", "test", {task: 1.0}, Wording(), 7, "image"))
    return found


@pytest.mark.parametrize("task", TASKS)
def test_on_phantoms_no_constant_reply_reaches_a_noisy_honest_model(samples, task):
    if not samples[task]:
        pytest.skip(f"phantoms have no {task}")
    references = sorted({sample.answer for sample in samples[task]})
    replies = {*TEXT_REPLIES, *references[:6]} if task in TEXTS else {*REPLIES, *references[:15]}
    assert refuted(samples[task], replies) == []


def test_a_normal_report_for_every_study_has_no_label_f1(samples):
    found = scores(constant(samples["report"], NORMAL))
    assert found["rule_label_f1"] == 0.0


@pytest.mark.skipif(not OPENI.is_dir(), reason="no ../shared/data/openi_reports")
def test_on_real_reports_no_constant_reply_reaches_a_noisy_honest_model():
    with (OPENI / "indiana_reports.csv").open(newline="") as table:
        rows = [row for row in csv.DictReader(table) if row["findings"] and row["impression"]][:200]
    reports = [prompts.report_answer(row["findings"], row["impression"]) for row in rows]
    made = [
        Sample(str(n), "report", str(n), (), (("user", "Write the report."), ("assistant", text)))
        for n, text in enumerate(reports)
    ]
    often: dict[str, int] = defaultdict(int)
    for text in reports:
        often[text] += 1
    central = sorted(often, key=lambda text: (-often[text], len(text)))[:6]
    assert refuted(made, {NORMAL, EVERYTHING, *central}) == []
    assert scores(constant(made, NORMAL))["rule_label_f1"] == 0.0


def test_the_best_constant_answer_is_chosen_on_the_training_split(tmp_path: Path) -> None:
    """Among the answers of that split, the one that scores most there; it is a row of the table and compared with none."""
    shard = write_shard(tmp_path / "shards" / "0.h5", 40, size=32, splits=("train", "train", "test"))
    root, settings = tmp_path / "shards", EvaluateSettings(tasks=["report", "grounding", "binary"])
    samples = {task: samples_of(shard, root, task, settings, "test", 7) for task in settings.tasks}
    rows = [Prediction.of(sample, "base", "Normal.", "stop", "test") for some in samples.values() for sample in some]
    found = constants.answers(rows, root, lambda task: settings, 7)
    assert [row.id for row in found] == [row.id for row in rows] and {row.model for row in found} == {constants.NAME}
    for task in settings.tasks:
        (answer,) = {row.answer for row in found if row.task == task}
        training = [
            Prediction.of(sample, "x", sample.answer, "stop", "train")
            for sample in samples_of(shard, root, task, settings, "train", 7)
        ]
        known = [other for other, _ in Counter(row.reference for row in training).most_common(constants.CANDIDATES)]
        scored_on = training[: constants.SCORED]
        assert answer in known
        assert constants.value(answer, scored_on) == max(constants.value(other, scored_on) for other in known)
    scored = table([*rows, *found], ["base", constants.NAME], TextTools(60, ()), 20)
    base, line = scored["rows"]
    assert line["model"] == constants.NAME and line["scores"]["iou"]["value"] >= base["scores"]["iou"]["value"]
    assert not [cell for cell in line["scores"].values() if "start" in cell or "base" in cell]
    page = report.html(
        scored | {"run": "r", "time": 0.0, "models": ["base"], "warnings": [], "verdicts": []}, [], [], {}
    )
    assert page.count(constants.NAME) >= 2
