"""What METEOR 1.5 knows of English words, read from the jar and the paraphrase table of the pycocoevalcap wheel."""

import io
import os
import re
import threading
import zipfile
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diagcot.jobs.state import reading
from diagcot.metrics.meteor import alignment, paraphrases, phrases
from diagcot.metrics.meteor.stems import stem

_ALPHA = "A-Za-zŠŽšžŸÀ-ÖØ-öø-žЀ-ӿԀ-ԧꙀ-ꙮ꙾-ꚗᴀ-ᵿ"
_PLAIN = re.compile(r"[0-9a-z ]*")  # nothing to normalise
# What `-norm` does to a line of English, in order (edu.cmu.meteor.util.Normalizer).
_RULES = tuple(
    (re.compile(pattern, re.ASCII), new)
    for pattern, new in (
        (rf"([^0-9{_ALPHA}\s.'`,\-‘’])", r" \1 "),
        (r"([^0-9])[,]([^0-9])", r"\1 , \2"),
        (r"([0-9])[,]([^0-9])", r"\1 , \2"),
        (r"([^0-9])[,]([0-9])", r"\1 , \2"),
        (r"[`‘’]", "'"),
        (r"[“”]|''", ' " '),
        ("–|--", "-"),
        (rf"([0-9{_ALPHA}.])-([0-9{_ALPHA}])", r"\1 \2"),
        (rf"([^{_ALPHA}])'([^{_ALPHA}])", r"\1 ' \2"),
        (rf"([^{_ALPHA}0-9])'([{_ALPHA}])", r"\1 ' \2"),
        (rf"([{_ALPHA}])'([^{_ALPHA}])", r"\1 ' \2"),
        (rf"([{_ALPHA}])'([{_ALPHA}])", r"\1 '\2"),
        (r"([0-9])'(s)", r"\1 '\2"),
    )
)
_DOTS = re.compile(r"\.(\.+)")
_MORE_DOTS = re.compile(r"DOTMULTI\.([^.])")
_LETTER = re.compile(f"[{_ALPHA}]")
_BLANKS = re.compile("[ \u2000-\u200a\u202f\u205f\u3000\xa0]+")
_JAVA_BLANKS = re.compile("[ \t\n\r\f]+")

# WordNet's endings and what they stand for, in the order in which METEOR tries them.
_ENDINGS = (
    ("s", ""), ("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"), ("men", "man"), ("ies", "y"),
    ("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", ""), ("er", ""),
    ("est", ""), ("er", "e"), ("est", "e"),
)  # fmt: skip


Words = NDArray[np.int32]
_PART = 256  # texts that a thread aligns at once
_WORDS = 1_000_000  # words remembered before all are forgotten: a policy may write ever new ones


def _java_hash(word: str) -> int:
    """Java's hash of a string, by which METEOR tells words apart, 32 bits signed."""
    found = 0
    units = word.encode("utf-16-le", "surrogatepass")
    for low, high in zip(units[::2], units[1::2], strict=True):
        found = (31 * found + low + 256 * high) & 0xFFFFFFFF
    return found - (1 << 32) if found >> 31 else found


class Lexicon:
    """Words by number, and tables of what METEOR knows of them, filled as words are met. One for a process.

    Raises StorageError, and OSError or KeyError where the wheel's files are missing or broken.
    """

    def __init__(self, jar: Path) -> None:
        # zipfile takes a read that fails for a file that is no archive, so it gets the bytes.
        with zipfile.ZipFile(io.BytesIO(reading.read_bytes(jar))) as files:
            read = {
                name: files.read(name).decode("utf-8")
                for name in (
                    "function/english.words",
                    "nonbreaking/english.prefixes",
                    "synonym/english.exceptions",
                    "synonym/english.synsets",
                )
            }
        self._paraphrases = jar.parent / "data" / "paraphrase-en.gz"
        self._function = frozenset(read["function/english.words"].split("\n"))
        entries = [line.split() for line in read["nonbreaking/english.prefixes"].split("\n")]
        self._prefixes = {entry[0]: len(entry) > 1 for entry in entries if entry and not entry[0].startswith("#")}
        self._bases: dict[str, list[str]] = defaultdict(list)
        lines = read["synonym/english.exceptions"].split("\n")
        for base, derived in zip(lines[::2], lines[1::2], strict=False):
            for word in derived.split():
                self._bases[word].append(base)
        lines = read["synonym/english.synsets"].split("\n")
        self._synsets = dict(zip(lines[::2], lines[1::2], strict=False))
        self._lock = threading.Lock()
        self._forget()

    def counts(self, hyps: Sequence[str], refs: Sequence[str]) -> NDArray[np.float64]:
        """METEOR's counts of tokenised texts against one reference each, (N, 23)."""
        with self._lock:
            if len(self._numbers) > _WORDS:
                self._forget()
            ours, theirs = [self.words(text) for text in hyps], [self.words(text) for text in refs]
            words = self._words, self._begins, self._sets

        def aligned(at: int) -> NDArray[np.float64]:
            return self._aligned(ours[at : at + _PART], theirs[at : at + _PART], words)

        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            found = list(pool.map(aligned, range(0, len(hyps), _PART)))
        return np.concatenate(found) if found else np.zeros((0, 23))

    def _aligned(self, ours: list[Words], theirs: list[Words], words: tuple[Any, ...]) -> NDArray[np.float64]:
        empty = np.zeros(0, np.int32)
        found: NDArray[np.float64] = alignment.counts(
            np.concatenate([empty, *ours]),
            np.cumsum([len(text) for text in ours], dtype=np.int64),
            np.concatenate([empty, *theirs]),
            np.cumsum([len(text) for text in theirs], dtype=np.int64),
            *words,
            self.paraphrases,
        )
        return found

    def _forget(self) -> None:
        """Begin again with no words; what was handed out stays as it is."""
        self._numbers: dict[str, int] = {}
        self._words = (
            np.zeros(1024, np.int32),  # Java's hash of the word
            np.zeros(1024, np.int32),  # and of its stem
            np.zeros(1024, np.int8),  # whether it is a function word
            np.zeros(1024, np.uint64),  # a bit for each of its synsets, taken modulo 64
            np.zeros(1024, np.uint64),  # hash of its bytes
        )
        self._begins = np.zeros(1025, np.int64)  # of each word's synsets in `_sets`
        self._sets = np.zeros(4096, np.int32)
        self.words = lru_cache(maxsize=16384)(self._words_of)  # a reference meets many texts

    def _words_of(self, text: str) -> NDArray[np.int32]:
        """A text as numbers of its normalised words, in lower case."""
        words = self._split(text)
        try:
            return np.array(list(map(self._numbers.__getitem__, words)), np.int32)
        except KeyError:  # of a word that is new
            return np.array([self._number(word) for word in words], np.int32)

    def _split(self, text: str) -> list[str]:
        if _PLAIN.fullmatch(text):
            return text.split()
        return [word for word in _JAVA_BLANKS.split(self.normalised(text).lower()) if word]

    def normalised(self, text: str) -> str:
        """A line as METEOR's option `-norm` leaves it."""
        (separate, replacement), *rules = _RULES
        line = separate.sub(replacement, f" {text} ")
        line = _DOTS.sub(r" DOTMULTI\1", line)
        while "DOTMULTI." in line:
            line = _MORE_DOTS.sub(r"DOTDOTMULTI \1", line).replace("DOTMULTI.", "DOTDOTMULTI")
        for pattern, new in rules:
            line = pattern.sub(new, line)
        words = [word for word in _JAVA_BLANKS.split(line) if word]
        following: list[str] = [*words[1:], ""]
        both = zip(words, following, strict=True)
        line = " ".join(self._stopped(word, after) if word[-1] == "." else word for word, after in both)
        while "DOTDOTMULTI" in line:
            line = line.replace("DOTDOTMULTI", "DOTMULTI.")
        return _BLANKS.sub(" ", line.replace("DOTMULTI", ".")).strip("".join(map(chr, range(33))))

    def _stopped(self, word: str, after: str) -> str:
        """A word that ends with a point, which is kept, dropped or split off."""
        if len(word.encode("utf-16-le", "surrogatepass")) <= 2:
            return word
        base = word[:-1]
        if "." in base and _LETTER.search(base):
            return word.replace(".", "")
        numeric = self._prefixes.get(base)
        if numeric is False or "a" <= after[:1] <= "z" or (numeric and "0" <= after[:1] <= "9"):
            return word
        return base + " ."

    def _number(self, word: str) -> int:
        number = self._numbers.get(word)
        if number is not None:
            return number
        number = len(self._numbers)
        forms, stems, function, masks, hashes = self._words
        if number == len(forms):
            self._words = tuple(np.concatenate((table, np.zeros_like(table))) for table in self._words)  # type: ignore[assignment]
            self._begins = np.concatenate((self._begins, np.zeros(number, np.int64)))
            forms, stems, function, masks, hashes = self._words
        forms[number], stems[number] = _java_hash(word), _java_hash(stem(word))
        function[number] = word in self._function
        hashes[number] = phrases.word_hash(np.frombuffer(word.encode("utf-8", "replace"), np.uint8))
        sets = sorted(self._all_synsets(word))
        begin = self._begins[number]
        while begin + len(sets) > len(self._sets):
            self._sets = np.concatenate((self._sets, np.zeros_like(self._sets)))
        self._sets[begin : begin + len(sets)] = sets
        self._begins[number + 1] = begin + len(sets)
        masks[number] = sum({1 << one % 64 for one in sets})
        self._numbers[word] = number
        return number

    def _all_synsets(self, word: str) -> set[int]:
        bases = self._bases.get(word) or [self._morph(word)]
        return {int(one) for form in (word, *bases) for one in self._synsets.get(form, "").split()}

    def _morph(self, word: str) -> str:
        """WordNet's base form of an inflected word, or nothing."""
        if word.endswith("ss") or len(word) <= 2:
            return word
        for ending, new in _ENDINGS:
            if word.endswith(ending):
                base = word[: -len(ending)] + new
                if base in self._synsets:
                    return base + ("ful" if word.endswith("ful") else "")
        return ""

    @cached_property
    def paraphrases(self) -> paraphrases.Paraphrases:
        """The paraphrase table, read when it is first asked for."""
        return paraphrases.load(self._paraphrases)
