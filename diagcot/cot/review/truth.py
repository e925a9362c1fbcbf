"""Whether a trace is true, by what is known of its image apart from the reference: a phantom's drawing, or a study's labels.

A phantom is judged twice: by the reader of statements, against the drawing, and by counting words without it. A trace is
true if neither finds an untruth. So this is no repetition of the filter's rules, which know the reference alone.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from diagcot.cot.filtration.rules import thinking
from diagcot.cot.records import TraceRecord
from diagcot.data.errors import DataError
from diagcot.data.phantom.findings import Findings
from diagcot.data.reports.facts import Facts, contradictions, omissions
from diagcot.data.reports.labeler import mentions
from diagcot.data.reports.statement_phrases import CLEAR, LUNG, PLACED, ZONED
from diagcot.data.reports.statements import NO_FINDING, Statement
from diagcot.data.study import PHANTOM
from diagcot.shards import Shard
from diagcot.text.facts import sections

_DEVICES = {"pacemaker": ("pacemaker", "left"), "line": ("line", "right"), "tube": ("endotracheal tube", "")}
_SIDES = re.compile(r"\b(left|right|bilateral|both|bi(?=-?(?:bas|apic)))")
_ZONES = {"upper": r"\bupper\b|apic|apex", "mid": r"\bmid", "lower": r"\blower\b|\bbas"}
_CORRECTION = re.compile(r"\b(?:wait|hmm|actually|on second|wrong|mistaken|again)\b")
_SOUGHT = re.compile(r"\blook(?:ing)? (?:for|at)\b|\?")


@dataclass(frozen=True)
class Known:
    """What is known of an image: the findings of a phantom in every detail, or the labels of a real study."""

    drawn: tuple[Statement, ...] | None  # of a phantom; None for a real study
    facts: Facts

    @property
    def abnormal(self) -> bool:
        """Whether anything but a device is there."""
        return any(one.status == 1 and not one.device and one.finding not in _NORMAL for one in self.facts.standing)

    def untruths(self, text: str, *, brief: bool = False) -> frozenset[str]:
        """In what a text is untrue: label, side, zone, severity, device; empty if it is true.

        brief: an impression or a conclusion, which need not name devices.
        """
        ours = Facts.of(text)
        wrong = [difference.aspect for difference in contradictions(ours, self.facts)]
        if self.drawn is None:
            return frozenset(aspect for aspect in wrong if aspect == "label")
        missing = [found for found in omissions(ours, self.facts) if not (brief and found.aspect == "device")]
        return frozenset([*wrong, *(found.aspect for found in missing), *_by_words(text, self.drawn, brief)])


_NORMAL = (CLEAR, NO_FINDING)


def known(trace: TraceRecord, shards_root: Path) -> Known | None:
    """What is known of the image of a report's trace, or None."""
    if trace["task"] != "report" or trace["error"]:
        return None
    image = trace["images"][0]
    if trace["meta"].get("phantom"):
        return _drawn(shards_root / image["shard"], image["row"])
    labels = trace["meta"].get("labels")
    return Known(None, Facts.of_labels(labels)) if labels else None


def untruths(trace: TraceRecord, known: Known) -> frozenset[str]:
    """In what the reasoning, the findings or the impression of a trace are untrue."""
    parts = sections(trace["answer"]) or {"findings": trace["answer"]}
    found = known.untruths(thinking(trace))
    return found.union(*(known.untruths(text, brief=name == "impression") for name, text in parts.items()))


def shown(findings: Findings) -> tuple[Statement, ...]:
    """What a drawing shows, as statements."""
    found = [Statement("Cardiomegaly", 1, degree=findings.heart)] if findings.heart != "normal" else []
    found += [Statement("Lung Opacity", 1, place.side, place.zone) for place in findings.opacities]
    found += [Statement("Lung Lesion", 1, place.side, place.zone) for place in findings.nodules]
    found += [Statement("Atelectasis", 1, side, "lower") for side in findings.atelectasis]
    found += [Statement("Edema", 1)] if findings.edema else []
    found += [Statement("Pleural Effusion", 1, effusion.side, degree=effusion.size) for effusion in findings.effusions]
    found += [Statement("Pneumothorax", 1, findings.pneumothorax)] if findings.pneumothorax else []
    if findings.device:
        kind, side = _DEVICES[findings.device]
        found.append(Statement("Support Devices", 1, side, device=kind))
    return tuple(found)


@lru_cache(maxsize=4)
def _shard(path: Path) -> Shard:
    return Shard(path)


def _drawn(path: Path, row: int) -> Known | None:
    """The findings of a phantom whose report says what is drawn; None for a real report on a drawn image."""
    try:
        study = _shard(path).study(_shard(path).study_of(row))
    except DataError:
        return None
    if study.dataset != PHANTOM:
        return None
    return known_of(study.tags)


def known_of(tags: Iterable[str]) -> Known:
    """What is known of a phantom with these tags."""
    drawn = shown(Findings.from_tags(tags))
    labels = {one.finding for one in drawn}
    normal = [Statement(CLEAR, 1)] if not labels & LUNG else []
    normal += [Statement(NO_FINDING, 1)] if labels <= {"Support Devices"} else []
    return Known(drawn, Facts.given([*drawn, *normal]))


def _by_words(text: str, drawn: tuple[Statement, ...], brief: bool) -> Iterator[str]:
    """Untruths by counting words: labels, and the sides and zones in the sentences of each label.

    Only the last sentence about a label counts, and of a text that corrects itself only what follows the correction, which
    may leave things out.
    """
    sentences = re.split(r"(?<=[.?])\s+|\n", text.lower())
    corrected = [place for place, sentence in enumerate(sentences) if _CORRECTION.search(sentence)]
    rest = " ".join(one for one in sentences[corrected[-1] + 1 if corrected else 0 :] if not _SOUGHT.search(one))
    status: dict[str, tuple[str, bool]] = {}  # label -> the last sentence about it, and whether it is present there
    stated_sides: dict[str, set[str]] = {}  # label -> the sides in the sentences that state it
    for label, value, sentence in mentions(rest):
        last, present = status.get(label, ("", False))
        status[label] = sentence, bool(value) or (present and last == sentence)
        if value:
            stated_sides.setdefault(label, set()).update(_sides(sentence))
    stated = {label for label, (_, present) in status.items() if present}
    there = {one.finding for one in drawn}
    missing = there - stated - ({"Support Devices"} if brief else set())
    if stated - there or (missing and not corrected):
        yield "label"
    for label in (stated & there) & PLACED:
        sentence = status[label][0]
        others = [one for one in drawn if status.get(one.finding, ("", False)) == (sentence, True)]
        if _sides(sentence) - {side for one in others for side in one.sides}:
            yield "side"
        if {side for one in drawn if one.finding == label for side in one.sides} - stated_sides[
            label
        ] and not corrected:
            yield "side"
        zones = {zone for zone, words in _ZONES.items() if re.search(words, sentence)}
        if label in ZONED and zones - {one.zone for one in others}:
            yield "zone"


@lru_cache(maxsize=64)  # a long sentence is asked for once for each of its mentions
def _sides(sentence: str) -> frozenset[str]:
    named = set(_SIDES.findall(sentence))
    return frozenset(side for side in ("left", "right") if side in named or named - {"left", "right"})
