"""Reports in another language answer no English question, and the plan says which collections give none."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from diagcot.data.study import Image, Question, Study
from diagcot.shards import Shard
from diagcot.shards.settings import BuildSettings
from diagcot.shards.writer import ShardWriter
from diagcot.tasks.diagnosis import report_samples
from diagcot.tasks.questions.questions import question_samples
from diagcot.tasks.questions.wording import TASKS, Wording
from launchers.data import questions as launcher
from tests import stages
from tests.unit.shards.test_seen import picture


def shard(path: Path, language: str) -> Shard:
    with ShardWriter(path, sources=[{"dataset": "clinic", "entry": {"language": language}}]) as out:
        for number in range(6):
            labels = {"Edema": number % 2, "Cardiomegaly": (number // 2) % 2, "Pleural Effusion": 0}
            asked = Question("Is there fever?", ("No",), ("Yes", "No"))
            study = Study("clinic", f"s{number}", f"p{number}", "train", f"Informe {number}.", f"Fin {number}.", labels=labels,
                          images=(Image(f"i{number}", "PA"),), questions=(asked,))  # fmt: skip
            out.add(study, [picture(number)])
    return Shard(path)


def tasks_of(one: Shard) -> Counter[str]:
    found = question_samples(one, "x", "train", dict.fromkeys(TASKS, 1.0), Wording(), 7, "image")
    return Counter(sample.task for sample in found)


def test_reports_in_another_language_are_no_answers(tmp_path: Path) -> None:
    english, spanish = shard(tmp_path / "a.h5", "en"), shard(tmp_path / "b.h5", "es")
    first, second = tasks_of(english), tasks_of(spanish)
    assert (
        first["fg"] == first["ig"] == first["fs"] == 6 and 0 < second["binary"] == first["binary"] - 6
    )  # without those of the collection
    assert not {"fg", "ig", "fs", "matching"} & set(second)
    assert (len(list(report_samples(english, "x", "train"))), len(list(report_samples(spanish, "x", "train")))) == (
        6,
        0,
    )


def notes(*kinds: str, **settings: Any) -> list[str]:
    sources = BuildSettings(sources=[{"kind": kind, "path": "x"} for kind in kinds])  # type: ignore[list-item]
    chain: Any = SimpleNamespace(
        stage=lambda name: SimpleNamespace(spec=SimpleNamespace(kind="shard"), settings=sources)
    )
    return launcher.notes(stages.stage("questions", settings, shards=["shard"]), chain)


def test_the_plan_names_collections_that_give_no_question() -> None:
    assert notes("mimic_cxr", "nih_cxr14", "chexpert", "rsna_pneumonia", "ms_cxr") == []
    assert notes("covidx_cxr3") == [
        "questions: covidx_cxr3 gives no question of any task that is asked; it lacks boxes, labels, order, reports, views"
    ]
    assert notes("nih_cxr14", tasks={"fg": 1.0}) == [
        "questions: nih_cxr14 gives no question of any task that is asked; it lacks reports"
    ]
    (line,) = notes("padchest")
    assert (
        line == "questions: padchest is not asked matching, fg, fg_i, fs, ig, ig_i: its reports are not in English (es)"
    )
    assert set(launcher.NEEDS) == {*TASKS, "report", "classification"}
