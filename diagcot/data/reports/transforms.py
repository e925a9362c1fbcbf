"""Changes of reports by name, in a chain that a recipe gives and every shard records.

A transform takes a study and returns the changed study, or None if the study is to be left out. Some read the training
studies first, for a vocabulary. All are deterministic. Applying a transform or an R2Gen chain a second time changes
nothing, as long as the vocabulary contains the full stop.

    fi              keeps the studies with both findings and impression ("F-I" of DiagCoT, arXiv:2509.06409)
    one_line        DiagCoT's line: lower case, tokens apart, no `___`; `prompts.report_answer` adds the headings
    clean_iu        R2Gen's cleaning of IU-Xray: only the findings, sentences of plain words between ` . `
    clean_mimic     R2Gen's cleaning of MIMIC-CXR: line ends and several blanks become one blank
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
_REMOVED = re.compile(r"[.,?;*!%^&_+()\]{}:<=>@\[\"/\\']")  # R2Gen removes these; it keeps hyphens, `#`, `$` and others


def fi(study: Study) -> Study | None:
    """The study if it has both findings and impression."""
    return study if study.findings.strip() and study.impression.strip() else None


def one_line(study: Study) -> Study | None:
    """The study with findings and impression in DiagCoT's layout of tokens."""
    return replace(study, findings=tokens_apart(study.findings), impression=tokens_apart(study.impression))


def tokens_apart(text: str) -> str:
    """The text in lower case with single blanks between tokens, without de-identification marks and final full stop.

    A full stop, comma or bracket is a token. Numbers (`1.5`) and words joined by hyphen, slash or apostrophe are one token.
    """
    tokens: list[str] = []
    for token in _TOKEN.findall(text.lower()):
        if not token.startswith("_") and not (token == "." and tokens[-1:] == ["."]):
            tokens.append(token)
    return " ".join(tokens).strip(" .")


def clean_iu(text: str) -> str:
    """R2Gen's cleaning of an IU-Xray report. List numbers (1 to 5) are removed; an empty sentence keeps its full stop.

    Source: `modules/tokenizers.py` of github.com/cuhksz-nlp/R2Gen (Chen et al. 2020, arXiv:2010.16056).
    """
    text = re.sub(r"\.{2,}", ".", text).replace("1. ", "")
    for opening in (". ", " "):
        for number in "2345":
            text = text.replace(f"{opening}{number}. ", ". ")
    sentences = (_REMOVED.sub("", sentence) for sentence in text.strip().lower().split(". "))
    return " ".join(" ".join((*sentence.split(), ".")) for sentence in sentences)


def clean_mimic(text: str) -> str:
    """R2Gen's cleaning of a MIMIC-CXR report: a line end is a blank, and repeated blanks and `_` become one."""
    return clean_iu(re.sub(r" {2,}", " ", re.sub(r"_{2,}", "_", text.replace("\n", " "))))


def known_words(texts: Iterable[str], least: int) -> frozenset[str]:
    """The words that occur at least `least` times in `texts`."""
    counts = Counter(word for text in texts for word in text.split())
    return frozenset(word for word, count in counts.items() if count >= least)


def _findings(change: Callable[[str], str]) -> Transform:
    """Change the findings and drop the impression, because R2Gen's reports have none. Studies without text are left out."""

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


def single_transforms(names: Sequence[str]) -> list[str]:
    """The single transforms of a chain. Raises ValueError that names an unknown transform."""
    single: list[str] = []
    for name in names:
        kind, _, number = name.partition(":")
        if name in _CHAINS:
            single += _CHAINS[name]
        elif name in _PLAIN or (kind in _COUNTED and number.isdecimal() and int(number) > 0):
            single.append(name)
        else:
            raise ValueError(f"unknown transform {name!r}; known: {', '.join(NAMES)} (N: a number above 0)")
    return single


def chain(names: Sequence[str], training: Callable[[], Iterable[Study]]) -> Transform:
    """The transforms of `names` as one. training: gives the training studies, for transforms that need them.

    A transform reads the training studies as changed by the transforms before it. Raises ValueError for an unknown name.
    """
    steps: list[Transform] = []

    def apply(study: Study) -> Study | None:
        changed: Study | None = study
        for step in steps:
            changed = step(changed) if changed is not None else None
        return changed

    for name in single_transforms(names):
        kind, _, number = name.partition(":")
        if kind in _COUNTED:
            changed_training = (changed for study in training() if (changed := apply(study)) is not None)
            steps.append(_COUNTED[kind](int(number), changed_training))
        else:
            steps.append(_PLAIN[name])
    return apply


def findings_alone(names: Sequence[str]) -> bool:
    """Whether the reports of a chain are those of R2Gen: only the findings, without headings."""
    return any(name.startswith("clean_") for name in single_transforms(names))
