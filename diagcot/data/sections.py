"""Sections of a free-text radiology report, as in MIMIC-CXR's text files: `HEADING: text`, headings in upper case."""

import re

_HEADING = re.compile(r"^[ \t]*([A-Z][A-Z /,&()\-]{2,60}?)[ \t]*:", re.MULTILINE)
_NAMES = {
    "findings": (
        "FINDINGS", "FINDING", "REPORT", "CHEST", "PORTABLE CHEST", "FRONTAL AND LATERAL VIEWS", "PA AND LATERAL VIEWS",
    ),
    "impression": ("IMPRESSION", "IMPRESSIONS", "CONCLUSION", "CONCLUSIONS", "SUMMARY", "OPINION"),
    "indication": (
        "INDICATION", "INDICATIONS", "HISTORY", "CLINICAL HISTORY", "CLINICAL INFORMATION", "REASON FOR EXAM",
        "REASON FOR EXAMINATION", "REASON FOR THE EXAM", "CLINICAL INDICATION", "PATIENT HISTORY",
    ),
    "comparison": ("COMPARISON", "COMPARISONS", "COMPARISON STUDY", "COMPARISON EXAM"),
}  # fmt: skip
_SECTION = {heading: section for section, headings in _NAMES.items() for heading in headings}
_JOINED = re.compile(r"FINDINGS?\s*(AND|/|&|,)\s*IMPRESSIONS?")


def sections(report: str) -> dict[str, str]:
    """findings, impression, indication and comparison of a report; a section that is not there is absent.

    White space is normalised to single blanks. A heading met twice keeps the last non-empty text (radiologists correct
    reports by repeating a section). A joined `FINDINGS AND IMPRESSION` counts as findings.
    Headings that are not of these four (TECHNIQUE, NOTIFICATION …) end the section before them and are dropped.
    """
    found: dict[str, str] = {}
    marks = list(_HEADING.finditer(report))
    ends = [mark.start() for mark in marks[1:]] + [len(report)]
    for mark, end in zip(marks, ends, strict=False):
        heading = " ".join(mark.group(1).split())
        section = "findings" if _JOINED.fullmatch(heading) else _SECTION.get(heading)
        text = " ".join(report[mark.end() : end].split())
        if section and text:
            found[section] = text
    return found
