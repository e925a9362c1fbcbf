"""The section rules of MIMIC-CXR's reports, on made-up reports; lists of exceptional studies; IU-Xray's texts."""

import csv
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagcot.data.errors import DataError
from diagcot.data.phantom.tree import write_tree
from diagcot.data.reports.sections import (
    CONCLUDING,
    Override,
    common_name,
    conclusion,
    read_overrides,
    sections,
    split,
)
from diagcot.jobs import UserError
from diagcot.jobs.testing import context
from diagcot.shards.settings import BuildSettings, check
from diagcot.shards.sources import open_reader, studies

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "data"

REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___F with cough  // eval for infection

 TECHNIQUE:  Chest PA and lateral

 COMPARISON:  None.

 FINDINGS:

 There is no focal consolidation.  The heart
 is normal.

 IMPRESSION:  No acute process.

 NOTIFICATION:  Findings were discussed at 10:15 with Dr. ___.
"""


def test_a_usual_report() -> None:
    found = sections(REPORT)
    assert found["findings"] == "There is no focal consolidation. The heart is normal."
    assert found["impression"] == found["conclusion"] == "No acute process."
    assert found["comparison"] == "None."
    assert found["indication"].startswith("___F with cough")
    assert [section.name for section in split(REPORT)] == [
        "preamble", "examination", "indication", "technique", "comparison", "findings", "impression", "notification",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("heading", "name"),
    [
        ("IMPRESSION", "impression"),
        ("CONCLUSION", "impression"),
        ("FINDINGS AND IMPRESSION", "impression"),
        ("FINDINGS/IMPRESSION", "impression"),
        ("PROVISIONAL FINDINGS IMPRESSION (PFI)", "impression"),  # of two words in it, impression comes first
        ("IMPRESSOIN", "impression"),
        ("CONCUSION", "conclusion"),  # which nothing reads, as published
        (" FINDINGS ", "findings"),
        ("FINIDNGS", "findings"),
        ("CHEST, TWO VIEWS", "findings"),
        ("PORTABLE UPRIGHT FRONTAL VIEW", "findings"),
        ("PA AND LAT CHEST", "findings"),
        ("CLINICAL INFORMATION", "history"),
        ("PFI", "history"),
        ("BRIEF HISTORY", "history"),
        ("REASON FOR EXAM", "indication"),
        ("COMPARISONS", "comparison"),
        ("REFERENCE EXAM", "comparison"),
        ("ADDENDUM TO REPORT", "addendum"),
        ("RECOMMENDATION(S)", "recommendations"),
        ("WETREAD", "wet read"),
        ("TYPE OF EXAMINATION", "examination"),
        ("DOSE", "dose"),
    ],
)
def test_names(heading: str, name: str) -> None:
    assert common_name(heading) == name


def test_the_last_of_a_name_counts() -> None:
    report = " FINDINGS: old.\n IMPRESSION: first.\n FINDINGS: new.\n IMPRESSION: second.\n"
    found = sections("\n" + report)
    assert (found["findings"], found["impression"], found["conclusion"]) == ("new.", "second.", "second.")


def test_an_indication_without_its_first_letter_is_no_impression() -> None:
    found = sections("FINAL REPORT\n NDICATION: Cough.\n\n FINDINGS: Clear.\n")
    assert (found["indication"], found["findings"], "impression" in found) == ("Cough.", "Clear.", False)


def test_an_empty_section_of_findings_is_a_title() -> None:
    found = sections("FINAL REPORT\n CHEST, TWO VIEWS:  \n\n INDICATION: Cough.\n\n FINDINGS: Clear.\n CHEST:\n \n")
    assert found["findings"] == found["conclusion"] == "Clear."


@pytest.mark.parametrize(
    ("report", "concludes"),
    [
        ("\n FINDINGS: f.\n IMPRESSION: i.\n", "i."),
        ("\n COMPARISON: c.\n FINDINGS: f.\n", "f."),
        ("\n COMPARISON: c.\n \n The lungs are clear.\n", "The lungs are clear."),
        ("\n COMPARISON: Nothing new.\n", "Nothing new."),
        ("\n INDICATION: Cough.\n", ""),
        ("\n Lungs.\n \n Clear.\n \n Heart.\n", "Clear.\n \n Heart."),
        ("", ""),
        ("No headings at all.", ""),
    ],
)
def test_what_a_report_concludes(report: str, concludes: str) -> None:
    assert conclusion(report) == concludes


@pytest.mark.parametrize(
    "line", ["Findings: x.", "  FINDINGS: x.", "FINDINGS x.", " FINDINGS:x.", " 2 FINDINGS: x.", " said FINDINGS: x."]
)
def test_what_is_no_heading(line: str) -> None:
    """A heading starts after exactly one blank or more of its own, has no small letter and no digit, and ends in `: `."""
    report = f"\n INDICATION: Cough.\n{line}\n"
    assert ("findings" in sections(report)) == (line == "  FINDINGS: x.")


def test_reports_without_the_leading_blanks_and_with_windows_newlines() -> None:
    assert sections("FINDINGS: a.\r\nIMPRESSION: b.\r\n") == {"findings": "a.", "impression": "b.", "conclusion": "b."}
    assert sections(REPORT.replace("\n", "\r\n")) == sections(REPORT)


HEADINGS = ["FINDINGS", "IMPRESSION", "COMPARISON", "INDICATION", "HISTORY", "TECHNIQUE", "CHEST", "WET READ"]
LINES = st.text("abc .,\n", max_size=30)  # blanks and a colon alone would be a heading


@given(st.lists(st.tuples(st.sampled_from(HEADINGS), LINES), max_size=6), LINES)
def test_splitting_loses_nothing_and_invents_nothing(parts: list[tuple[str, str]], opening: str) -> None:
    report = opening + "".join(f"\n {heading}: {text}" for heading, text in parts)
    if not parts and "\n " not in report:
        return
    found = split(report)
    for section in found:
        assert report[section.start : section.start + len(section.text)] == section.text
    starts = [section.start for section in found]
    assert starts == sorted(starts)
    texts = {name: " ".join(text.split()) for heading, text in parts if (name := common_name(heading))}
    kept = sections(report)
    for name in ("findings", "impression"):
        last = [" ".join(text.split()) for heading, text in parts if common_name(heading) == name and text.strip()]
        assert kept.get(name, "") == (last[-1] if last else "")
    assert conclusion(report) in report
    assert set(kept) <= {*CONCLUDING, "indication", "conclusion"}
    assert not texts or "preamble" in {section.name for section in found}


def test_overrides() -> None:
    report = "\n RECOMMENDATION(S): The lungs are claer.\n FINDINGS: x claer y.\n"
    assert conclusion(report, Override(section="recommendations")) == "The lungs are claer."
    assert conclusion(report, Override(replace=(("claer", "clear"), ("x c", "no")))) == "x clear y."
    assert conclusion(report, Override(replace=(("lae", "!"),))) == "x claer y."  # whole words alone
    assert sections(report, Override(span=(21, 39))) == {"conclusion": "The lungs are clae"}
    assert sections(report, Override(span=(0, 0))) == {}
    with pytest.raises(DataError, match=r"it has 3 others"):
        conclusion(report, Override(section="impression"))


def test_overrides_of_a_file_reach_the_studies(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    write_tree(tree, 4, seed=1, size=32)
    source = {"kind": "mimic_cxr", "path": str(tree), "only_fi": False}
    ctx = context(tmp_path)

    def read(**more: object) -> dict[str, tuple[str, str]]:
        settings = BuildSettings(sources=[source | more])
        reader = open_reader(settings.sources[0], settings, ctx)
        return {s.id: (s.findings, s.impression) for s in studies(settings.sources[0], reader, 0, 1)}

    before = read()
    first, second = sorted(before)[:2]
    word = before[second][0].split()[0]
    file = tmp_path / "overrides.json"
    with pytest.raises(UserError, match=r"overrides.json \(the list of"):
        check(BuildSettings(sources=[source | {"section_overrides": str(file)}]))
    file.write_text(json.dumps({f"s{first}": {"span": [33, 60]}, second: {"replace": {word: "Zebra"}}}))
    after = read(section_overrides=str(file))
    assert after[first][0] == "" and after[first][1]
    file.write_text(json.dumps({f"s{first}": {"section": "gossip"}}))
    with pytest.raises(
        DataError, match=rf"overrides.json: study s{first} names a section that the report does not have"
    ):
        read(section_overrides=str(file))
    assert after[second][0].startswith("Zebra")
    assert {s: t for s, t in after.items() if s not in (first, second)} == {
        s: t for s, t in before.items() if s not in (first, second)
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ('{"s7": ' * 100_000, "cannot be read as JSON"),
        ("[]", "one JSON object"),
        ('{"s7": {}}', "s7"),
        ('{"s7": {"spam": [1, 2]}}', "s7"),
        ('{"s7": {"span": [5, 2]}}', "s7.*span"),
        ('{"s7": {"span": [true, 2]}}', "s7.*span"),
        ('{"s7": {"section": 3}}', "s7.*section"),
        ('{"s7": {"replace": {"a": 1}}}', "s7.*replace"),
    ],
)
def test_a_bad_file_of_overrides_is_named(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "list.json"
    file.write_text(text)
    with pytest.raises(DataError, match=f"(?s)list.json.*{says}"):
        read_overrides(file)


@pytest.mark.skipif(not (SHARED / "openi_reports").is_dir(), reason="no ../shared/data/openi_reports")
def test_texts_of_iu_xray_come_back_from_a_report_laid_out_like_mimics() -> None:
    with (SHARED / "openi_reports" / "indiana_reports.csv").open(encoding="utf-8", newline="") as rows:
        reports = [(" ".join(r["findings"].split()), " ".join(r["impression"].split())) for r in csv.DictReader(rows)]
    both = [(findings, impression) for findings, impression in reports if findings and impression]
    assert len(both) > 3300
    for findings, impression in both:
        lines = re.sub(r" (?=[a-z])", "\n ", findings)
        found = sections(f"FINAL REPORT\n INDICATION: ___\n\n FINDINGS:  {lines}\n\n IMPRESSION: {impression}\n")
        assert (found["findings"], found["impression"]) == (findings, impression)
