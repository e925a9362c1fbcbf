"""The scores of many models of one run, each with the bootstrap over the studies that it was measured on."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from diagcot.evaluation.scores import own_numbers
from diagcot.evaluation.scores.columns import COLUMNS, TEXTS, Column, measured
from diagcot.evaluation.scores.text_tools import TextTools
from diagcot.evaluation.study.claims import over_seeds
from diagcot.metrics.intervals import Bootstrap, Metric
from diagcot.tasks.predictions import Prediction


class Scores:
    """The scores of every model on every seed, each with the bootstrap over the studies of its seed."""

    def __init__(self, rows: Sequence[Prediction], draws: int, java_s: float, own: Sequence[Column] = ()) -> None:
        """own: columns of metrics of the user's own, whose numbers the rows have (`own_numbers.measured`)."""
        self.columns = {column.name: column for column in (*COLUMNS, *own)}
        self._rows: dict[tuple[str, str], dict[str, list[Prediction]]] = {}  # (model, task) -> split -> rows
        for row in sorted(rows, key=lambda row: row.id):
            self._rows.setdefault((row.model, row.task), {}).setdefault(row.split, []).append(row)
        texts = [side for row in rows if row.task in TEXTS for side in (row.answer, *row.references)]
        self._words: Mapping[str, str] = TextTools(java_s).tokenize(list(dict.fromkeys(texts)))
        self._draws = draws
        self._scores: dict[tuple[str, str], dict[str, Metric | str]] = {}
        self._boots: dict[tuple[str, ...], Bootstrap] = {}

    def get(self, model: str, column: str) -> tuple[Bootstrap, Metric] | str:
        """A model's score in a column and its bootstrap; or why it has no value."""
        key = model, self.columns[column].task if column in self.columns else ""
        if "test" not in self._rows.get(key, {}):
            return f"{model} has no answers to the task {key[1] or 'of no name'}"
        rows = self._rows[key]
        if key not in self._scores:
            self._scores[key] = {
                **measured(rows["test"], rows.get("validate", []), self._words),
                **own_numbers.means(rows["test"]),
            }
        metric = self._scores[key].get(column, f"a study does not compute {column}")
        return metric if isinstance(metric, str) else (self._boot(rows["test"]), metric)

    def _boot(self, rows: Sequence[Prediction]) -> Bootstrap:
        """One for all models with the same samples, so that their draws are paired."""
        ids = tuple(row.id for row in rows)
        if ids not in self._boots:
            self._boots[ids] = Bootstrap([row.study for row in rows], self._draws)
        return self._boots[ids]

    def over(self, models: Sequence[str], column: str) -> dict[str, float | None] | None:
        """`value`, `low` and `high` of the mean of several models in a column, each on its seed; None if one has no value.

        Of one seed it is the cell of its run's table, drawn with the same seed. Student's t over seeds needs no draws.
        """
        found = self.of(models, column)
        if found is None:
            return None
        mean = over_seeds([boot.interval(metric) for boot, metric in found])
        if len(found) == 1:
            return self.columns[column].shown(mean, found[0][0].studies)
        return replace(self.columns[column], interval=0).shown(mean, len(found))

    def of(self, models: Sequence[str], column: str) -> list[tuple[Bootstrap, Metric]] | None:
        """The scores of several models in a column; None if one of them has no value."""
        found = [self.get(model, column) for model in models]
        known = [one for one in found if not isinstance(one, str)]
        return known if len(known) == len(found) else None
