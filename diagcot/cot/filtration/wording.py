"""Rules about the words of a trace: remains of JSON and of prompts, words that are none."""

import re

_LEAK = re.compile(
    r"<\|[^|<>]*\|>|```|\bjson\b|\b(?:answer|thinking|reasoning|conclusion|report|reply) (?:so far|to review|under review)\b"
    r"|\(title, content\)|\ba reviewer\b|\bas an? (?:ai|artificial intelligence|language model)\b"
    r"|\bthe (?:prompt|instructions?|user) (?:say|ask|want|tell|request)|\b(?:thinking|reasoning) steps\b",
    re.IGNORECASE,
)
_JSON = re.compile(
    r"[{}\\]|\"\s*[:,\]]|[:,\[]\s*\"|:\s*[:,;](?=\s|$)|:\s*\.(?=\s|$)|,\s*,|\bscore\W{0,3}\d"
    r"|(?:^|[.:\n])[^\S\n]*(?:the\s+)?(?:true|false|null|none)\s*(?:\.|$)|^\W*\"(?:\w+)\"",
    re.IGNORECASE,
)
_BRACKETS = re.compile(r"[\[\]]")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_NO_VOWEL = re.compile(r"[^aeiouyäöüéèáóí'’]{4,}")
_CONSONANTS = re.compile(r"[bcdfghjklmnpqrstvwxz]{6,}")
_AGAIN = re.compile(r"([a-z]{3,})\1")  # pneumothothorax
_SAME = re.compile(r"([a-z])\1{2,}")
_LONGEST = 45  # letters of a word; dictionaries of medicine have none that is longer
_REAL = re.compile(r"metasta|aera|testes|murmur|tartar")


def leak(text: str) -> str:
    """The first words that belong to a prompt or a chat's markup, or an empty text."""
    match = _LEAK.search(text)
    return match.group() if match else ""


def json_remains(text: str, sources: str, brackets: bool = True) -> str:
    """The first remains of JSON in prose, or an empty text. sources: texts whose signs are all allowed.

    brackets: whether `[` and `]` count; lists of findings and boxes have them.
    """
    for pattern in (_JSON, _BRACKETS) if brackets else (_JSON,):
        for words in dict.fromkeys(match.group() for match in pattern.finditer(text)):
            if words not in sources:
                return " ".join(words.split())
    return ""


def non_word(text: str, sources: str) -> str:
    """The first word of a text that cannot be English, or an empty text. sources: texts whose words are all allowed.

    It has four letters or more and no vowel, six consonants in a row, one letter three times, a part that stands twice in
    a row, or more than 45 letters. Abbreviations in capitals are words.
    """
    if "\ufffd" in text:
        return "\ufffd"
    known: frozenset[str] | None = None
    for word in _WORD.findall(text):
        lower = word.lower()
        if len(word) <= _LONGEST:
            if not any(sign(lower) for sign in (_NO_VOWEL.fullmatch, _CONSONANTS.search, _SAME.search, _AGAIN.search)):
                continue
            if _REAL.search(lower) or (word.isupper() and len(word) <= 6):
                continue
        known = known if known is not None else frozenset(_WORD.findall(sources.lower()))
        if lower not in known:
            return str(word)
    return ""
