"""Sections of a free-text MIMIC-CXR report, by the rules that MIT-LCP published with the collection.

The rules: a heading is a line that starts with one blank, then capitals, blanks and `()/,-`, then a colon and white
space. Headings are mapped to common names; if a name occurs twice, the last section is used. The conclusion of a report
is its impression, else its findings, else its last paragraph, else its comparison. Source: `txt/section_parser.py` and
`txt/create_section_files.py` of github.com/MIT-LCP/mimic-cxr. The rules fail for a few reports; a user who has their
list gives it as a file (`read_overrides`).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from diagcot.data.errors import DataError
from diagcot.jobs.state import reading

PREAMBLE, WHOLE, LAST = "preamble", "full report", "last_paragraph"
CONCLUDING = ("impression", "findings", LAST, "comparison")
"""The sections that may be the conclusion of a report, in order of preference."""

_HEADING = re.compile(r"\n ([A-Z ()/,-]+):\s")
_PARAGRAPH = "\n \n"

# Heading in lower case -> section. The misspellings occur in the collection. In the published table `ndication` is an
# impression, and two misspelt conclusions belong to no section that is read; the published counts depend on this.
_NAMES: dict[str, tuple[str, ...]] = {
    "impression": (
        "impression", "conclusion", "findings and impression", "findings/impression", "findings/ impression",
        "impresson", "imprression", "imoression", "impressoin", "imprssion", "impresion", "imperssion", "mpression",
        "impession",
    ),
    "findings": (
        "findings", "finding", "chest, two views", "reference findings", "findins", "findindgs", "findgings", "findngs",
        "findnings", "finidngs",
    ),
    "indication": (
        "indication", "reason for examination", "reason for exam", "clinical indication", "idication",
        "ndication",  # an impression in MIT-LCP's rules, so that a model would learn the question as the answer
    ),
    "history": ("history", "clinical history", "clinical information", "patient history", "pfi"),
    "comparison": (
        "comparison", "comparisons", "comparison exam", "comparison film", "reference exam", "comparision",
        "comparisions", "comparsion", "comparrison",
    ),
    "examination": ("examination", "exam", "type of examination"),
    "recommendations": ("recommendations", "recommendation", "recommendation(s)"),
    "wet read": ("wet read", "wetread"),
    "conclusion": ("concusion", "coinclusion"),
    "technique": ("technique",),
    "notification": ("notification",),
    "addendum": ("addendum",),
    "date": ("date",),
    "comment": ("comment",),
}  # fmt: skip
_SECTION = {heading: section for section, headings in _NAMES.items() for heading in headings}
_WITHIN = (
    "impression",
    "findings",
    "history",
    "comparison",
    "addendum",
)  # a heading that contains the word; the first match decides
_VIEWS = (  # a heading that names the views starts the findings
    "chest", "portable", "pa and lateral", "lateral and pa", "ap and lateral", "lateral and ap", "frontal and",
    "two views", "frontal view", "pa view", "ap view", "one view", "lateral view", "bone window", "frontal upright",
    "frontal semi-upright", "ribs", "pa and lat",
)  # fmt: skip


@dataclass(frozen=True)
class Section:
    """A section: its common name, the position of its text in the report, and its text."""

    name: str
    start: int
    text: str


@dataclass(frozen=True)
class Override:
    """A correction of the rules for one report.

    span: the conclusion is these characters of the report, and nothing else is read. section: the conclusion is the
    last section of this name. replace: (wrong, right) words, replaced before the sections are found.
    """

    span: tuple[int, int] | None = None
    section: str | None = None
    replace: tuple[tuple[str, str], ...] = ()
    where: str = "an override"  # file and study, for messages


def common_name(heading: str) -> str:
    """The section of a heading: by the table, by a word in it, or by views; otherwise the heading in lower case."""
    name = heading.lower().strip()
    if name in _SECTION:
        return _SECTION[name]
    for word in _WITHIN:
        if word in name:
            return word
    return "findings" if any(view in name for view in _VIEWS) else name


def split(report: str) -> list[Section]:
    """All sections in their order, with the text before the first heading as `preamble`.

    Empty findings and impressions are titles and are left out. Without findings and impression, the text after the first
    blank line of the last section becomes `last_paragraph`. A report without headings is one `full report`.
    """
    report = _normalized(report)
    parts = list(_split_at_headings(report)) or [Section(WHOLE, 0, report)]
    parts = [s for s in parts if s.name not in ("impression", "findings") or s.text.strip()]
    if not any(s.name in ("impression", "findings") for s in parts) and parts:
        last = parts[-1]
        head, gap, rest = last.text.partition(_PARAGRAPH)
        if gap:
            parts[-1] = Section(last.name, last.start, head)
            parts.append(Section(LAST, last.start + len(head) + len(gap), rest))
    return parts


def _split_at_headings(report: str) -> Iterator[Section]:
    heading = _HEADING.search(report)
    if heading is None:
        return
    yield Section(PREAMBLE, 0, report[: heading.start(1)])
    while heading is not None:
        start = heading.end()
        # The rest of the heading's own line cannot start a section.
        following = _HEADING.search(report, max(start, report.find("\n", start)))
        end = following.start() if following else len(report)
        yield Section(common_name(heading.group(1)), start, report[start:end])
        heading = following


def _normalized(report: str) -> str:
    """The report with plain newlines, and with a blank at the start of each line, as in MIMIC-CXR."""
    report = report.replace("\r\n", "\n").replace("\r", "\n")
    if "\n " in report:
        return report
    return "\n " + report.replace("\n", "\n ")


def conclusion(report: str, override: Override | None = None) -> str:
    """The conclusion of a report, unchanged: the text that the labelers of the collection read. It may be empty.

    Raises DataError if the override names a section that the report does not have.
    """
    override = override or Override()
    if override.span is not None:
        return report.replace("\r\n", "\n")[slice(*override.span)]
    last = {section.name: section.text.strip() for section in split(_corrected(report, override))}
    if override.section is not None:
        if override.section not in last:
            raise DataError(
                f"{override.where} names a section that the report does not have; it has {len(last)} others"
            )
        return last[override.section]
    return next((last[name] for name in CONCLUDING if name in last), "")


def sections(report: str, override: Override | None = None) -> dict[str, str]:
    """Name -> text of findings, impression, indication, comparison, last_paragraph and conclusion, where present.

    White space becomes single blanks. If a name occurs twice, the last text that is not empty is used; a history is used
    as the indication if there is none. A report whose conclusion comes from an override has only that, because the
    published table has no sections for it either; so it does not count as having both findings and impression.
    """
    override = override or Override()
    texts: dict[str, str] = {}
    if override.span is None and override.section is None:
        for section in split(_corrected(report, override)):
            if text := " ".join(section.text.split()):
                texts[section.name] = text
        if "indication" not in texts and "history" in texts:
            texts["indication"] = texts["history"]
        texts = {name: text for name, text in texts.items() if name in (*CONCLUDING, "indication")}
    if text := " ".join(conclusion(report, override).split()):
        texts["conclusion"] = text
    return texts


_FREE_HEADING = re.compile(
    r"(?:^|\n|(?<=[.!?;])[ \t])[ \t]*[*#]*((?:clinical )?(?:findings?|impressions?|conclusions?|opinion|indications?|history"
    r"|information|comparisons?|technique|examination|exam|procedure|recommendations?)|findings and impression)[*]*[ \t]*"
    r"(?::|\n|[-–—] )",
    re.IGNORECASE,
)


def free_sections(report: str) -> dict[str, str]:
    """The sections of a report that need not follow MIMIC-CXR's layout, as `sections` gives them.

    Headings may be in any case, and in the middle of a line after a sentence. A report without a heading of findings or of
    an impression is all findings, unless it ends with a paragraph of its own, which is the impression.
    """
    texts = sections(report)
    if "findings" in texts or "impression" in texts:
        return texts
    headings = list(_FREE_HEADING.finditer(report))
    for heading, following in zip_longest(headings, headings[1:]):
        end = following.start() if following else len(report)
        name = {"opinion": "impression"}.get(heading[1].lower(), common_name(heading[1]))
        if text := " ".join(report[heading.end() : end].split()):
            texts["indication" if name == "history" and "indication" not in texts else name] = text
    known = {name: text for name, text in texts.items() if name in (*CONCLUDING, "conclusion", "indication")}
    if LAST in known and not headings:
        return {"findings": " ".join(split(report)[0].text.split()), "impression": known[LAST]}
    if not {"findings", "impression", LAST} & set(known) and (text := " ".join(report.split())):
        return {**known, "findings": text}
    return known


def _corrected(report: str, override: Override) -> str:
    for wrong, right in override.replace:
        report = re.sub(rf"\b{re.escape(wrong)}\b", lambda _, right=right: right, report)  # type: ignore[misc]
    return report


_STUDY = re.compile(r"s?\d{1,8}")


def read_overrides(path: Path) -> dict[str, Override]:
    """Study number -> override, from a JSON file of `{"s12345678": {"span": [0, 120]}, ...}` (docs/data.md).

    Raises DataError that names the file and the study of a record that has another shape.
    """
    try:
        records = reading.read_json(path)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}); see docs/data.md for its format") from error
    if not isinstance(records, dict):
        raise DataError(f"{path} must be one JSON object of study to override; see docs/data.md")
    found = {}
    for number, (study, record) in enumerate(records.items(), 1):
        name = f"study {study}" if _STUDY.fullmatch(study) else f"record {number}"
        found[study.removeprefix("s")] = _override(f"{path}: {name}", record)
    return found


def _override(where: str, record: object) -> Override:
    if not isinstance(record, dict) or not record or set(record) - {"span", "section", "replace"}:
        raise DataError(f"{where} needs an object of span, section or replace")
    span, section, replace = record.get("span"), record.get("section"), record.get("replace", {})
    if span is not None:
        valid = isinstance(span, list) and len(span) == 2 and all(type(place) is int for place in span)
        if not valid or not 0 <= span[0] <= span[1]:
            raise DataError(f"{where}: span must be [first, end], two positions in the report, 0 <= first <= end")
    if section is not None and not isinstance(section, str):
        raise DataError(f"{where}: section must be a name such as recommendations")
    if not isinstance(replace, dict) or not all(isinstance(word, str) for word in replace.values()):
        raise DataError(f"{where}: replace must be an object of wrong word to right word")
    return Override(None if span is None else (span[0], span[1]), section, tuple(replace.items()), where)
