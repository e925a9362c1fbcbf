"""The stage of question answering data: its settings, its wordings, and what it writes."""

import re
from pathlib import Path
from typing import Any

import pytest

from diagcot.cot.settings import QuestionSettings
from diagcot.cot.synthetic import questions as stage
from diagcot.data.phantom.tree import write_tree
from diagcot.jobs import Unit, UserError
from diagcot.jobs.testing import context, run_unit
from diagcot.shards import Shard, build, shard_paths
from diagcot.tasks.questions.questions import question_samples
from diagcot.tasks.questions.wording import DEFAULTS, PLACEHOLDERS, TASKS, Wording
from diagcot.tasks.samples import read_samples
from launchers.data import questions as launcher
from tests import stages


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("questions")
    (root / "tree").mkdir()
    write_tree(root / "tree", 60, seed=3, size=48, held_out=0.3)
    source = {"kind": "mimic_cxr", "path": str(root / "tree")}
    run_unit(build, Unit("00000"), context(root, {"sources": [source], "image_size": 48}, stage="shard"))
    return root


@pytest.fixture(scope="module")
def phantoms(folder: Path) -> Shard:
    return Shard(shard_paths(folder / "shards/test/shard")[0])


def test_wordings_of_a_recipe(phantoms: Shard) -> None:
    own = {"binary": ["<image>Seht ihr {finding}?\n{options}\n{steps}"], "closed_steps": ["Denkt nach."]}
    found = list(question_samples(phantoms, "x", "train", {"binary": 1}, Wording(own), 7, "image"))
    assert all(re.fullmatch(r"<image>Seht ihr .*\?\nA\) .*\nB\) .*\nDenkt nach\.", s.prompt) for s in found)


@pytest.mark.parametrize(
    ("own", "says"),
    [
        ({"binari": ["x"]}, "unknown wording 'binari'"),
        ({"binary": []}, "no text"),
        ({"binary": ["<image>{finding}?\n{options}"]}, "lacks {steps}"),
        ({"binary": ["<image>{finding}? {options} {steps} {label}"]}, "unknown placeholder"),
        ({"fg": ["Write."]}, "start with 1 <image>"),
        ({"progression": ["<image>{finding}{options}{steps}"]}, "start with 2 <image>"),
    ],
)
def test_wrong_wordings_are_refused(own: dict[str, list[str]], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        QuestionSettings(wording=own)


def test_the_defaults_pass_their_own_check() -> None:
    assert set(DEFAULTS) == set(PLACEHOLDERS)
    Wording(DEFAULTS)


@pytest.mark.parametrize(
    "wrong", [{"tasks": {"binari": 1}}, {"tasks": {"binary": 1.5}}, {"tasks": {"binary": [0.5, 0.2]}}, {"split": "dev"}]
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"binari|share|split"):
        QuestionSettings(**wrong)


def test_the_stage_writes_samples_of_every_task(folder: Path, phantoms: Shard) -> None:
    settings = {"tasks": dict.fromkeys(TASKS, 1.0), "split": "validate"}
    ctx = context(folder, settings, stage="questions", inputs={"shards": [str(phantoms.path.parent)]})
    result = run_unit(stage, Unit("00000"), ctx)
    written = list(read_samples(ctx.output / "00000.jsonl"))
    assert result is not None and sum(result.counts["needed"].values()) == len(written) > 50
    assert result.counts == {"needed": result.counts["needed"]} | {
        name.rpartition(" ")[2]: count for name, count in result.counts["needed"].items() if count
    }
    assert {sample.meta["split"] for sample in written} == {"validate"}
    path, rows = written[0].images[0].shard, [ref.row for sample in written for ref in sample.images]
    assert folder / "shards" / path == phantoms.path
    assert {phantoms.split(phantoms.study_of(row)) for row in rows} == {"validate"}


def test_the_launcher_wants_shards() -> None:
    with pytest.raises(UserError, match="needs the input shards"):
        launcher.KIND.units(stages.stage("questions", {}), None)  # type: ignore[arg-type]
