"""Prompt sets: what they hold, how they are rendered, and how a stage finds the one that was planned."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from diagcot.cot.search import prompts
from diagcot.cot.settings import CollectSettings
from diagcot.jobs import UserError
from diagcot.tasks import prompt_set
from diagcot.tasks.prompt_set import DEFAULT, FOLDER, NAMES, PromptSet

ALL: dict[str, dict[str, Any]] = {  # prompt -> the variables that it is given
    "system": {},
    "head": {"images": 2, "reference": "r", "question": "q"},
    "init": {"task": "report"},
    "verify": {"conclusion": "c", "verdict": "reasoned"},
    "rethink": {"thinking": "t", "strategy": "correction", "reason": "x", "task": "report"},
    "label": {"thinking": "t", "reason": "x", "answer": ""},
    "rewrite": {"thinking": "t"},
    "final": {"reasoning": "t", "sections": ["findings"]},
    "retry": {"fault": "f"},
    "closed": {"answer": "A"},
    "open": {"answer": "Edema"},
    "judge": {"reasoning": "t", "name": "Report", "answer": "a", "gold": "", "verdict": "scored", "image": True},
    "report": {"images": 1, "earlier": 2, "age": "61", "sex": "female", "indication": "Cough.", "comparison": "None."},
    "classification": {"labels": ["Edema", "Fracture"]},
    "grounding": {"label": "edema"},
    "presence": {"label": "edema"},
    "format_instruction": {"task": "report"},
}


@pytest.mark.parametrize("name", ["default", "clean", "clinical"])
def test_every_prompt_is_plain_text_and_short(name: str) -> None:
    texts = PromptSet(name)
    system = texts.render("system")
    assert set(ALL) | {"conclusion"} == set(NAMES)
    for prompt, variables in ALL.items():
        text = texts.render(prompt, **variables)
        assert text == text.rstrip(" ") and "{" not in text and "}" not in text and "  " not in text
        assert len(f"{system} {text}".split()) <= 175, prompt


def test_the_default_set_asks_as_a_radiologist_reads() -> None:
    system = DEFAULT.render("system").lower()
    for word in (
        *("quality", "airways", "lungs", "pleura", "heart and mediastinum", "bones", "devices and lines", "position"),
        *("side", "zone", "severity", "negatives", "possible", "prior"),
    ):
        assert word in system
    for strategy in prompts.STRATEGIES:
        text = prompts.rethink(prompts.Head(""), "t", strategy)
        explained = text.split("wrong. ", 1)[1]
        # The strategy is said where the reviewer has refused, before what the reply looks like.
        assert explained.index("First write the check") > 60
        others = {prompts.rethink(prompts.Head(""), "t", other) for other in prompts.STRATEGIES}
        assert len(others) == len(prompts.STRATEGIES)


def test_sets_of_another_wording_have_another_digest() -> None:
    clean = PromptSet("clean")
    assert clean.digest != DEFAULT.digest and clean.about.self_correction == "left out"
    assert clean.render("init", task="report") == DEFAULT.render("init", task="report")


def own_set(folder: Path, extends: str = "default") -> Path:
    folder.mkdir()
    line = f"extends: {extends}\n" if extends else ""
    (folder / "set.yaml").write_text(f"name: mine\nversion: 3\ndescription: Mine.\n{line}")
    (folder / "report.j2").write_text("<image>Report, please.\n")
    return folder


def test_an_unknown_variable_and_missing_files_are_errors_that_name_them(tmp_path: Path) -> None:
    mine = own_set(tmp_path / "mine")
    (mine / "retry.j2").write_text("{{ reason }}")
    with pytest.raises(UserError, match=r"mine/retry.j2: 'reason' is undefined"):
        PromptSet(str(mine)).render("retry", fault="x")
    with pytest.raises(
        ValueError, match=r"mine/retry.j2: there is no variable 'reason' in this prompt; there are: fault"
    ):
        CollectSettings.model_validate({"prompt_set": str(mine)})
    alone = own_set(tmp_path / "alone", "")
    with pytest.raises(UserError, match=r"alone lacks system.j2, head.j2.*add the files, or `extends: default`"):
        PromptSet(str(alone)).digest  # noqa: B018
    with pytest.raises(UserError, match=r"no prompt set in .*/nothing: .*clean, clinical, default"):
        PromptSet("nothing").digest  # noqa: B018
    with pytest.raises(ValueError, match="no prompt set in"):
        CollectSettings.model_validate({"prompt_set": "nothing"})


def test_settings_record_the_digest_and_a_stage_refuses_other_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert CollectSettings().prompt_digest == DEFAULT.digest
    mine = own_set(tmp_path / "mine")
    planned = CollectSettings.model_validate({"prompt_set": str(mine)})
    assert planned.prompts.render("report") == "<image>Report, please."
    stored = planned.model_dump(mode="json")
    assert CollectSettings.model_validate(stored) == planned
    (mine / "report.j2").write_text("<image>Another one.\n")
    prompt_set._texts.cache_clear()
    with pytest.raises(UserError, match="have changed since the stage was planned"):
        CollectSettings.model_validate(stored).prompts  # noqa: B018
    # The snapshot of the code has a copy of the folder as it was.
    snapshot = tmp_path / "code"
    shutil.copytree(FOLDER, snapshot / "prompts")
    own_set(snapshot / "mine")
    monkeypatch.setattr(prompt_set, "FOLDER", snapshot / "prompts")
    prompt_set._texts.cache_clear()
    prompt_set._environment.cache_clear()
    assert CollectSettings.model_validate(stored).prompts.render("report") == "<image>Report, please."
    for cached in (prompt_set._texts, prompt_set._environment, prompt_set._about):
        cached.cache_clear()


def test_settings_and_digests_need_no_jinja() -> None:
    code = "import sys, diagcot.cot.settings as s; s.CollectSettings(); assert 'jinja2' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=FOLDER.parent)


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("init.j2", b"Hello {% if %}", r"mine/init.j2:1: "),
        ("report.j2", b"Report, please.", "mine/report.j2: <image> is missing"),
        ("reprot.j2", b"<image>Report.", r"mine/reprot.j2: there is no such prompt; did you mean 'report'\?"),
        ("head.j2", b"\xff", r"mine/head.j2:1: the byte 0xff is not UTF-8: save the file as UTF-8"),
        ("set.yaml", b"nmae: mine", r"mine/set.yaml:1: unknown key 'nmae'; did you mean 'name'\?"),
    ],
)
def test_a_broken_set_is_known_while_a_recipe_is_planned(tmp_path: Path, file: str, text: bytes, said: str) -> None:
    mine = own_set(tmp_path / "mine")
    (mine / file).write_bytes(text)
    with pytest.raises(ValueError, match=said):
        CollectSettings.model_validate({"prompt_set": str(mine)})


def test_a_set_lies_beside_the_recipe_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from launchers.chain import open_chain

    own_set(tmp_path / "mine")
    monkeypatch.chdir(tmp_path.parent)
    (tmp_path / "own.yaml").write_text("name: own\nextends: tiny\nprompt_set: ./mine\n")
    stage = open_chain(str(tmp_path / "own.yaml"), "laptop", None).stage("cot")
    assert stage.settings.prompt_set == str(tmp_path / "mine")
