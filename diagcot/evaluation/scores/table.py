"""The metrics table: scores with intervals, and paired differences from the model that each starts from and from the base."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import product
from typing import Any

from diagcot.evaluation.clinical.scores import ClinicalScores, clinical_metrics
from diagcot.evaluation.failures import words_of
from diagcot.evaluation.scores import own_numbers
from diagcot.evaluation.scores.classification import by_label
from diagcot.evaluation.scores.columns import (
    COLUMNS,
    CONSTANT,
    FAMILY,
    TEXTS,
    Column,
    judged_metrics,
    measured,
    meteor_column,
    of_words,
    unreadable,
)
from diagcot.evaluation.scores.reports import r2gen_metrics, r2gen_texts, read_labels
from diagcot.evaluation.scores.text_tools import PENN_TREEBANK, TextTools, meteor_metric
from diagcot.evaluation.scores.verdicts import COMPARED, MARKS, verdict
from diagcot.jobs import UserError
from diagcot.metrics.intervals import Bootstrap, Metric, holm
from diagcot.metrics.meteor import meteor
from diagcot.tasks.predictions import BROUGHT, Prediction

Scores = dict[str, Metric | str]  # a metric, or the reason why it has no value
Group = dict[tuple[str, str, str], list[Prediction]]  # (dataset, task, model) -> predictions in the order of their ids

Judged = dict[tuple[str, str], dict[str, list[bool | None]]]

SEED = 0
"""Of the draws: one for every run, so that a number has one interval, in the run's table and beside another run's."""
COLLAPSE = 10
"""Samples of a task from which on equal answers to all of them are a collapse and no chance."""
ALL = "all"  # the rows that pool the datasets, where there are several


def table(
    predictions: Sequence[Prediction],
    models: Sequence[str],
    tools: TextTools,
    draws: int,
    seed: int = SEED,
    *,
    r2gen: bool = False,
    judged: Judged | None = None,
    clinical: ClinicalScores | None = None,
    starts: Mapping[str, str] | None = None,
    controls: Mapping[str, str] | None = None,
    own: Sequence[Column] = (),
) -> dict[str, Any]:
    """The content of metrics.json but for the run's name.

    r2gen: reports by R2Gen's protocol, too. judged: (task, model) -> sample id -> the judge's two verdicts.
    clinical: what models that read reports make of each answer. starts: model -> the one that it was trained from; a
    model that is not in it, or whose start did not answer, is compared with the row above. controls: model -> a further one
    that it is compared with. The row of a model that ran
    elsewhere is compared with no other, unless `starts` names one, and stands in `brought` with its origin. own: columns of
    metrics of the user's own, whose numbers the predictions have (`own_numbers.measured`).
    Raises UserError where the models did not answer the same samples, since their scores could not be compared.
    """
    brought = {row.model: row.about[BROUGHT] for row in predictions if BROUGHT in row.about}
    groups = _grouped([row for row in predictions if row.split == "test"])
    chosen_on = _grouped([row for row in predictions if row.split == "validate"])
    written = [row for row in predictions if row.task in TEXTS]
    # What waits for another program or holds no lock of the interpreter runs beside the rest.
    pool = ThreadPoolExecutor(4)
    texts = list(dict.fromkeys(side for row in written for side in (row.answer, *row.references)))
    tokenised = pool.submit(tools.tokenize, texts)
    pool.submit(meteor.load)  # an error is reported when METEOR is used
    aligned = pool.submit(lambda: _meteor(groups, tokenised.result(), tools, r2gen=r2gen))
    boots = _boots(groups, draws, seed)
    for boot in boots.values():
        pool.submit(boot.make_draws)
    read_labels([row for (_, task, _), rows in groups.items() if task in TEXTS for row in rows])
    words = tokenised.result()
    named = {column.name for column in own}
    scores: dict[tuple[str, str, str], Scores] = {
        key: measured(rows, chosen_on.get(key, []), words) for key, rows in groups.items()
    }
    for key, rows in groups.items():
        if r2gen and key[1] == "report":
            scores[key] |= r2gen_metrics(rows)
        if verdicts := (judged or {}).get(key[1:]):
            scores[key] |= judged_metrics(rows, verdicts)
        if clinical and key[2] != CONSTANT:
            scores[key] |= clinical_metrics(rows, clinical)
        scores[key] |= {name: metric for name, metric in own_numbers.means(rows).items() if name in named}
    for (key, column), metric in aligned.result().items():
        scores[key][column] = metric
    pool.shutdown()
    reasons_given = {reason for found in scores.values() for reason in found.values() if isinstance(reason, str)}
    columns = [*COLUMNS, *own]
    known = {column.name: column for column in columns}
    rows_of_table = []
    for dataset in sorted({dataset for dataset, _, _ in groups}, key=lambda name: (name != ALL, name)):
        rows_of_table += _rows(dataset, groups, scores, models, starts or {}, controls or {}, boots, brought, known)
    judge(rows_of_table, known)
    _mark_other_words(rows_of_table, tools.tokenizer)
    return {
        "phantom": {"samples": sum(row.phantom for row in predictions), "of": len(predictions)},
        "tokenizer": tools.tokenizer,
        "missing": tools.missing | (clinical.reasons(reasons_given) if clinical else {}),
        "interval": f"95 %, bootstrap over studies, {draws} draws, seed {seed}",
        "draws": draws,
        "marks": MARKS,
        "models": list(models),
        "brought": brought,
        "columns": [
            {**asdict(c), "family": FAMILY.get(c.task, "questions")}
            for c in columns
            if any(c.name in row["scores"] for row in rows_of_table)
        ],
        "rows": rows_of_table,
    }


def _meteor(
    groups: Group, words: Mapping[str, str], tools: TextTools, *, r2gen: bool
) -> dict[tuple[tuple[str, str, str], str], Metric | str]:
    """METEOR of each group that has it, by the key of the group and the column, or the reason why it has none."""
    pairs = {
        (key, meteor_column(key[1])): [[(words_of(r, words), words[text]) for text in r.references] for r in rows]
        for key, rows in groups.items()
        if key[1] in TEXTS
    }
    if r2gen:
        reports = {key: rows for key, rows in groups.items() if key[1] == "report"}
        pairs |= {
            (key, "meteor_r2gen"): [[pair] for pair in zip(*r2gen_texts(rows), strict=True)]
            for key, rows in reports.items()
        }
    counts = tools.meteor([pair for some in pairs.values() for sample in some for pair in sample])
    return {place: tools.missing.get("meteor") or meteor_metric(some, counts) for place, some in pairs.items()}


def _boots(groups: Group, draws: int, seed: int) -> dict[tuple[str, str], Bootstrap]:
    """(dataset, task) -> the draws of its studies, which are the same for all models."""
    rows_of = {(dataset, task): rows for (dataset, task, _), rows in groups.items()}
    return {key: Bootstrap([row.study for row in rows], draws, seed) for key, rows in rows_of.items()}


def _mark_other_words(rows: Sequence[dict[str, Any]], tokenizer: str) -> None:
    """Name the tokeniser in each cell that depends on words, unless it is that of published figures."""
    for name, cell in (item for row in rows for item in row["scores"].items()):
        if tokenizer != PENN_TREEBANK and of_words(name) and cell["value"] is not None:
            cell["words"] = tokenizer


def _grouped(predictions: Sequence[Prediction]) -> Group:
    found: Group = defaultdict(list)
    several = len({row.dataset for row in predictions}) > 1
    for row in predictions:
        found[row.dataset, row.task, row.model].append(row)
        if several:
            found[ALL, row.task, row.model].append(row)
    for rows in found.values():
        rows.sort(key=lambda row: row.id)
    for (dataset, task, model), rows in found.items():
        others = [other for (d, t, other) in found if (d, t) == (dataset, task)]
        first = found[dataset, task, others[0]]
        if [row.id for row in rows] != [row.id for row in first]:
            raise UserError(
                f"{model} and {others[0]} did not answer the same {task} samples of {dataset} "
                f"({len(rows)} and {len(first)}): run the evaluation of both with the same settings"
            )
    return dict(found)


def _rows(
    dataset: str,
    groups: Group,
    scores: dict[tuple[str, str, str], Scores],
    models: Sequence[str],
    starts: Mapping[str, str],
    controls: Mapping[str, str],
    boots: Mapping[tuple[str, str], Bootstrap],
    brought: Mapping[str, str],
    known: Mapping[str, Column],
) -> list[dict[str, Any]]:
    tasks = sorted({task for d, task, _ in groups if d == dataset})
    present = [model for model in models if any((dataset, task, model) in groups for task in tasks)]
    rows: list[dict[str, Any]] = [
        {"dataset": dataset, "model": model, "samples": {}, "distinct": {}, "failures": {}, "scores": {}, "labels": {}}
        for model in present
    ]
    for task in tasks:
        boot = boots[dataset, task]
        found = (one for model in present for one in scores.get((dataset, task, model), {}).values())
        boot.draw([one for one in found if isinstance(one, Metric)])
        for place, (row, model) in enumerate(zip(rows, present, strict=True)):
            answers = groups.get((dataset, task, model))
            if answers is None:
                continue
            row["samples"][task] = len(answers)
            row["distinct"][task] = distinct(answers)
            row["failures"][task] = {
                "no_text": sum(answer.finish == "error" for answer in answers),
                "empty": sum(answer.finish == "stop" and not answer.output.strip() for answer in answers),
                "cut_at_max_tokens": sum(answer.finish == "length" for answer in answers),
                "unreadable": sum(answer.finish == "stop" and unreadable(answer) for answer in answers),
            }
            if task == "classification":
                row["labels"] = {
                    label: {"positive": count, "value": boot.value(auc)}
                    for label, (count, auc) in by_label(answers).items()
                }
            start = starts[model] if starts.get(model) in present else present[place - 1]
            against = {"start": start, "base": present[0]} if place and model != CONSTANT else {}
            if model in brought and model not in starts:
                against = {}  # it starts from no row of this table
            if controls.get(model) in present:
                against["control"] = controls[model]
            for name, metric in scores[dataset, task, model].items():
                row["scores"][name] = _score(
                    known[name],
                    metric,
                    boot,
                    {how: (m, scores.get((dataset, task, m), {})) for how, m in against.items()},
                )
    return rows


def distinct(answers: Sequence[Prediction]) -> float:
    """The share of different answers, 0 to 1: a model that does not look says the same of many images."""
    return round(len({" ".join(row.answer.split()) for row in answers}) / len(answers), 4)


def collapsed(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line for each model that gives one and the same answer to every image, by the rows of a table."""
    return [
        f"{row['model']} gives one and the same answer to all {count} images of {row['dataset']} (task {task})"
        for row in rows
        for task, count in row["samples"].items()
        if row["model"] != CONSTANT
        if count >= COLLAPSE and row["distinct"].get(task, 1.0) * count < 1.5 and row["dataset"] != ALL
    ]


def judge(rows: Sequence[dict[str, Any]], known: Mapping[str, Column]) -> None:
    """Add to all paired differences of a table their p by Holm, over its main columns and over the others, and a verdict.

    A difference that stands in the table twice (the model that one starts from is the base, too) counts once.
    """
    failures = {(row["dataset"], row["model"]): row["failures"] for row in rows}
    for main in (True, False):
        found = [
            (row, known[name], cell, cell[how])
            for row, how in product(rows, COMPARED)
            for name, cell in row["scores"].items()
            if how in cell and known[name].main is main
        ]
        keys = [(row["dataset"], row["model"], pair["model"], column.name) for row, column, _, pair in found]
        p_of = {key: pair["p"] for key, (*_, pair) in zip(keys, found, strict=True)}
        adjusted = dict(zip(p_of, holm(list(p_of.values())), strict=True))
        for key, (row, column, cell, pair) in zip(keys, found, strict=True):
            pair["p_holm"] = round(adjusted[key], 4)
            both = (failures[row["dataset"], model][column.task]["no_text"] for model in (row["model"], pair["model"]))
            pair["verdict"] = verdict(pair, cell["studies"], column.low, *both)


def _score(
    column: Column, metric: Metric | str, boot: Bootstrap, against: dict[str, tuple[str, Scores]]
) -> dict[str, Any]:
    """A cell: value, interval, numbers of samples and studies, and paired differences.

    A column that never has an interval has no differences; one that has none of so few studies has them without theirs.
    """
    if isinstance(metric, str):
        return {"value": None, "reason": metric}
    cell: dict[str, Any] = {
        **column.shown(boot.interval(metric), boot.studies),
        "n": boot.samples,
        "studies": boot.studies,
    }
    if column.interval is None:
        return cell
    for how, (model, others) in against.items():
        theirs = others.get(column.name)
        if isinstance(theirs, Metric):
            pair = asdict(boot.difference(metric, theirs))
            if not column.holds(boot.studies):
                pair |= {"low": None, "high": None}
            cell[how] = {"model": model, **pair, "p": round(boot.p_value(metric, theirs), 8)}
    return cell
