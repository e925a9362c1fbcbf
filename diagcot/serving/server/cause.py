"""Why a server ended, as its log says it."""

import re
from pathlib import Path

_TRACEBACK = "Traceback (most recent call last)"
_ERROR = re.compile(r"(?:^|[\s:])((?:\w+\.)*[A-Z]\w*(?:Error|Exception|Exit|Interrupt))(?:: (\S.*)|\s*$)")
_GENERAL = re.compile(r"(?i:engine ?core)|EngineDead|See root cause|See stack trace|sys\.exit")
_SYSTEM = re.compile(
    r"No space left on device|failed to map segment|Cannot allocate memory|[Oo]ut of memory|Disk quota exceeded"
    r"|Read-only file system|Permission denied|Resource temporarily unavailable|can't start new thread"
    r"|No working C\+\+ compiler|Too many open files"
)
"""What the system refused: it says more than the exception that carries it, on whatever line it stands."""
_ADVICE = "Consider increasing with ulimit"  # of vLLM, which names what a low limit might lead to
_PREFIX = re.compile(r"^(\([^)]*pid=\d+\)\s*)?((ERROR|INFO|WARNING) \S+ \S+ \[[^\]]*\]\s*)?")


def first_error(log: Path, since: int = 0) -> str:
    """The cause of a server's end, and the path of its log. since: byte of the log to begin at.

    vLLM prints the cause first, then general errors of the processes that depended on the one that failed. So this is the
    first exception of a traceback, with the first line that names what the system refused.
    """
    try:
        lines = log.read_bytes()[since:].decode(errors="replace").splitlines()
    except FileNotFoundError:
        return f"no log was written ({log})"
    cause = _first_exception(lines) or _last_message(lines)
    system = next((line.strip() for line in lines if _SYSTEM.search(line) and _ADVICE not in line), "")
    if system and not _SYSTEM.search(cause):
        cause = f"{system[-200:]} ({cause[:200]})"
    return f"{cause[:400]} (log: {log})"


def _first_exception(lines: list[str]) -> str:
    """The first specific exception from the first traceback on; empty if there is none."""
    start = next((number for number, line in enumerate(lines) if _TRACEBACK in line), 0)
    for number in range(start, len(lines)):
        found = _ERROR.search(lines[number])
        if found and not _GENERAL.search(found[0]):
            if found[2]:
                return f"{found[1]}: {found[2].strip()}"
            # An assertion without words: the line of code says more, which stands before it.
            return f"{found[1]} at {_code_before(lines, number)}"
    return ""


def _last_message(lines: list[str]) -> str:
    errors = [line.strip() for line in lines if re.search(r"[Ee]rror: \S", line)]
    return (errors or [line.strip() for line in lines if line.strip()] or ["it wrote nothing"])[-1]


def _code_before(lines: list[str], place: int) -> str:
    """The last line of code of a traceback, with its file and line."""
    code = [_PREFIX.sub("", line).strip() for line in lines[:place]]
    code = [line for line in code if line and set(line) - set("^~ ")]
    where = next((line for line in reversed(code) if line.startswith("File ")), "")
    return f"`{code[-1]}` ({where})" if code and where else "a place that it does not name"
