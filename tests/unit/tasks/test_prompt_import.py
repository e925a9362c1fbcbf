"""A prompt set from a copy of a release: what is found, what is missing, and what is never overwritten.

The copies are made here, with the names of the files and variables of the releases and with words of our own.
"""

from pathlib import Path

import pytest

from diagcot.cli.main import main
from diagcot.cot.search import prompts
from diagcot.jobs import UserError
from diagcot.tasks.prompt_import import read_release, write_set
from diagcot.tasks.prompt_set import PromptSet

FENCE = '\\n\\n### Layout as JSON:\\n```json\\n{{"CoT": [{{"action": "..."}}]}}\\n```'


def rethink(name: str) -> str:
    return f'gen_prompt_rethink_{name} = """Report: {{}}\\nBefore: {{}}\\nThe way is {name}.{FENCE}"""\n'


SEARCH = (
    f'query_prompt_init = """Look at {{}} and think. {{{{a}}}} %}}{FENCE}"""\n'
    'verify_prompt = """Said: {}\\nReport: {}\\nTrue or False?"""\n'
    + "".join(map(rethink, ("Backtracking", "Exploring_New_Path", "Verification", "Correction")))
    + f'gen_prompt_w_label = """Before: {{}}\\nRight is "{{}}".{FENCE}"""\n'
    f'reformat_to_complex_cot_prompt = """Thoughts: {{}}\\nSay them aloud, with hmm.{FENCE}"""\n'
    'get_final_response_prompt = """Thoughts: {}\\nReport: {}\\nWrite it."""\n'
    "raise SystemExit('this file is read, never run')\n"
)
JUDGE = (
    "class V:\n    def f(self):\n        system_prompt = (\n            'Be strict. '\n"
    "            'Say true or false.'\n        )\n"
)


def convert(text: str) -> str:
    return f"def f(item):\n    return {{'prompt': f{text!r}, 'images': []}}\n"


@pytest.fixture
def diagcot(tmp_path: Path) -> Path:
    """A copy of DiagCoT, without the script of the grounding data."""
    files = {
        "CoT-Collection-Filtration/search_for_complex_reasoning_path-local-x.py": SEARCH,
        "CoT-Collection-Filtration/extract_cot_data_use_72B_VL_model-report.py": JUDGE,
        "EasyR1-main/scripts/convert_medical_dataset.py": convert("Write the report."),
        "EasyR1-main/scripts/convert_chxpert_dataset.py": convert("Name the labels. "),
        "EasyR1-main/examples/format_prompt/medical_spine_report_format.jinja": "<image>{{ content | trim }} Think in tags.",
        "EasyR1-main/examples/format_prompt/medical_grounding_format.jinja": "<image>{{ content | trim }} Boxes in tags.",
    }
    for name, text in files.items():
        path = tmp_path / "clone" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "clone"


def test_the_prompts_of_diagcot(diagcot: Path, tmp_path: Path) -> None:
    found = read_release(diagcot)
    write_set(found, tmp_path / "diagcot")
    texts = PromptSet(str(tmp_path / "diagcot"))
    assert texts.about.answers == "diagcot"
    head = prompts.head(1, "the reference", texts=texts)
    assert head.text == "<image>"
    assert prompts.init(head, texts=texts) == "<image>Look at the reference and think. {a} %}\nAnswer in JSON."
    assert (
        prompts.verify(head, "the heart", "word", texts)
        == "<image>Said: the heart\nReport: the reference\nTrue or False?"
    )
    for strategy, name in (("new_paths", "Exploring_New_Path"), ("backtracking", "Backtracking")):
        text = prompts.rethink(head, "thoughts", strategy, "no", texts=texts)
        assert text == f"<image>Report: the reference\nBefore: thoughts\nThe way is {name}.\nAnswer in JSON."
    assert 'Right is "the reference".' in prompts.label(head, "thoughts", texts=texts)
    assert prompts.rewrite(head, "all of it", texts) == "<image>Thoughts: all of it\nSay them aloud, with hmm."
    judged = prompts.judge(head, "because", "Report", "large", verdict="word", texts=texts)
    assert judged.startswith(
        "<image>Be strict. Say true or false.\n\nComplex_CoT:because\nResponse:large\n\nthe reference"
    )
    assert texts.render("report") == "<image>Write the report." and texts.render("classification", labels=[])
    assert texts.render("format_instruction", task="grounding") == "Boxes in tags."
    assert texts.render("format_instruction", task="report") == "Think in tags."
    assert any(line.startswith("grounding: no text of the key") for line in found.missing)
    assert any("classification: no medical_chxpert_cls_format.jinja" in line for line in found.missing)


def test_the_command_reports_and_never_overwrites(
    diagcot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "mine"
    assert main(["prompts", "import", str(diagcot), "--to", str(to)]) == 0
    told = capsys.readouterr().out
    assert "found    init: query_prompt_init, its JSON layout cut off\n" in told and "missing  grounding: " in told
    assert f"in a recipe: `prompt_set: {to}`" in told
    (to / "report.j2").write_text("<image>Mine.\n")
    assert main(["prompts", "import", str(diagcot), "--to", str(to)]) == 1
    assert "report.j2" in capsys.readouterr().err and (to / "report.j2").read_text() == "<image>Mine.\n"
    assert main(["prompts", "import", str(diagcot), "--to", str(to), "--force"]) == 0
    assert (to / "report.j2").read_text() == "<image>Write the report.\n"
    assert main(["prompts", "list", str(to)]) == 0
    assert f"default      version 1  {PromptSet().digest}" in capsys.readouterr().out


def test_what_cx_mind_published(tmp_path: Path) -> None:
    (tmp_path / "examples/reward_function").mkdir(parents=True)
    (tmp_path / "examples/reward_function/closeQA.py").write_text("")
    (tmp_path / "examples/format_prompt").mkdir()
    (tmp_path / "examples/format_prompt/open.jinja").write_text("{{ content | trim }} First list, then judge.\n\n")
    found = read_release(tmp_path)
    write_set(found, tmp_path / "set")
    texts = PromptSet(str(tmp_path / "set"))
    assert texts.render("format_instruction", task="open") == "First list, then judge." and found.missing


def test_another_folder_or_another_release_is_refused(diagcot: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="is no copy of DiagCoT"):
        read_release(tmp_path / "empty")
    path = next(diagcot.rglob("search_for*.py"))
    path.write_text(SEARCH.replace("Said: {}\\n", ""))
    with pytest.raises(UserError, match="verify_prompt has 1 placeholders, not 2"):
        read_release(diagcot)
