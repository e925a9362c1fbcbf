"""The registry of collections: one YAML entry each, in `diagcot/data/readers/datasets/` or in a file of your own.

An entry says where the collection comes from and, for the reader `table`, which files and columns hold what.
docs/how-to/add-a-collection.md builds one step by step.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from diagcot.data.study import CHEXPERT_LABELS, SPLITS, HeldOut
from diagcot.jobs import UserError
from diagcot.jobs.names import LONGEST, NAME, near
from diagcot.jobs.settings import Settings, load

FOLDER = Path(__file__).resolve().parent / "datasets"


class TableColumn(Settings):
    """Where a value comes from."""

    column: str | list[str] = Field(
        "", description="Name of the column; of several, the first that is not empty in a row is used."
    )
    value: str = Field("", description="A value for every row, instead of a column.")
    pattern: str = Field(
        "",
        description="Regular expression that the whole value must match; if it has a group, the first group is the value.",
    )
    map: dict[str, str] = Field(
        {}, description="Spelling in the table -> value; spellings that are not listed stay as they are."
    )
    optional: bool = Field(False, description="The table may lack the column.")

    @model_validator(mode="after")
    def _check_origin(self) -> "TableColumn":
        if bool(self.column) == bool(self.value):
            raise ValueError("needs either `column` or `value`")
        return self

    @property
    def names(self) -> list[str]:
        """The names of the columns, none for a fixed value."""
        return [self.column] if isinstance(self.column, str) and self.column else list(self.column)


ColumnSpec = str | list[str] | TableColumn | None


class Labels(Settings):
    """Labels of a row: names in one column, or one column for each label (1, 0, -1 in doubt, or blank)."""

    column: str = Field("", description="Column with the names of the labels that are present.")
    separator: str = Field(
        "", description="Text between the names in `column`; `list` for a list such as ['a', 'b']; empty: one name."
    )
    columns: list[str] = Field(
        [], description="Columns named as the labels: 1 present, 0 absent, -1 in doubt, blank not mentioned."
    )
    value: ColumnSpec = Field(
        None, description="With `column`: 1, 0 or -1 for its labels, blank for none; without it they are present."
    )

    @model_validator(mode="after")
    def _check_origin(self) -> "Labels":
        if bool(self.column) == bool(self.columns):
            raise ValueError("needs either `column` or `columns`")
        return self


class Boxes(Settings):
    """The box of a row, or its boxes, if one column lists them. A row whose numbers are all blank has none."""

    label: ColumnSpec = Field(description="The finding that the box shows.")
    phrase: ColumnSpec = Field(None, description="The words of the report that the box shows.")
    corners: list[str] = Field(
        [], description="Columns of x1, y1, x2 and y2, or one column with all four. Give `corners` or `extent`."
    )
    extent: list[str] = Field(
        [], description="Columns of x, y, width and height, or one column with all four. Give `corners` or `extent`."
    )
    size: list[int] | list[str] = Field(
        [],
        description="Width and height of the image that the numbers refer to, in pixels, or the two columns that have"
        " them; [1, 1] for fractions; empty: the `width` and `height` that a table states, or the size of the image file.",
    )

    @model_validator(mode="after")
    def _check_numbers(self) -> "Boxes":
        if bool(self.corners) == bool(self.extent) or len(self.corners or self.extent) not in (1, 4):
            raise ValueError("needs either `corners` or `extent`, each of four columns or one")
        if self.size and len(self.size) != 2:
            raise ValueError("`size` is a width and a height")
        return self


class Questions(Settings):
    """The question of a row with its answer. A row without a question has none."""

    text: ColumnSpec = Field(description="The question.")
    answer: ColumnSpec = Field(
        description="The answer: a text, or a list of several (an empty one is the answer None). Of a question with options"
        " the letters or the texts of those that are right."
    )
    options: str = Field(
        "", description="Column with the list of options, with or without letters (`A. …`, `A: …`), if the row has one."
    )
    earlier: ColumnSpec = Field(
        None, description="Id of the earlier study of the patient with which the question compares this one."
    )
    reason: ColumnSpec = Field(None, description="Why the answer is right.")


class TakenFrom(Settings):
    """The collection that an image was taken from, so that both use one split for it."""

    collection: str = Field(description="Name of the collection, such as `nih_cxr14`.")
    image: ColumnSpec = Field(
        description="Id of the image there. A value that does not match its `pattern` names none."
    )
    patient: ColumnSpec = Field(None, description="Id of the patient there.")


class TableFile(Settings):
    """A table of a collection. Text as the value of a field is the name of its column."""

    file: str | list[str] = Field(
        description="Pattern of the file's path under the collection's folder; of several patterns, the first that"
        " matches. Of several matches the last by name is used, and `.gz` may follow."
    )
    join: Literal["", "image", "study"] = Field(
        "", description="Empty: the table names the images. `image` or `study`: it adds to what other tables name."
    )
    optional: bool = Field(False, description="The collection is complete without this table.")
    sentences: bool = Field(
        False, description="Each row gives a sentence of a section; they are joined. Otherwise the last row counts."
    )
    every: bool = Field(
        False, description="Read every file that matches, each as a part of the table, instead of the last by name."
    )
    required: bool = Field(
        False, description="With `join`: images that no such table names are no part of the collection."
    )
    where: dict[str, str] = Field(
        {},
        description="Column -> regular expression that its whole value must match; other rows are no part of the table.",
    )
    repeats: bool = Field(
        False, description="Several rows of an image are expected, each with labels or boxes of its own."
    )
    delimiter: str = Field(
        "", description="Text between fields; empty: by the file's suffix, and semicolons and tabs are recognised."
    )
    header: list[str] = Field([], description="Names of the columns, for a table without a header line.")
    encoding: str = Field("utf-8", description="Encoding of the text; UTF-8 and UTF-16 marks are recognised.")
    explode: list[str] = Field(
        [],
        description="JSON: columns that hold lists of the same length; each position becomes a row. The fields of listed"
        " objects are columns `name.field`. An object of objects is listed by its members.",
    )
    image: ColumnSpec = Field(None, description="Id of the image; required unless `join` is `study`.")
    study: ColumnSpec = Field(None, description="Id of the study; without it every image is a study.")
    patient: ColumnSpec = Field(None, description="Id of the patient; without it every study is a patient.")
    order: ColumnSpec = Field(None, description="Date or number that sorts the studies of a patient by time.")
    view: ColumnSpec = Field(None, description="Projection: PA, AP, LATERAL or one of their common names.")
    split: ColumnSpec = Field(None, description="Split: train, validate or test, or one of their common names.")
    folder: ColumnSpec = Field(None, description="A value for {folder} in the collection's `images`.")
    path: ColumnSpec = Field(None, description="The path of the image, for {path} in the collection's `images`.")
    width: ColumnSpec = Field(None, description="Width of the original image in pixels.")
    height: ColumnSpec = Field(None, description="Height of the original image in pixels.")
    report: ColumnSpec = Field(None, description="The report as free text, in which the sections are found.")
    findings: ColumnSpec = Field(None, description="The findings section, if the table has sections.")
    impression: ColumnSpec = Field(None, description="The impression section, if the table has sections.")
    indication: ColumnSpec = Field(None, description="The indication section, if the table has sections.")
    comparison: ColumnSpec = Field(None, description="The comparison section, if the table has sections.")
    age: ColumnSpec = Field(
        None, description="Age of the patient at the study, in years, or as DICOM writes it (`061Y`)."
    )
    sex: ColumnSpec = Field(None, description="Sex of the patient: F, M, female or male.")
    rater: ColumnSpec = Field(None, description="Who read the image, if several persons did.")
    taken_from: list[TakenFrom] = Field([], description="Other collections that have the image, by their ids.")
    labels: Labels | None = Field(None, description="Labels of the row.")
    boxes: Boxes | None = Field(None, description="The box of the row.")
    questions: Questions | None = Field(None, description="The question of the row.")

    @property
    def patterns(self) -> list[str]:
        """The patterns of `file`."""
        return [self.file] if isinstance(self.file, str) else self.file

    @model_validator(mode="after")
    def _check_key(self) -> "TableFile":
        if getattr(self, self.join or "image") is None:
            raise ValueError(f"needs the column of `{self.join or 'image'}`")
        return self


class CollectionEntry(Settings):
    """An entry of the registry: one collection."""

    renamed: ClassVar[Mapping[str, str]] = {"films": "images"}

    name: str = Field(
        pattern=rf"^{NAME.pattern}$",
        max_length=LONGEST,
        description="Name of the collection; the first part of the key of its studies.",
    )
    title: str = Field(description="Full name of the collection, for messages.")
    url: str = Field(description="Where to get the collection.")
    licence: str = Field(description="The licence of the collection.")
    reader: Literal["table", "mimic_cxr", "iu_xray"] = Field(
        "table", description="`table` reads the collection by this entry; the others are written in Python."
    )
    tables: list[TableFile] = Field([], description="The tables of the collection.")
    images: list[str] = Field(
        [],
        description="Patterns of image paths under the collection's folder, with {image}, {study}, {patient}, {folder}"
        " and {path}; `*` stands for any text in the name of a folder.",
    )
    classes: list[str] = Field([], description="Labels that every image was read for; one that is not given is absent.")
    rename: dict[str, str] = Field(
        {},
        description="Other spelling, in any case -> the collection's name of a label; an empty name drops the label.",
    )
    chexpert: dict[str, str] = Field(
        {}, description="The collection's name of a label -> CheXpert label; names of CheXpert need no entry."
    )
    agree: int = Field(1, ge=1, description="How many of several raters must give a label or a box, 1 or more.")
    held_out: HeldOut = Field(
        {}, description="Share of the patients in each split, from 0 to 1, chosen by hash; for tables without `split`."
    )
    language: str = Field(
        "en",
        description="Language of the reports and questions, as in ISO 639-1. Tasks that ask in English for a text, and the"
        " collection's own questions, use `en` alone.",
    )
    from_report: bool = Field(False, description="Label the reports with the rule-based labeler.")

    @model_validator(mode="after")
    def _check_entry(self) -> "CollectionEntry":
        if self.reader == "table" and (not self.images or not any(not table.join for table in self.tables)):
            raise ValueError("the reader `table` needs `images`, and a table without `join` that names them")
        for name, label in self.chexpert.items():
            if label not in CHEXPERT_LABELS:
                raise ValueError(f"chexpert: {name}: {label!r} is not a CheXpert label{near(label, CHEXPERT_LABELS)}")
        for table in self.tables:
            if isinstance(table.split, TableColumn) and table.split.value and table.split.value not in SPLITS:
                raise ValueError(f"{table.patterns[0]}: split {table.split.value!r}{near(table.split.value, SPLITS)}")
        return self

    @property
    def states_splits(self) -> bool:
        """Whether a table of the collection may state the split of a study."""
        return any(table.split is not None for table in self.tables)

    def gives(self) -> frozenset[str]:
        """What the collection has that is asked: labels of CheXpert, reports, boxes, views, order, and its own questions."""
        if self.reader != "table":
            return frozenset({"labels", "reports", "views", "order"})
        known = {
            *self.classes,
            *self.chexpert.values(),
            *(n for t in self.tables if t.labels for n in t.labels.columns),
        }
        labelled = self.from_report or bool(known & set(CHEXPERT_LABELS))
        labelled = labelled or (not known and any(table.labels for table in self.tables))
        found = {
            "labels": labelled,
            "reports": self.has("findings") or self.has("impression"),
            "boxes": any(table.boxes for table in self.tables),
            "views": any(table.view is not None and not (isinstance(table.view, TableColumn) and table.view.value)
                         for table in self.tables),
            "order": any(table.order is not None for table in self.tables),
            "questions": self.language == "en" and any(table.questions for table in self.tables),
        }  # fmt: skip
        return frozenset(name for name, has in found.items() if has)

    def has(self, section: str) -> bool:
        """Whether the reports may have this section."""
        if self.reader != "table":
            return True
        return any(table.report or getattr(table, section) for table in self.tables)


def names() -> list[str]:
    """Names of the collections that come with the project."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


@cache
def _shipped(name: str) -> CollectionEntry:
    return load(FOLDER / f"{name}.yaml", CollectionEntry)


def find(kind: str) -> CollectionEntry:
    """The entry of a name, or of the YAML file at a path. Raises UserError with the nearest name, or with file and line."""
    if kind.endswith((".yaml", ".yml")):
        return load(Path(kind), CollectionEntry)
    if kind not in names():
        raise UserError(
            f"no collection has the name {kind!r}{near(kind, names())}\n"
            "For a collection of your own, write an entry (docs/how-to/add-a-collection.md) and give the path of its YAML file"
        )
    return _shipped(kind)


def entries() -> Iterator[CollectionEntry]:
    """All entries that come with the project."""
    return map(find, names())
