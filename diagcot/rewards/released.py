"""How the published rewards read a reply, faults included: only the `released` modes and their ablations use this.

Sources: the reward functions in the EasyR1 copies of TMLSIAT/DiagCoT-main and SII-WenjieLisjtu/CX-Mind. Everything else
reads replies with `diagcot.text`.
"""

import re

from diagcot.data.study import CHEXPERT_LABELS, Box
from diagcot.text import boxes, layout
from diagcot.text.labels import NO_FINDING
from diagcot.text.options import RIGHT, WRONG

PHANTOM = Box("", 0.0, 0.0, 0.1, 0.1)
"""The box that the release reads out of a sentence that says there is nothing."""

_SINGLE = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL)
_INTERLEAVED = re.compile(r"\s*(?:<think>.*?</think>\s*<answer>.*?</answer>\s*)+", re.DOTALL)
_ANSWER = re.compile(r"<answer>.*?</answer>", re.DOTALL)
_THINK = re.compile(r"<think>(.*?)</think>", re.DOTALL)
_OPTION = re.compile(r"[A-G]", re.IGNORECASE)
_LABEL_SENTENCE = re.compile(r"the labels? of this x-?ray image (?:is|are)\s*:", re.IGNORECASE)
_NOTHING = ("no finding", "no abnormalit")


def is_single(output: str) -> bool:
    """True if the output is a think and an answer; further tags inside either are overlooked (DiagCoT)."""
    return _SINGLE.fullmatch(output) is not None


def is_interleaved(output: str) -> bool:
    """True if the output is one or more pairs; an empty or copied think counts (CX-Mind)."""
    return _INTERLEAVED.fullmatch(output) is not None


def has_answer(output: str) -> bool:
    """True if the output has an answer block (DiagCoT)."""
    return _ANSWER.search(output) is not None


def thinking(output: str) -> str:
    """Text of the first closed think block, empty if there is none (DiagCoT)."""
    block = _THINK.search(output)
    return block.group(1) if block else ""


def option(text: str) -> str:
    """First letter A to G of any word, in either case: "The answer is C" gives E (CX-Mind)."""
    match = _OPTION.search(text)
    return match.group().upper() if match else ""


def diseases(text: str) -> frozenset[str]:
    """Parts between commas, semicolons and line ends in lower case, marks and headings included (CX-Mind)."""
    return frozenset(part.strip().lower() for part in re.split(r"[,;\n]", text) if part.strip())


def subject(text: str) -> str:
    """The disease that a middle step `X ✅` or `X ❌` judges, in lower case (CX-Mind)."""
    return " ".join(re.sub(f"[{RIGHT}{WRONG}]", "", text).lower().strip(" .").split())


def chexpert(output: str) -> frozenset[str]:
    """CheXpert labels of an output (DiagCoT): an empty item counts as Enlarged Cardiomediastinum, and "no finding"
    anywhere discards the rest.
    """
    text = _label_region(output)
    if any(phrase in text for phrase in _NOTHING):
        return frozenset({NO_FINDING})
    names = {name.lower(): name for name in CHEXPERT_LABELS[1:]}
    labels = set()
    for part in text.split(","):
        item = part.strip().strip(".;:!?").strip()
        exact = [name for name in names if name == item]
        labels.update(exact or [name for name in names if item in name or name in item][:1])
    return frozenset(names[name] for name in labels or {name for name in names if name in text})


def grounding_boxes(text: str) -> list[Box]:
    """Well-formed boxes of a text; the phantom box for a sentence that says there is none (DiagCoT)."""
    well_formed = [box for box in boxes.parse(text) if boxes.is_well_formed(box)]
    return well_formed or ([PHANTOM] if boxes.says_none(text) else [])


def _label_region(output: str) -> str:
    """What follows the last label sentence, otherwise the answer block, otherwise everything; in lower case."""
    sentences = list(_LABEL_SENTENCE.finditer(output))
    if not sentences:
        return layout.first_answer(output).lower()
    return re.split(r"</?\w+>", output[sentences[-1].end() :])[0].strip().lower()
