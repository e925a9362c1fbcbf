"""Names, which become folders, files and jobs; the check that keeps a path in its folder; what a wrong name may mean."""

import contextlib
import difflib
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from diagcot.jobs.errors import UserError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
LONGEST = 64  # characters of a name
LONGEST_KEY = (
    160  # characters of a unit's key. Its files are named by it and by an execution, and a name has at most 255 bytes
)
LONGEST_ID, LONGEST_PART = (
    1000,
    200,
)  # bytes of an id in data, by which files are found, and of a part between its slashes
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
FOLDERS = frozenset({"code", "grown", "scripts", "stages", "submit", "write"})  # in a run's folder, not stages
FILES = (".html", ".json", ".jsonl", ".lease", ".lock", ".log", ".md", ".yaml")  # suffixes of files in a run's folder


def check_name(name: str, what: str = "RUN") -> None:
    """Raise UserError if `name` cannot be the name of a run, stage, cluster, model or collection. what: it names."""
    if not NAME.fullmatch(name) or len(name) > LONGEST:
        raise UserError(
            f"{what}={name[:LONGEST]!r} cannot name a folder: use at most {LONGEST} letters, digits, '-', '_' and '.',"
            " the first a letter or digit"
        )


def check_stage(name: str) -> None:
    """Raise UserError if `name` cannot name a stage, whose folder lies in that of its run."""
    check_name(name, "stage name")
    if name.lower() in FOLDERS or name.lower().endswith(FILES):
        raise UserError(f"stage name={name!r} is reserved: the folder of a run has other files under such names")


def id_fault(text: str) -> str:
    """What is wrong with the id of a patient, study or image of a data set, or with a path; empty if nothing is."""
    if _CONTROL.search(text):
        return "holds a control character, such as a line break"
    size, part = (len(piece.encode(errors="replace")) for piece in (text, max(text.split("/"), key=len)))
    if size > LONGEST_ID:
        return f"has {size:,} bytes, over {LONGEST_ID:,}"
    return f"has {part:,} bytes between slashes, over {LONGEST_PART}" if part > LONGEST_PART else ""


def require_inside(path: Path, root: Path, *, links: bool = True) -> None:
    """Raise UserError unless `path` lies strictly inside `root`. links: follow a link at `path` itself, too."""
    place = path.resolve() if links else path.parent.resolve() / path.name
    if root.resolve() not in place.parents or path.name == "..":
        raise UserError(f"{path} is not inside {root}, so nothing is written or removed there")


def near(name: str, valid: Iterable[str]) -> str:
    """`; did you mean 'x'?` or a list of what is valid; empty if nothing is."""
    choices = sorted(valid)
    if not choices:
        return ""
    match = difflib.get_close_matches(name, choices, 1, 0.5)
    return f"; did you mean {match[0]!r}?" if match else f"; there are: {', '.join(choices)}"


def remove(path: Path, root: Path, *, strict: bool = False) -> None:
    """Remove a file, a link or a folder with all that it holds, if it is there. All folders are removed by this function.

    root: the folder that the caller owns, above `path`. strict: raise OSError for what cannot be removed, instead of leaving
    it. Raises UserError, and removes nothing, unless `path` itself, links above it followed, lies inside `root`.
    """
    require_inside(path, root, links=False)
    with contextlib.nullcontext() if strict else contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=not strict)
        else:
            path.unlink(missing_ok=True)
