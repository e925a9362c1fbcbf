"""Changes of a study's report by name, in a chain that a recipe spells and every shard records.

A transform takes a study and gives the changed study, or None where the study is to be left out. Some learn from the
training studies first (a vocabulary). All are deterministic; each, and either R2Gen chain, changes nothing more when it
is applied again (as long as the vocabulary knows the point).

    fi              keeps the studies with both findings and impression (DiagCoT's "F-I", method.md 2.1)
    one_line        DiagCoT's line: small letters, tokens apart, no `___`; `prompts.report_answer` adds the headings
    clean_iu        R2Gen's cleaning of IU-Xray: the findings alone, sentences of plain words between ` . `
    clean_mimic     R2Gen's cleaning of MIMIC-CXR: line ends and runs of blanks count as one blank
    vocabulary:N    words that the training studies use fewer than N times become `<unk>`
    words:N         the first N words
    r2gen_iu        clean_iu, vocabulary:3, words:59 (Chen et al. 2020, arXiv:2010.16056: 60 tokens with the start)
    r2gen_mimic     clean_mimic, vocabulary:10, words:99
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from diagcot.data.study import Study

Transform = Callable[[Study], Study | None]
UNKNOWN = "<unk>"

_TOKEN = re.compile(r"<unk>|_+|\d+(?:[.,:/]\d+)*|[^\W_]+(?:['’/-][^\W_]+)*|[^\w\s]")
_UNSAID = re.compile(r"[.,?;*!%^&_+()\]{}:<=>@\[\"/\\']")  # R2Gen drops these; it keeps hyphens, `#`, `$` and the rest


def fi(study: Study) -> Study | None:
    return study if study.findings.strip() and study.impression.strip() else None


def one_line(study: Study) -> Study | None:
    return replace(study, findings=tokens_apart(study.findings), impression=tokens_apart(study.impression))


def tokens_apart(text: str) -> str:
    """Small letters, single blanks between tokens, de-identification marks gone, no point at the end.

    A point, comma or bracket is a token; numbers (`1.5`), and words joined by a hyphen, slash or apostrophe stay whole.
    """
    tokens: list[str] = []
    for token in _TOKEN.findall(text.lower()):
        if not token.startswith("_") and not (token == "." and tokens[-1:] == ["."]):
            tokens.append(token)
    return " ".join(tokens).strip(" .")


def clean_iu(text: str) -> str:
    """R2Gen's cleaning of an IU-Xray report. Numbers of a list (1 to 5) go; an empty sentence leaves its point."""
    text = re.sub(r"\.{2,}", ".", text).replace("1. ", "")
    for opening in (". ", " "):
        for number in "2345":
            text = text.replace(f"{opening}{number}. ", ". ")
    sentences = (_UNSAID.sub("", sentence) for sentence in text.strip().lower().split(". "))
    return " ".join(" ".join((*sentence.split(), ".")) for sentence in sentences)


def clean_mimic(text: str) -> str:
    """R2Gen's cleaning of a MIMIC-CXR report: a line end is a blank, and blanks and `_` do not repeat."""
    return clean_iu(re.sub(r" {2,}", " ", re.sub(r"_{2,}", "_", text.replace("\n", " "))))


def known_words(texts: Iterable[str], least: int) -> frozenset[str]:
    """Words that occur at least `least` times in `texts`."""
    counts = Counter(word for text in texts for word in text.split())
    return frozenset(word for word, count in counts.items() if count >= least)


def _findings(change: Callable[[str], str]) -> Transform:
    """Findings changed; the impression goes, since R2Gen's reports have none. A study left without text is left out."""

    def changed(study: Study) -> Study | None:
        text = change(study.findings) if study.findings else ""
        return replace(study, findings=text, impression="") if text else None

    return changed


def _each_text(change: Callable[[str], str]) -> Transform:
    return lambda study: replace(study, findings=change(study.findings), impression=change(study.impression))


def _vocabulary(least: int, training: Iterable[Study]) -> Transform:
    known = known_words((f"{study.findings} {study.impression}" for study in training), least)
    return _each_text(lambda text: " ".join(word if word in known else UNKNOWN for word in text.split()))


def _words(count: int, training: Iterable[Study]) -> Transform:
    return _each_text(lambda text: " ".join(text.split()[:count]))


_PLAIN: dict[str, Transform] = {
    "fi": fi,
    "one_line": one_line,
    "clean_iu": _findings(clean_iu),
    "clean_mimic": _findings(clean_mimic),
}
_COUNTED: dict[str, Callable[[int, Iterable[Study]], Transform]] = {"vocabulary": _vocabulary, "words": _words}
_CHAINS = {
    "r2gen_iu": ("clean_iu", "vocabulary:3", "words:59"),
    "r2gen_mimic": ("clean_mimic", "vocabulary:10", "words:99"),
}
NAMES = (*_PLAIN, *(f"{name}:N" for name in _COUNTED), *_CHAINS)


def spelled_out(names: Sequence[str]) -> list[str]:
    """The single transforms of a chain. Raises ValueError that names an unknown one."""
    found: list[str] = []
    for name in names:
        kind, _, number = name.partition(":")
        if name in _CHAINS:
            found += _CHAINS[name]
        elif name in _PLAIN or (kind in _COUNTED and number.isdecimal() and int(number) > 0):
            found.append(name)
        else:
            raise ValueError(f"unknown transform {name!r}; known: {', '.join(NAMES)} (N: a number above 0)")
    return found


def chain(names: Sequence[str], training: Callable[[], Iterable[Study]]) -> Transform:
    """The transforms of `names` as one. `training` gives the training studies, for those that learn from them.

    A transform learns from the studies as those before it leave them. Raises ValueError for an unknown name.
    """
    steps: list[Transform] = []

    def so_far(study: Study) -> Study | None:
        changed: Study | None = study
        for step in steps:
            changed = step(changed) if changed is not None else None
        return changed

    for name in spelled_out(names):
        kind, _, number = name.partition(":")
        if kind in _COUNTED:
            learned = (changed for study in training() if (changed := so_far(study)) is not None)
            steps.append(_COUNTED[kind](int(number), learned))
        else:
            steps.append(_PLAIN[name])
    return so_far


def findings_alone(names: Sequence[str]) -> bool:
    """Whether the reports of a chain are R2Gen's: the findings as they are, without headings."""
    return any(name.startswith("clean_") for name in spelled_out(names))
