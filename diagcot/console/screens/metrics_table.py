"""`make table`: the metrics of a run.

`python -m diagcot.console.screens.metrics_table logs/<run>/metrics.json` shows any metrics file.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.errors import ConsoleError
from rich.table import Table
from rich.text import Text

from diagcot.console import text
from diagcot.jobs import UserError
from diagcot.jobs.state import reading

WRONG = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, ConsoleError)
"""What a file of another content raises where it is read or drawn."""
WIDE = 150
SHORT = {"ROUGE-L": "ROUGE", "rule-label F1": "lab F1", "grounding IoU": "gr IoU"}
MARKS = {"better": ("▲", "green"), "worse": ("▼", "red"), "unclear": (" ", "")}
PLAIN = str.maketrans({"▲": "^", "▼": "v", "±": "~", "–": "-", "°": "*", "†": "+"})


def show(path: Path, screen: Console | None = None) -> None:
    """Print the table of a metrics.json. Raises UserError if the file cannot be read as one."""
    try:
        metrics = reading.read_json(path)
        screen = screen or text.console()
        screen.print(render(metrics, screen))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: the run's last stage writes it (`make submit-eval`)") from None
    except (*WRONG, OSError) as error:
        what = type(error).__name__
        raise UserError(f"{path} is not a valid metrics file ({what}): remove it and run `make submit-eval`") from error


def render(metrics: Mapping[str, Any], screen: Console) -> RenderableType:
    """One row per model: values with their intervals, marked where they differ from the model that it starts from, and a legend.

    If the run has several datasets, the rows are those of all datasets together.
    """
    wide = screen.width >= WIDE
    datasets = list(dict.fromkeys(row["dataset"] for row in metrics["rows"]))
    rows = [row for row in metrics["rows"] if row["dataset"] == datasets[0]] if datasets else []
    columns = [column for column in metrics["columns"] if column["main"]]
    phantom = bool(metrics["phantom"]["samples"])
    title = Text(f"{metrics['run']}: ", "bold").append(
        "all datasets" if datasets[:1] == ["all"] else ", ".join(datasets[:1])
    )
    if phantom:
        title.append(" (phantom images)", "yellow")
    grids: list[RenderableType] = []
    for part in _parts(columns, screen.width, wide):
        grids += [_grid(part, rows, wide, screen, metrics.get("brought", {})), ""]
    notes = [Text(_fits(screen, line), "dim") for line in _notes(metrics, rows, wide)]
    comparisons = _comparisons([v for v in metrics["verdicts"] if v["dataset"] == datasets[0]], screen)
    warnings = [Text(_fits(screen, line), "yellow") for line in metrics.get("warnings", ())]
    missing = [*warnings, *(Text(f"no {name}: {reason}", "yellow") for name, reason in metrics["missing"].items())]
    return Group(title, "", *grids, *comparisons, *missing, *notes)


def _parts(columns: Sequence[Mapping[str, Any]], width: int, wide: bool) -> list[list[Mapping[str, Any]]]:
    """Columns of each table: those of a family of tasks together, not more than fit the screen."""
    most = (width - 29) // 14 if wide else max(3, (width - 25) // 7)
    families: dict[str, list[Mapping[str, Any]]] = {}
    for column in columns:
        families.setdefault(column.get("family", ""), []).append(column)
    if len(columns) <= most:
        return [list(columns)]
    return [columns[at : at + most] for columns in families.values() for at in range(0, len(columns), most)]


def _grid(
    columns: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    wide: bool,
    screen: Console,
    brought: Mapping[str, str],
) -> Table:
    grid = Table(box=None, padding=(0, 1 if not wide else 2, 0, 0), show_edge=False, header_style="dim")
    longest = max((len(row["model"]) for row in rows), default=5)
    grid.add_column("model", no_wrap=True, overflow="ellipsis", min_width=min(longest, 8))
    for column in columns:
        heading = column["title"] if wide else SHORT.get(column["title"], column["title"])
        grid.add_column(heading, justify="right", overflow="fold", min_width=6)
    grid.add_column("distinct", justify="right", no_wrap=True)
    grid.add_column("samples", justify="right", no_wrap=True)
    tasks = {column["task"] for column in columns}
    for row in rows:
        cells = [_cell(row["scores"].get(column["name"]), wide, screen) for column in columns]
        samples = sum(count for task, count in row["samples"].items() if task in tasks)
        mark = _fits(screen, "†") if row["model"] in brought else ""
        shares = [share for task, share in row.get("distinct", {}).items() if task in tasks]
        distinct = f"{min(shares):.0%}" if shares else "-"
        grid.add_row(Text(row["model"] + mark, "bold"), *cells, distinct, str(samples))
    return grid


def _cell(cell: Mapping[str, Any] | None, wide: bool, screen: Console) -> Text:
    if not cell:
        return Text("- ", "dim")
    if cell["value"] is None:
        return Text("n/a ", "yellow")
    mark, style = MARKS[cell.get("start", {}).get("verdict", "unclear")]
    low, high = cell["low"], cell["high"]
    width = (
        "" if low is None else f"{low:.3f}–{high:.3f} " if wide else f"±{(high - low) / 2:.3f} ".replace("±0.", "±.")
    )
    other = _fits(screen, "°") if "words" in cell else ""
    return (
        Text(f"{cell['value']:.3f}{other}", style)
        .append(_fits(screen, mark))
        .append("\n" + _fits(screen, width), "dim")
    )


def _comparisons(verdicts: Sequence[Mapping[str, Any]], screen: Console) -> list[Text]:
    """One line per model: compared with the model that it starts from, and with the first row if that is another one."""
    lines: dict[str, Text] = {}
    for verdict in verdicts:
        line = lines.setdefault(verdict["model"], Text(f"{verdict['model']}: ", "bold"))
        if len(line) > len(verdict["model"]) + 2:
            line.append("; ", "not bold")
        line.append_text(_comparison(verdict, screen))
    return list(lines.values())


def _comparison(verdict: Mapping[str, Any], screen: Console) -> Text:
    better, worse = len(verdict["better"]), len(verdict["worse"])
    total = better + worse + len(verdict["unclear"])
    line = Text(style="not bold")
    if better:
        line.append(_fits(screen, f"▲ better than {verdict['against']} on {better} of {total}"), "green")
    else:
        line.append(f"not better than {verdict['against']}", "yellow")
    return line.append(_fits(screen, f", ▼ worse on {worse}"), "red") if worse else line


def _notes(metrics: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], wide: bool) -> list[str]:
    parts = {" + ".join(f"{count} {task}" for task, count in row["samples"].items()) for row in rows}
    failed = sum(sum(counts.values()) for row in rows for counts in row["failures"].values())
    interval = "below each value: its 95 % interval" if wide else "±: half of the 95 % interval"
    other = any("words" in cell for row in rows for cell in row["scores"].values())
    return [
        *(["°: by simpler words than those of published figures; do not compare with other runs or papers"] * other),
        *(f"† {model}: ran elsewhere ({origin})" for model, origin in metrics.get("brought", {}).items()),
        f"▲▼: against the model that it starts from, {metrics.get('marks', 'by a 95 % interval that excludes zero')}",
        f"{interval}, bootstrap over studies; tokeniser: {metrics['tokenizer']}",
        "distinct: share of different answers, of the task that has the fewest",
        f"samples: {' or '.join(sorted(parts))}; truncated or unreadable answers: {failed}, all scored",
    ]


def _fits(screen: Console, line: str) -> str:
    """The marks, with ASCII replacements if the terminal's encoding needs them."""
    return line if "utf" in (screen.encoding or "").lower() else line.translate(PLAIN)


def main(argv: list[str]) -> int:
    """Show one metrics file. Returns 1 if it cannot be shown, 2 for wrong arguments."""
    if len(argv) != 1:
        print("usage: python -m diagcot.console.screens.metrics_table logs/<run>/metrics.json", file=sys.stderr)
        return 2
    try:
        show(Path(argv[0]))
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
