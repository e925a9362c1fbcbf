"""No text of data, models, servers or logs is obeyed by a terminal, on any screen."""

import json
from pathlib import Path

import pytest
from rich.text import Text

from diagcot.cli.main import main
from diagcot.console import terminal, text
from tests.unit.console.console_run import FakeStage, typical_run

HOSTILE = (
    "\x1b]52;c;cm0gLXJmIC8=\x07 \x1b]0;title\x1b\\ \x9b2J \x9d0;title\x9c \x1b[8mhidden \x07\x08\x08"
    " \u202egnp.exe\u202c \u2066x\u2069 \x85\u2028 \x1bP+q\x1b\\ \x7f"
)
OBEYED = {chr(code) for code in [*range(9), *range(11, 32), *range(127, 160)]} | set(
    "\u202a\u202b\u202c\u202d\u202e\u2066\u2069\u2028\u2029\u061c\u200e\u200f"
)


def hostile_run(root: Path) -> Path:
    """A run of which every text that a screen shows is hostile."""
    run = typical_run(root)
    stage = FakeStage(run, "grpo", 2, 2, "3", created=9e9)
    stage.log(0, "7_0-0", f"{HOSTILE}\nall: {HOSTILE}\r\n")
    stage.failure(0, "7_0-0", f"Error{HOSTILE}", HOSTILE, where=[f"{HOSTILE}.py:1 f"], fault_in="own code")
    stage.log(1, "7_1-0", HOSTILE)
    stage.progress(1, "7_1-0", 1, 2, 1, host=HOSTILE, **{HOSTILE: HOSTILE, "loss": 1.0})
    stage.write("summary.json", {"state": "failed", "why": HOSTILE, "units": 2, "counts": {}})
    stage.write("unsubmitted.json", {"finaliser": "1", "why": HOSTILE})
    done = FakeStage(run, "texts", 1, 1, "3", created=9e9)
    done.done(0, 1)
    counts = {"warnings": [HOSTILE], "needed": {HOSTILE: 0}, "sources": {HOSTILE: {"lost": {"rows": {HOSTILE: 3}}}}}
    done.write("summary.json", {"state": "done", "why": "", "units": 1, "counts": counts})
    (run / "run.json").write_text(json.dumps({"recipe": HOSTILE, "cluster": HOSTILE}))
    (run / "cluster.yaml").write_text(json.dumps({"executor": "local", "environment": {}}))
    (run / "reused.json").write_text(
        json.dumps({"films": dict.fromkeys(("run", "stage", "folder", "product"), HOSTILE.replace("/", ""))})
    )
    (run / "study.md").write_text(HOSTILE)
    return run


@pytest.mark.parametrize(
    "verb",
    [
        ("status",), ("failures",), ("logs", "--stage", "grpo"), ("logs", "--unit", HOSTILE), ("logs", "--stage", HOSTILE),
        ("table",), ("traces",), ("space",), ("verify",), ("watch",), ("retry", "--stage", HOSTILE), ("retry",),
    ],
)  # fmt: skip
@pytest.mark.parametrize("coloured", [False, True])
def test_no_verb_sends_what_a_terminal_obeys(
    verb: tuple[str, ...],
    coloured: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = hostile_run(tmp_path / "logs")
    if coloured and verb[0] != "watch":
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm-256color")
    main([*verb, "--logs", str(run.parent), "--run", run.name])
    shown = capsys.readouterr()
    own_styles = terminal.re.sub(r"\x1b\[[0-9;]*m", "", shown.out)
    assert shown.out + shown.err and "Traceback" not in shown.err
    assert not OBEYED.intersection(own_styles + shown.err)
    assert "\x1b[8m" not in shown.out


def test_the_screens_own_styles_stay(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    with terminal.guarded():
        text.console().print(Text(f"a{HOSTILE}b", "red"), soft_wrap=True)
        print("plain \x1b[31m", "tab\there")
    out = capsys.readouterr().out
    assert out.startswith("\x1b[31ma") and "\x1b[0m\n" in out and f"plain {terminal.MARK}[31m tab\there\n" in out
    assert out.count("\x1b") == 2
