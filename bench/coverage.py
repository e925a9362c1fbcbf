"""How often the 95 % interval of a figure holds its true value: simulated test sets of 20 to 200 studies.

    .venv/bin/python -m bench.coverage

A population of studies with one to four similar samples each is made once, with answers of a good and of a weak model.
Test sets are drawn from it, and every figure that the evaluation computes gets its interval on each. The true value is that of
the population; of CIDEr, whose weights of words are those of the test set, the mean over the test sets.
"""

import argparse
import random
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from bench.reports import answer, references
from diagcot.data.reports.labeler import label
from diagcot.data.study import CHEXPERT_LABELS
from diagcot.evaluation.clinical.scores import AGREEMENT
from diagcot.evaluation.scores.classification import by_label
from diagcot.evaluation.scores.columns import judged_metrics, measured
from diagcot.evaluation.scores.text_tools import meteor_metric
from diagcot.metrics import labels, text, tokens
from diagcot.metrics.intervals import LEAST_STUDIES, Additive, Bootstrap, Interval, Metric
from diagcot.metrics.meteor import meteor
from diagcot.metrics.ranking import Ranking, both_classes
from diagcot.tasks.predictions import Prediction

STUDIES = (20, 60, 200)
SHARES = (
    0.3,
    0.22,
    0.18,
    0.15,
    0.12,
    0.1,
    0.08,
    0.06,
    0.05,
    0.04,
    0.03,
    0.025,
    0.02,
    0.35,
)  # of CHEXPERT_LABELS present
Rows = NDArray[np.intp]


class Population:
    """The samples of one task by study, and the figures of one model over all of them."""

    def __init__(self, rows: Sequence[Prediction], metrics: Mapping[str, Metric | str]) -> None:
        self.metrics = {name: metric for name, metric in metrics.items() if isinstance(metric, Metric)}
        self._rows = rows
        self._words = [tuple(tokens.words(side) for side in (row.answer, row.reference)) for row in rows]
        names, self._study = np.unique([row.study for row in rows], return_inverse=True)
        self._members = [np.flatnonzero(self._study == place) for place in range(len(names))]

    def true(self, name: str) -> float:
        """The figure over the whole population; NaN where the sets themselves set it."""
        whole = Bootstrap([str(place) for place in self._study], 1)
        return np.nan if name.endswith("cider") else whole.value(self.metrics[name])

    def drawn(self, studies: int, rng: np.random.Generator) -> tuple[list[str], Rows]:
        """The studies' names and the rows of a test set of that many studies."""
        chosen = [self._members[place] for place in rng.integers(0, len(self._members), studies)]
        return [str(place) for place, rows in enumerate(chosen) for _ in rows], np.concatenate(chosen)

    def part(self, name: str, rows: Rows) -> Metric | None:
        """The figure over some rows; None where it is not defined on them."""
        metric = self.metrics[name]
        if name.endswith("cider"):
            ours, theirs = zip(*(self._words[place] for place in rows), strict=True)
            return replace(metric, counts=np.stack([text.cider(ours, theirs), np.ones(len(rows))], axis=-1))  # type: ignore[type-var]
        if isinstance(metric, Additive):
            return Additive(metric.counts[rows], metric.score)
        assert isinstance(metric, Ranking)
        if len(metric.columns) == 1 and self._rarer(metric.truth[rows, metric.columns[0]], rows) < LEAST_STUDIES:
            return None  # as in the table of labels
        columns = tuple(column for column in both_classes(metric.truth[rows]) if column in metric.columns)
        return Ranking(metric.scores[rows], metric.truth[rows], metric.kind, columns) if columns else None

    def _rarer(self, truth: NDArray[np.float64], rows: Rows) -> int:
        return min(len(np.unique(self._study[rows[truth == value]])) for value in (0, 1))


def population(task: str, studies: int, skill: float, seed: int) -> Population:
    """A model's answers to one of TASKS, of so many studies. skill: 0 to 1."""
    return TASKS[task](studies, skill, random.Random(zlib.crc32(f"{seed} {task} {skill}".encode())))


def _row(study: int, number: int, task: str, said: str, reference: str, **more: object) -> Prediction:
    row = Prediction(f"{study}-{number}", str(study), task, "made", "m", said, said, reference, "stop", True, [])
    return replace(row, **more)  # type: ignore[arg-type]


def _reports(studies: int, skill: float, rng: random.Random) -> Population:
    """A weak model mostly writes the report of another study."""
    known, _ = references(4000)
    rows = []
    for study in range(studies):
        reference = rng.choice(known)
        said = answer(reference if rng.random() < skill else rng.choice(known), known, rng)
        for number in range(rng.randint(1, 4)):
            view = said if rng.random() < 0.5 else answer(said, known, rng)
            rows.append(_row(study, number, "report", view, reference))
    words = {side: tokens.words(side) for row in rows for side in (row.answer, row.reference)}
    metrics = measured(rows, [], words)
    pairs = [(words[row.answer], words[row.reference]) for row in rows]
    distinct = list(dict.fromkeys(pairs))
    counts = meteor.counts([ours for ours, _ in distinct], [theirs for _, theirs in distinct])
    metrics["meteor"] = meteor_metric([[pair] for pair in pairs], dict(zip(distinct, counts, strict=True)))
    read = {side: label(side) for pair in ((row.answer, row.reference) for row in rows) for side in pair}
    for name, how in AGREEMENT.items():  # by the rule labeler, since CheXbert's weights are not at hand
        if how.measure != "f1":
            continue
        found = labels.agreement([read[r.answer] for r in rows], [read[r.reference] for r in rows], how.names)
        metrics[name] = labels.averaged(found, how.measure, how.average)
    return Population(rows, metrics)


def _classification(studies: int, skill: float, rng: random.Random) -> Population:
    rows = []
    for study in range(studies):
        true = {name: int(rng.random() < share) for name, share in zip(CHEXPERT_LABELS, SHARES, strict=True)}
        own = {name: rng.gauss(0, 0.7) for name in CHEXPERT_LABELS}
        for number in range(rng.randint(1, 4)):
            logits = {name: own[name] + rng.gauss(0, 0.7) + 2.5 * skill * true[name] - 1.5 for name in CHEXPERT_LABELS}
            scores = {name: float(1 / (1 + np.exp(-value))) for name, value in logits.items()}
            said = ", ".join(name for name, value in logits.items() if value > 0)
            gold = ", ".join(name for name, value in true.items() if value)
            rows.append(_row(study, number, "classification", said, gold, scores=scores, about={"labels": true}))
    metrics = measured(rows, rows, {})
    return Population(rows, metrics | {f"auc of {name}": auc for name, (_, auc) in by_label(rows).items()})


def _boxes(studies: int, skill: float, rng: random.Random) -> Population:
    rows = []
    for study in range(studies):
        there, found = rng.random() < 0.6, rng.random() < skill
        box = [rng.randrange(0, 500), rng.randrange(0, 500)]
        for number in range(rng.randint(1, 4)):
            moved = [place + (rng.randrange(0, 80) if found else rng.randrange(0, 400)) for place in box]
            said, gold = (f"<box>({x},{y}),({x + 300},{y + 300})</box>" for x, y in (moved, box))
            told = said if rng.random() < 0.5 + 0.5 * skill else "there is none"
            rows.append(_row(study, number, "grounding", told, gold if there else "there is none"))
    return Population(rows, measured(rows, [], {}))


def _questions(studies: int, skill: float, rng: random.Random) -> Population:
    rows, verdicts = [], {}
    for study in range(studies):
        hard = rng.random()
        for number in range(rng.randint(1, 4)):
            right = 0.7 * hard + 0.3 * rng.random() < skill
            about = {"options": ["Yes", "No"], "option": "A"}
            rows.append(_row(study, number, "binary", "A" if right else "B", "A", about=about))
            verdicts[rows[-1].id] = [right if rng.random() < 0.85 else not right] * 2
    return Population(rows, measured(rows, [], {}) | judged_metrics(rows, verdicts))


def _open(studies: int, skill: float, rng: random.Random) -> Population:
    rows = []
    for study in range(studies):
        true = [name for name, share in zip(CHEXPERT_LABELS[1:], SHARES, strict=False) if rng.random() < share]
        for number in range(rng.randint(1, 4)):
            said = [name for name in CHEXPERT_LABELS[1:] if rng.random() < (skill if name in true else 0.06)]
            both = (", ".join(names) or "No Finding" for names in (said, true))
            rows.append(_row(study, number, "open", *both))
    return Population(rows, measured(rows, [], {}))


TASKS = {
    "reports": _reports,
    "classification": _classification,
    "boxes": _boxes,
    "questions": _questions,
    "open": _open,
}
MODELS = {"good": 0.8, "weak": 0.3}
"""Name -> skill."""


def coverage(made: Population, studies: int, sets: int, draws: int, seed: int) -> dict[str, tuple[float, int]]:
    """Figure -> how often its interval holds its true value, and on how many sets it has one."""
    rng = np.random.default_rng(seed)
    found: dict[str, list[Interval]] = {name: [] for name in made.metrics}
    for _ in range(sets):
        names, rows = made.drawn(studies, rng)
        boot = Bootstrap(names, draws)
        for name, intervals in found.items():
            if (metric := made.part(name, rows)) is not None:
                intervals.append(boot.interval(metric))
    return {name: _held(intervals, made.true(name)) for name, intervals in found.items()}


def _held(intervals: Sequence[Interval], true: float) -> tuple[float, int]:
    if np.isnan(true) and intervals:
        true = float(np.mean([one.value for one in intervals]))
    shown = [one for one in intervals if one.high > one.low]
    return float(np.mean([one.low <= true <= one.high for one in shown])) if shown else np.nan, len(shown)


def main() -> None:
    """Print a line for each figure: its coverage by the number of studies, of a good and of a weak model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=400, help="test sets of each size (default 400)")
    parser.add_argument("--draws", type=int, default=300, help="bootstrap draws of each (default 300)")
    parser.add_argument("--tasks", nargs="+", choices=tuple(TASKS), default=tuple(TASKS), help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--studies", type=int, default=1000, help="studies of the population (default 1000)")
    args = parser.parse_args()
    print(
        f"{args.sets} test sets, {args.draws} draws, seed {args.seed}; error of a share of .95: {(0.0475 / args.sets) ** 0.5:.3f}"
    )
    print(f"{'figure':32} {'model':5} " + " ".join(f"{size:>6}" for size in STUDIES))
    for (model, skill), task in product(MODELS.items(), args.tasks):
        made = population(task, args.studies, skill, args.seed)
        table = {size: coverage(made, size, args.sets, args.draws, args.seed) for size in STUDIES}
        for name in made.metrics:
            cells = (table[size][name] for size in STUDIES)
            line = " ".join(f"{share:6.3f}" if count >= args.sets / 2 else f"{'–':>6}" for share, count in cells)
            print(f"{name:32} {model:5} {line}", flush=True)


if __name__ == "__main__":
    main()
