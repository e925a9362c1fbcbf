"""`diagcot reward`: components of replies as JSON lines, and what it answers to broken rows."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from diagcot.cli.main import main
from diagcot.rewards import registry
from diagcot.rewards.score import Reference

ROWS: list[dict[str, object]] = [
    {"output": "<think>a</think><answer>At <box>(400,500),(100,100)</box></answer>", "answer": "<box>(100,100),(400,500)</box>"},
    {"output": "", "answer": "a normal film", "progress": 1},
]  # fmt: skip
OPTIONS = ["Edema", "Fracture"]
GOLD = "<think>a</think><answer>B) ✅</answer>"


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_rows_of_a_file_and_of_standard_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(lines(*ROWS) + "\n")
    expected = registry.reward("grounding", "released")(
        [str(row["output"]) for row in ROWS], [Reference(str(row["answer"])) for row in ROWS]
    )
    assert main(["reward", "--name", "grounding", "--mode", "released", str(file)]) == 0
    printed = capsys.readouterr().out
    assert [json.loads(line) for line in printed.splitlines()] == expected
    assert expected[0]["overall"] == 1.0  # corners in any order
    out = tmp_path / "scores.jsonl"
    assert main(["reward", "--name", "grounding", "--mode", "released", "--out", str(out), str(file)]) == 0
    assert out.read_text() == printed and capsys.readouterr().out == ""
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines(*ROWS)))
    assert main(["reward", "--name", "grounding", "--mode", "released", "-"]) == 0
    assert capsys.readouterr().out == printed


def test_progress_options_and_the_default_mode(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.jsonl"
    half = {"output": "<answer>Edema</answer>", "answer": "Edema, Fracture"}
    file.write_text(lines(half, half | {"progress": 1.0}))
    assert main(["reward", "--name", "classification", str(file)]) == 0
    early, late = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert late["labels"] == pytest.approx(early["labels"] ** 2) and 0 < late["labels"] < early["labels"]
    file.write_text(lines({"output": "<answer>Fracture</answer>", "answer": GOLD, "options": OPTIONS}))
    assert main(["reward", "--name", "closed", str(file)]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == 1


def test_the_clinical_report_reward_takes_a_corpus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, corpus = tmp_path / "rows.jsonl", tmp_path / "references.txt"
    report = "the heart is large . there is a small effusion ."
    file.write_text(lines({"output": f"<answer>{report}</answer>", "answer": report}))
    assert main(["reward", "--name", "report", str(file)]) == 1
    assert "(--corpus)" in capsys.readouterr().err
    corpus.write_text(f"{report}\nthe lungs are clear .\n")
    assert main(["reward", "--name", "report", "--corpus", str(corpus), str(file)]) == 0
    assert json.loads(capsys.readouterr().out)["clinical"] == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", ":2 is not a JSON object"),
        ('["a"]', ":2 needs the texts output and answer"),
        ('{"output": "a"}', ":2 needs the texts output and answer"),
        ('{"output": "a", "answer": "b", "progress": 2}', ":2: progress must be a number from 0 to 1"),
        ('{"output": "a", "answer": "b", "options": "c"}', ":2: options must be a list"),
        ('{"output": "a", "answer": "b"}', ":2: the reference of a closed question must be"),
    ],
)
def test_a_broken_row_is_named(row: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(lines({"output": GOLD, "answer": GOLD}) + row + "\n")
    assert main(["reward", "--name", "closed", str(file)]) == 1
    shown = capsys.readouterr()
    assert shown.err.startswith(f"error: {file}{message}") and len(shown.out.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--name", "boxes", "x"], "there is no reward 'boxes'; "),
        (["--name", "groundin", "x"], "did you mean 'grounding'?"),
        (
            ["--name", "open", "--mode", "release", "x"],
            "the reward open has no mode 'release'; did you mean 'released'?",
        ),
        (["--name", "open", "nowhere.jsonl"], "there is no file nowhere.jsonl"),
        (["--name", "report", "--corpus", "nowhere.txt", "x"], "there is no file nowhere.txt"),
        (["--name", "nowhere.py:f", "--mode", "trl", "x"], "there is no Python file nowhere.py"),
        (["--name", "nowhere.py:f", "x"], "say how nowhere.py:f is called: --mode "),
        (["--name", "open", "--mode", "trl", "x"], "calls a function of yours: give --name path/to/file.py:function"),
        (["--name", "open", "."], "there is no file .: "),
        (["--name", "open", "--out", ".", "x"], ". cannot be written: "),
        (["--name", "open", "--out", "nowhere/out", "x"], "nowhere/out cannot be written: "),
        (["--name", "open", "empty"], "empty has no row"),
        (["--name", "report", "--corpus", "latin", "x"], "the file of references is not UTF-8 text (byte 0)"),
    ],
)
def test_mistakes_on_the_command_line(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").touch()
    Path("latin").write_bytes(b"\xe4")
    assert main(["reward", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_a_function_of_the_users_own_that_ends_the_program_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.jsonl").write_text(lines(ROWS[0]))
    (tmp_path / "ends.py").write_text("import sys\ndef f(completions, **columns):\n    sys.exit()\n")
    name = f"{tmp_path}/ends.py:f"
    assert main(["reward", "--name", name, "--mode", "trl", str(tmp_path / "rows.jsonl")]) == 1
    assert f"the reward {name} raised SystemExit, {tmp_path}/ends.py:3: fix it" in capsys.readouterr().err


def test_a_file_that_is_there_stays_unless_all_rows_are_scored(tmp_path: Path) -> None:
    rows, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    rows.write_text("\ufeff" + lines({"output": GOLD, "answer": GOLD}), encoding="utf-8")
    assert main(["reward", "--name", "closed", "--out", str(rows), str(rows)]) == 0
    assert json.loads(rows.read_text())["accuracy"] == 1
    out.write_text("old")
    assert main(["reward", "--name", "closed", "--out", str(out), str(rows)]) == 1
    assert out.read_text() == "old" and {path.name for path in tmp_path.iterdir()} == {"rows.jsonl", "out.jsonl"}


def test_a_reader_that_stops_early_ends_it_quietly(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(lines({"output": GOLD, "answer": GOLD}) * 3000)
    command = ["sh", "-c", f"{sys.executable} -m diagcot reward --name closed rows.jsonl | head -1"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=300)
    assert len(done.stdout.splitlines()) == 1 and done.stderr == ""


def test_no_torch_is_imported(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(lines(*ROWS))
    code = (
        "import sys; from diagcot.cli.main import main\n"
        "assert main(['reward', '--name', 'grounding', 'rows.jsonl']) == 0\n"
        "assert not {'torch', 'transformers', 'vllm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=300)
