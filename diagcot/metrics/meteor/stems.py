"""English stems (Snowball's English stemmer, Porter 2), for METEOR.

snowballstemmer is pinned to 2.2.0, whose stems equal those of METEOR 1.5 on all 163,000 words of METEOR's tables. Version 3
has another algorithm: it stems "added" to "add", not to "ad".
"""

import threading
from functools import lru_cache

from snowballstemmer.english_stemmer import EnglishStemmer

_STEMMER = EnglishStemmer()
_LOCK = threading.Lock()  # a stemmer holds the word that it works on


@lru_cache(maxsize=65536)
def stem(word: str) -> str:
    """The stem of a word in lower case."""
    with _LOCK:
        stemmed: str = _STEMMER.stemWord(word)
    return stemmed
