"""Report texts for benchmarks: IU-Xray's where they can be had, else those of invented patients."""

import random
from pathlib import Path

from diagcot.data.errors import DataError
from diagcot.data.phantom.patients import visits
from diagcot.data.readers import fetch
from diagcot.data.readers.iu_xray import IuXray
from diagcot.tasks.prompts import report_answer

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "openi_reports"


def references(count: int) -> tuple[list[str], str]:
    """`count` reports in the suite's layout, and where they are from. Fewer texts than `count` are taken again."""
    found, source = _iu_xray(), "IU-Xray"
    if not found:
        found = [report_answer(*visit.findings.report()) for visit in visits(count)]
        source = "invented patients (no IU-Xray: the package index cannot be reached)"
    return [found[place % len(found)] for place in range(count)], source


def _iu_xray() -> list[str]:
    folder = next((one for one in (fetch.PLACE, SHARED) if (one / "NLMCXR_reports.tgz").is_file()), fetch.PLACE)
    try:
        if folder == fetch.PLACE:
            fetch.fetch(folder)
        collection = IuXray(folder)
        studies = [study for patient in collection.patients() for study in collection.studies(patient)]
    except DataError:
        return []
    texts = [report_answer(study.findings, study.impression) for study in studies]
    return [text for text in texts if text]


def answer(reference: str, others: list[str], rng: random.Random) -> str:
    """What a model might write for a reference: some sentences of it lost, changed, or put in from other reports."""
    sentences = [part.strip() for part in reference.split(" . ") if part.strip()]
    kept = [part for part in sentences if rng.random() < 0.7] or sentences[:1]
    for _ in range(rng.randint(0, 3)):
        kept.insert(rng.randrange(len(kept) + 1), rng.choice(rng.choice(others).split(" . ")))
    words = " . ".join(kept).split()
    for _ in range(len(words) // 12):
        place = rng.randrange(len(words))
        words[place : place + 1] = rng.choice(([], [rng.choice(words)], [words[place], rng.choice(words)]))
    return " ".join(words)
