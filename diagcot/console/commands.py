"""Commands in messages, as they can be typed where they are printed.

Messages name make's targets. In a folder without the project's Makefile these do not exist: there the `diagcot` command was
called itself, which says in DIAGCOT_COMMAND how (`COMMAND` in locks/install.py), and messages name its verbs.
"""

import os
import re

VARIABLE = "DIAGCOT_COMMAND"
_VERBS = (
    *("submit", "plan", "scripts", "doctor", "rehearse", "status", "watch", "logs", "failures", "retry", "cancel"),
    *("clean", "space", "remove", "table", "traces", "demo", "study", "sweep"),
)
_TARGET = re.compile(
    rf"\bmake (submit-stage(?P<number>\w+)|submit-(?P<name>eval|all)|(?P<verb>{'|'.join(_VERBS)}))\b"
    r"(?P<options>(?: [A-Z]+=(?:'[^']*'|[^\s`'),;]+))*)"
)
_OPTION = re.compile(r" ([A-Z]+)=")


def typed(text: str) -> str:
    """`text` with `diagcot` commands in place of make's targets, if make was not what was typed."""
    program = os.environ.get(VARIABLE)
    return _TARGET.sub(lambda found: _command(program, found), text) if program else text


def _command(program: str, found: re.Match[str]) -> str:
    stage = found["number"] or found["name"]
    verb = f"submit --stage {stage}" if stage else found["verb"]
    return f"{program} {verb}{_OPTION.sub(lambda option: f' --{option[1].lower()} ', found['options'])}"
