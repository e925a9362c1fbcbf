"""The registry of collections: a YAML entry each, in `diagcot/data/readers/datasets/` or a file of the user's own.

An entry says where the collection comes from and, for the reader `table`, which files and columns hold what. How its
conventions are read stands in the fields below; docs/data.md shows a whole entry.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import model_validator

from diagcot.data.study import CHEXPERT_LABELS, SPLITS
from diagcot.jobs import UserError
from diagcot.jobs.settings import Settings, load, near

FOLDER = Path(__file__).resolve().parent / "datasets"


class Column(Settings):
    """Where a value comes from."""

    column: str | list[str] = ""  # of several, the first that is not empty
    value: str = ""  # the same for every row, in place of a column
    pattern: str = ""  # the value must match it whole; its first group is taken where it has one
    map: dict[str, str] = {}  # spelling in the table -> value; spellings that are not here stay
    optional: bool = False  # the table may lack the column

    @model_validator(mode="after")
    def _one(self) -> "Column":
        if bool(self.column) == bool(self.value):
            raise ValueError("needs either `column` or `value`")
        return self

    @property
    def names(self) -> list[str]:
        return [self.column] if isinstance(self.column, str) and self.column else list(self.column)


Field = str | list[str] | Column | None


class Labels(Settings):
    """Labels in one column (names of what is present), or in a column for each class (1, 0, -1 in doubt, or blank)."""

    column: str = ""
    separator: str = ""  # between the names in `column`; "list" for ['a', 'b']
    columns: list[str] = []

    @model_validator(mode="after")
    def _one(self) -> "Labels":
        if bool(self.column) == bool(self.columns):
            raise ValueError("needs either `column` or `columns`")
        return self


class Boxes(Settings):
    """A box a row. Rows in which all numbers are blank have none."""

    label: Field  # what the box shows
    phrase: Field = None  # words of the report that it grounds
    corners: list[str] = []  # columns of x1, y1, x2, y2, or one column that holds all four …
    extent: list[str] = []  # … or of x, y, width, height
    size: list[int] | list[str] = []  # width and height of the image the numbers count in, or their columns;
    # none: the film's own pixels. [1, 1] where they are fractions

    @model_validator(mode="after")
    def _one(self) -> "Boxes":
        if bool(self.corners) == bool(self.extent) or len(self.corners or self.extent) not in (1, 4):
            raise ValueError("needs either `corners` or `extent`, each of four columns or one")
        if self.size and len(self.size) != 2:
            raise ValueError("`size` is a width and a height")
        return self


class TableFile(Settings):
    """A table. A plain string for a field is the name of its column."""

    file: str | list[str]  # patterns under the collection's folder; of several, the first that is there, newest name
    join: Literal["", "image", "study"] = ""  # "": the table names the films; else it adds to films that others name
    optional: bool = False  # the collection is whole without it
    repeats: bool = False  # several rows an image are meant, each with labels or boxes of its own
    delimiter: str = ""  # by the suffix where nothing is said; semicolons and tabs are found out
    header: list[str] = []  # names of the columns of a table without a first line of names
    encoding: str = "utf-8"
    explode: list[str] = []  # JSON: columns that hold lists of the same length
    image: Field = None
    study: Field = None  # none: every film is a study of its own
    patient: Field = None  # none: every study is a patient of its own
    order: Field = None  # date, or number, by which a patient's studies follow each other
    view: Field = None
    split: Field = None
    folder: Field = None  # free for use in the collection's `films`
    path: Field = None  # the film's path
    width: Field = None
    height: Field = None
    report: Field = None  # free text, of which the sections are found …
    findings: Field = None  # … or the sections
    impression: Field = None
    indication: Field = None
    comparison: Field = None
    rater: Field = None  # who read the film, where several did
    labels: Labels | None = None
    boxes: Boxes | None = None

    @property
    def patterns(self) -> list[str]:
        return [self.file] if isinstance(self.file, str) else self.file

    @model_validator(mode="after")
    def _keyed(self) -> "TableFile":
        if getattr(self, self.join or "image") is None:
            raise ValueError(f"needs the column of `{self.join or 'image'}`")
        return self


class Dataset(Settings):
    """An entry of the registry."""

    name: str
    title: str
    url: str
    licence: str
    reader: Literal["table", "mimic_cxr", "iu_xray"] = "table"
    tables: list[TableFile] = []
    films: list[str] = []  # patterns under the collection's folder with {image}, {study}, {patient}, {folder}, {path}
    classes: list[str] = []  # labels that every film was read for: one that is not given is absent
    rename: dict[str, str] = {}  # other spelling -> the collection's own name of a label; "" drops it
    chexpert: dict[str, str] = {}  # own name -> CheXpert label; names of CheXpert's own need none
    agree: int = 1  # how many of several raters must give a label or a box
    held_out: dict[Literal["validate", "test"], float] = {}  # shares of patients, by hash, of tables without a split
    from_report: bool = False  # label reports with the rule-based labeler

    @model_validator(mode="after")
    def _whole(self) -> "Dataset":
        if self.reader == "table" and (not self.films or not any(not table.join for table in self.tables)):
            raise ValueError("the reader `table` needs `films`, and a table without `join` that names them")
        for name, label in self.chexpert.items():
            if label not in CHEXPERT_LABELS:
                raise ValueError(f"chexpert: {name}: {label!r} is no CheXpert label{near(label, CHEXPERT_LABELS)}")
        for table in self.tables:
            if isinstance(table.split, Column) and table.split.value and table.split.value not in SPLITS:
                raise ValueError(f"{table.patterns[0]}: split {table.split.value!r}{near(table.split.value, SPLITS)}")
        return self

    def has(self, section: str) -> bool:
        """Whether studies may have this section of a report."""
        if self.reader != "table":
            return True
        return any(table.report or getattr(table, section) for table in self.tables)


def names() -> list[str]:
    """Names of the collections that come with the project."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


@cache
def _shipped(name: str) -> Dataset:
    return load(FOLDER / f"{name}.yaml", Dataset)


def find(kind: str) -> Dataset:
    """The entry of a name, or of the YAML file at a path. Raises UserError with the nearest name, or file and line."""
    if kind.endswith((".yaml", ".yml")):
        return load(Path(kind), Dataset)
    if kind not in names():
        raise UserError(
            f"no collection is called {kind!r}{near(kind, names())}\n"
            "For one of your own write an entry (docs/data.md) and give the path of its YAML file"
        )
    return _shipped(kind)


def entries() -> Iterator[Dataset]:
    """All entries that come with the project."""
    return map(find, names())
