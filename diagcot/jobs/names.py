"""The grammar of names, which become folders, files and jobs, and what a wrong name may mean."""

import difflib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from diagcot.jobs.errors import UserError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
LONGEST = 64  # characters of a name
LONGEST_KEY = 160  # characters of a unit's key: its files are named by it and by an execution, in at most 255 bytes
# Bytes of an id in data, by which files are found, and of a part between its slashes.
LONGEST_ID, LONGEST_PART = 1000, 200
HALF = re.compile("[\ud800-\udfff]")
"""Half of a character, which an escape of JSON may write and which UTF-8 has no bytes for."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# What else lies in a run's folder under names without an ending, and the endings of its files.
TAKEN = frozenset({"code", "environments", "grown", "scripts", "stages", "submit", "write"})
ENDINGS = (".html", ".json", ".jsonl", ".lease", ".lock", ".log", ".md", ".yaml")


def check_name(name: str, what: str = "RUN") -> None:
    """Raise UserError if `name` cannot be the name of a run, stage, cluster, model or collection. what: it names."""
    if not NAME.fullmatch(name) or len(name) > LONGEST:
        raise UserError(
            f"{what}={name[:LONGEST]!r} cannot name a folder: use at most {LONGEST} letters, digits, '-', '_' and '.',"
            " the first a letter or digit"
        )


def check_folder(folder: Path) -> None:
    """Raise UserError if a run cannot be in this folder."""
    if HALF.search(str(folder)):
        raise UserError(
            f"{folder} has a folder whose name is not UTF-8, which no record of the run can hold: rename it, or work in"
            " another folder"
        )
    if os.pathsep in str(folder):
        raise UserError(f"{folder} has {os.pathsep!r} in its name, at which PYTHONPATH ends: use other folders")


def check_stage(name: str) -> None:
    """Raise UserError if `name` cannot name a stage, whose folder lies in that of its run."""
    check_name(name, "stage name")
    if name.lower() in TAKEN or name.lower().endswith(ENDINGS):
        raise UserError(f"stage name={name!r} is reserved: the folder of a run has other files under such names")


def is_stage(name: str) -> bool:
    """True if `name` can name a stage."""
    try:
        check_stage(name)
    except UserError:
        return False
    return True


def id_fault(text: str) -> str:
    """What is wrong with the id of a patient, study or image of a data set, or with a path; empty if nothing is."""
    if _CONTROL.search(text):
        return "holds a control character, such as a line break"
    if HALF.search(text):
        return "holds half of a character, which is no text in UTF-8"
    size, part = (len(piece.encode(errors="replace")) for piece in (text, max(text.split("/"), key=len)))
    if size > LONGEST_ID:
        return f"has {size:,} bytes, over {LONGEST_ID:,}"
    return f"has {part:,} bytes between slashes, over {LONGEST_PART}" if part > LONGEST_PART else ""


def near(name: str, valid: Iterable[str]) -> str:
    """`; did you mean 'x'?` or a list of what is valid; empty if nothing is."""
    choices = sorted(valid)
    if not choices:
        return ""
    match = difflib.get_close_matches(name, choices, 1, 0.5)
    return f"; did you mean {match[0]!r}?" if match else f"; there are: {', '.join(choices)}"
