"""The run's report: one HTML file that works offline, and the same table in Markdown."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diagcot.evaluation.report import drawing
from diagcot.evaluation.report.examples import Example
from diagcot.evaluation.report.history import Stage
from diagcot.evaluation.report.published import PUBLISHED, Published
from diagcot.evaluation.scores.verdicts import RULE
from diagcot.jobs.state import counts as accounts
from diagcot.text.pages import environment

COLOURS = 6  # of the style sheet; models beyond them take the first ones again
_CURVES = ("loss", "gap", "kl", "reward", "accuracy", "format", "iou", "bleu", "f1", "gate", "length")
OTHER_WORDS = "°"
OTHER_WORDS_MEAN = (
    "by simpler words than those of published figures, because Java was not usable and the recipe allows it; do not compare"
    " with other runs or papers."
)
BROUGHT = "†"
_MARKS = {"better": "▲", "worse": "▼", "unclear": ""}


def html(
    metrics: Mapping[str, Any],
    stages: Sequence[Stage],
    examples: Sequence[Example],
    versions: Mapping[str, str],
    truths: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """The report as one HTML page without scripts or external requests. truths: see `history.truths`."""
    page = environment(Path(__file__).parent)
    shown = dict.fromkeys([*metrics["models"], *(row["model"] for row in metrics["rows"])])
    colours = {model: place % COLOURS for place, model in enumerate(shown)}
    datasets = list(dict.fromkeys(row["dataset"] for row in metrics["rows"]))
    return page.get_template("report.html.j2").render(
        metrics=metrics,
        datasets=datasets,
        families=_families(metrics),
        main=[column for column in metrics["columns"] if column["main"]],
        published=_published(metrics),
        distinct=_distinct,
        others=[column for column in metrics["columns"] if not column["main"]],
        marks=_MARKS,
        rule=RULE,
        brought=BROUGHT,
        brought_notes=brought_notes(metrics),
        other_words=OTHER_WORDS,
        other_words_mean=OTHER_WORDS_MEAN if _other_words(metrics) else "",
        colours=colours,
        plots=_plots(metrics, datasets[0], colours) if datasets else [],
        stages=stages,
        timeline=drawing.timeline(stages),
        curves=_curves(stages, colours),
        examples=examples,
        accounts=_accounts(stages),
        things=accounts.THINGS,
        truths=truths or {},
        versions=versions,
        duration=drawing.duration,
        moment=drawing.moment,
    )


def _accounts(stages: Sequence[Stage]) -> dict[str, Mapping[str, Any]]:
    """Stage -> source -> what was read of it and what became of that, of the stages that read collections."""
    return {stage.name: stage.counts["sources"] for stage in stages if stage.counts.get("sources")}


def _plots(metrics: Mapping[str, Any], dataset: str, colours: Mapping[str, int]) -> list[tuple[str, Any]]:
    plots = []
    for column in metrics["columns"]:
        cells = [
            (row["model"], row["scores"].get(column["name"])) for row in metrics["rows"] if row["dataset"] == dataset
        ]
        known = [(m, c["value"], c["low"], c["high"]) for m, c in cells if c and c["value"] is not None]
        if column["main"] and known:
            mark = OTHER_WORDS if any("words" in cell for _, cell in cells if cell) else ""
            plots.append((column["title"] + mark, drawing.intervals(known, colours)))
    return plots


def _curves(stages: Sequence[Stage], colours: Mapping[str, int]) -> list[tuple[str, str, Any]]:
    """(stage, figure, chart) of what a reader asks for first: losses, rewards and their parts, validation."""
    found = []
    for place, stage in enumerate(stages):
        wanted = [name for name in stage.curves if any(word in name for word in _CURVES)]
        wanted.sort(key=lambda name: next(i for i, word in enumerate(_CURVES) if word in name))
        for name in wanted[:9]:
            colour = colours.get(stage.name, place % COLOURS)
            found.append((stage.name, _title(stage, name), drawing.curve(stage.curves[name], colour)))
    return found


def _title(stage: Stage, name: str) -> str:
    """A figure's name in words; for the gap between policy and servers with its bounds."""
    if name == "gap" and "warn_gap" in stage.settings:
        return (
            f"gap to the servers, nats a token (warning {stage.settings['warn_gap']}, end {stage.settings['max_gap']})"
        )
    return name.replace("_", " ")


def _families(metrics: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """The columns of the main tables, by family of tasks in their order."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for column in metrics["columns"]:
        if column["main"]:
            found.setdefault(column["family"], []).append(column)
    return found


def _published(metrics: Mapping[str, Any]) -> list[tuple[Published, list[tuple[str, float]]]]:
    """Published values whose metric the run has on their collection, each with (model, value) of its own first and last model."""
    own = set(metrics["models"]) - set(metrics.get("brought", {}))
    rows = [row for row in metrics["rows"] if row["model"] in own]
    found = []
    for one in PUBLISHED:
        cells = [(row["model"], row["scores"].get(one.column, {})) for row in rows if row["dataset"] == one.collection]
        ours = [
            (model, cell["value"]) for model, cell in cells if cell.get("value") is not None and "words" not in cell
        ]
        if ours:
            found.append((one, [ours[0], ours[-1]] if len(ours) > 1 else ours))
    return found


def table(metrics: Mapping[str, Any]) -> str:
    """The scores as Markdown, a table for each dataset and family of tasks."""
    lines: list[str] = []
    for dataset in dict.fromkeys(row["dataset"] for row in metrics["rows"]):
        lines += [f"### {dataset}", ""]
        for family in _families(metrics).values():
            lines += ["| model | " + " | ".join(c["title"] for c in family) + " | distinct | samples |"]
            lines.append("|---|" + "---|" * (len(family) + 2))
            for row in metrics["rows"]:
                if row["dataset"] == dataset:
                    cells = [_cell(row["scores"].get(column["name"])) for column in family]
                    tasks = {column["task"] for column in family}
                    mark = BROUGHT if row["model"] in metrics.get("brought", {}) else ""
                    lines.append(
                        f"| {row['model']}{mark} | {' | '.join(cells)} | {_distinct(row, family)} | {_samples(row, tasks)} |"
                    )
            lines.append("")
    lines += [f"{OTHER_WORDS} {OTHER_WORDS_MEAN}", ""] if _other_words(metrics) else []
    return "\n".join([*lines, *(line for note in brought_notes(metrics) for line in (note, ""))])


def brought_notes(metrics: Mapping[str, Any]) -> list[str]:
    """A sentence about each model that ran elsewhere."""
    return [
        f"{BROUGHT} {model}: answers of a model that ran elsewhere ({origin}). Which images it was trained on is not known here."
        for model, origin in metrics.get("brought", {}).items()
    ]


def markdown(metrics: Mapping[str, Any], stages: Sequence[Stage]) -> str:
    """The table, the verdicts and the stages as Markdown, without texts or images of any study."""
    lines = [f"# Run {metrics['run']}", "", *_notes(metrics), "", "## Scores", "", table(metrics)]
    for dataset in dict.fromkeys(row["dataset"] for row in metrics["rows"]):
        lines += [f"* {dataset}: {v['text']}" for v in metrics["verdicts"] if v["dataset"] == dataset] + [""]
    lines += [
        RULE,
        "",
        "## Stages",
        "",
        "| stage | units | wall time | seconds of work | GPU-hours | retries | failures |",
    ]
    lines.append("|---|---|---|---|---|---|---|")
    lines += [
        f"| {s.name} | {s.done}/{s.units} | {drawing.duration(s.wall)} | {s.seconds:.0f} | {s.gpu_hours:.2f} "
        f"| {s.retries} | {len(s.failures)} |"
        for s in stages
    ]
    for name, sources in _accounts(stages).items():
        lines += ["", f"## Data of {name}", "", *(f"* {line.strip()}" for line in accounts.lines(sources))]
    return "\n".join(lines) + "\n"


def _notes(metrics: Mapping[str, Any]) -> list[str]:
    notes = []
    if metrics["phantom"]["samples"]:
        notes.append("**Phantom images:** drawn, not of people. The numbers show that the chain works, no more.")
    notes += [f"**{line}.**" for line in metrics.get("warnings", ())]
    notes.append(f"Intervals: {metrics['interval']}. Words: {metrics['tokenizer']}.")
    return notes + [f"No {name}: {why}." for name, why in metrics["missing"].items()]


def _other_words(metrics: Mapping[str, Any]) -> bool:
    return any("words" in cell for row in metrics["rows"] for cell in row["scores"].values())


def _cell(cell: Mapping[str, Any] | None) -> str:
    if not cell:
        return "–"
    if cell["value"] is None:
        return "n/a"
    mark = _MARKS[cell["start"]["verdict"]] if "start" in cell else ""
    interval = "" if cell["low"] is None else f" [{cell['low']:.3f}, {cell['high']:.3f}]"
    return f"{cell['value']:.3f}{OTHER_WORDS if 'words' in cell else ''}{mark}{interval}"


def _distinct(row: Mapping[str, Any], columns: Sequence[Mapping[str, Any]]) -> str:
    """Shares of different answers of a model to the tasks of these columns, such as `62 % report`."""
    tasks = dict.fromkeys(column["task"] for column in columns)
    known = {task: row["distinct"][task] for task in tasks if task in row.get("distinct", {})}
    return ", ".join(f"{share:.0%}{f' {task}' if len(known) > 1 else ''}" for task, share in known.items()) or "–"


def _samples(row: Mapping[str, Any], tasks: set[str]) -> str:
    return " + ".join(f"{count} {task}" for task, count in row["samples"].items() if task in tasks)
