"""Question answering data: what is asked, that it is balanced and the same again, and that nothing gives it away."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagcot.data.phantom.findings import Findings
from diagcot.data.phantom.tree import write_tree
from diagcot.data.pixels import convert
from diagcot.data.reports.labeler import label
from diagcot.data.study import CHEXPERT_LABELS, Image, Study
from diagcot.jobs import Unit
from diagcot.jobs.testing import context, run_unit
from diagcot.rewards import cxmind
from diagcot.rewards.score import Reference
from diagcot.shards import Shard, build, shard_paths
from diagcot.shards.writer import ShardWriter
from diagcot.tasks.diagnosis import report_samples
from diagcot.tasks.questions.context import NONE, known_labels
from diagcot.tasks.questions.image_questions import course_of
from diagcot.tasks.questions.questions import CLOSED, question_samples
from diagcot.tasks.questions.wording import TASKS, Share, Wording
from diagcot.tasks.questions.worked_answers import judging_order
from diagcot.tasks.samples import Sample
from diagcot.text.layout import pairs as steps_of

ALL = dict.fromkeys(TASKS, 1.0)
CLOSED_TASKS = (*CLOSED, "progression")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one shard of phantoms, and beside it one of studies with doubts and without mentions."""
    root = tmp_path_factory.mktemp("questions")
    (root / "tree").mkdir()
    write_tree(root / "tree", 160, seed=3, size=48)
    source = {"kind": "mimic_cxr", "path": str(root / "tree")}
    ctx = context(root, {"sources": [source], "image_size": 48}, stage="shard")
    run_unit(build, Unit("00000"), ctx)
    image = convert((next((root / "tree" / "files").rglob("*.jpg"))), 16, 90, "an image")
    with ShardWriter(root / "doubts.h5") as writer:
        for number in range(300):
            stated = {
                name: (1, 0, -1, 0, 1, 0, -1)[(number * (place + 3) + place) % 7]
                for place, name in enumerate(CHEXPERT_LABELS[1:])
                if (number + place) % 3
            }
            if not any(stated.values()) or number % 3 == 0:
                stated = {NONE: 1}
            course = ("has worsened", "is unchanged", "has improved", "is seen")[number % 4]
            text = ". ".join(f"{name.lower()} {course}" for name, value in stated.items() if value == 1)
            study = Study(
                "made-up", str(number), f"p{number // 3}", "train", f"{text}. study {number}.", "Clear.",
                indication="Cough.", order=f"{number:04d}", labels=stated,
                images=(Image(f"i{number}", ("PA", "AP", "LATERAL")[number % 3]),),
            )  # fmt: skip
            writer.add(study, [image])
    return root


@pytest.fixture(scope="module")
def phantoms(folder: Path) -> Shard:
    return Shard(shard_paths(folder / "shards/test/shard")[0])


@pytest.fixture(scope="module")
def doubts(folder: Path) -> Shard:
    return Shard(folder / "doubts.h5")


def asked(shard: Shard, tasks: Mapping[str, Share] = ALL, seed: int = 7, views: Any = "image") -> list[Sample]:
    return _asked(shard.path, tuple(tasks.items()), seed, views)


@cache
def _asked(path: Path, tasks: tuple[tuple[str, Share], ...], seed: int, views: Any) -> list[Sample]:
    return list(question_samples(Shard(path), "x.h5", "train", dict(tasks), Wording(), seed, views))


@pytest.fixture(scope="module")
def samples(phantoms: Shard, doubts: Shard) -> dict[str, list[Sample]]:
    found = defaultdict(list)
    for shard in (phantoms, doubts):
        for sample in asked(shard):
            found[sample.task].append(sample)
    return found


def test_every_task_is_asked(samples: dict[str, list[Sample]]) -> None:
    assert set(samples) == set(TASKS)
    assert min(map(len, samples.values())) >= 50


def test_the_same_again_and_unlike_with_another_seed(doubts: Shard) -> None:
    first = [sample.to_json() for sample in asked(doubts)]
    assert first == [
        sample.to_json() for sample in question_samples(Shard(doubts.path), "x.h5", "train", ALL, Wording(), 7, "image")
    ]
    assert first != [sample.to_json() for sample in asked(doubts, seed=8)]


def test_ids_are_unique_over_all_tasks(phantoms: Shard) -> None:
    ids = [
        sample.id for views in ("image", "study") for sample in asked(phantoms, {"binary": 1, "open": 1}, views=views)
    ]
    ids += [s.id for s in asked(phantoms, {t: 1.0 for t in TASKS if t not in ("binary", "open")})]
    ids += [s.id for s in report_samples(phantoms, "x.h5", "train")]
    assert len(set(ids)) == len(ids)


def test_yes_and_no_are_level(samples: dict[str, list[Sample]]) -> None:
    """For each finding in each shard as many yes as no; over all reports as many right as wrong ones."""
    answers = Counter((s.study.split("/")[0], s.meta["label"], right(s)) for s in samples["binary"])
    for dataset, name, _ in answers:
        assert answers[dataset, name, "Yes"] == answers[dataset, name, "No"] > 0
    matched = Counter((s.study.split("/")[0], right(s)) for s in samples["matching"])
    assert all(abs(matched[dataset, "Yes"] - matched[dataset, "No"]) <= 1 for dataset, _ in matched)


def right(sample: Sample) -> str:
    return str(sample.meta["options"]["ABCDEFG".index(sample.meta["option"])])


def test_the_right_option_stands_everywhere_equally_often(phantoms: Shard, doubts: Shard) -> None:
    for shard in (phantoms, doubts):
        closed = [sample for sample in asked(shard) if "option" in sample.meta]
        for (_, size), group in groupby(
            sorted(closed, key=lambda s: (s.task, len(s.meta["options"]))), lambda s: (s.task, len(s.meta["options"]))
        ):
            counts = Counter(sample.meta["option"] for sample in group)
            places = [counts["ABCDEFG"[place]] for place in range(size)]
            assert max(places) - min(places) <= 1


def test_views_are_level(samples: dict[str, list[Sample]]) -> None:
    answers = Counter((s.study.split("/")[0], right(s)) for s in samples["view"])
    for dataset in ("phantom", "made-up"):
        counts = [count for (name, _), count in answers.items() if name == dataset]
        assert len(counts) > 1 and len(set(counts)) == 1


def test_no_finding_is_no_giveaway(samples: dict[str, list[Sample]]) -> None:
    """It is offered in nearly every question, and right no more often than the most frequent finding."""
    single = samples["single"]
    for dataset in ("phantom", "made-up"):
        answers = Counter(right(s) for s in single if s.study.startswith(dataset))
        assert 0 < answers[NONE] <= max(count for name, count in answers.items() if name != NONE)
    sizes = [Counter(len(s.meta["options"]) for s in single if (right(s) == NONE) == well) for well in (True, False)]
    assert set(sizes[0]) <= set(sizes[1])
    made_up = [s for s in single if s.study.startswith("made-up") and right(s) != "Support Devices"]
    assert all(NONE in s.meta["options"] for s in made_up)


@pytest.mark.parametrize("task", CLOSED_TASKS)
def test_worked_answers_of_closed_questions(samples: dict[str, list[Sample]], task: str) -> None:
    """Every option judged once, "no" last, one right, all thoughts different: the reward's own checks give all."""
    for sample in samples[task]:
        steps, options = steps_of(sample.answer), sample.meta["options"]
        letters = "ABCDEFG"[: len(options)]
        assert 2 <= len(options) == len(set(options)) <= 7
        order = sorted(letters, key=lambda letter: options["ABCDEFG".index(letter)].startswith(("No", "Neither")))
        marks = [f"{letter}) {'✅' if letter == sample.meta['option'] else '❌'}" for letter in order]
        assert [step.answer for step in steps] == [*marks, f"{sample.meta['option']}) ✅"]
        assert all(f"\n{letter}) {text}\n" in sample.prompt for letter, text in zip(letters, options, strict=True))
        judgements = [step.think.split("\n")[-1] for step in steps[:-1]]
        assert all(
            f"{letter}) {options['ABCDEFG'.index(letter)]}? " in line
            for letter, line in zip(order, judgements, strict=True)
        )
        score = cxmind.closed(sample.answer, Reference(sample.answer))
        assert (score["overall"], score["process"], score["reason"]) == (pytest.approx(1), 0.5, pytest.approx(1))


def test_options_that_say_no_are_judged_last() -> None:
    assert judging_order(["No Finding", "Edema", "Nodule", "None of these"]) == "BCAD"
    assert judging_order(["No", "Yes"]) == "BA" and judging_order(["PA", "Normal"]) == "AB" and judging_order([]) == ""


def test_a_worked_answer_looks_before_it_judges(samples: dict[str, list[Sample]]) -> None:
    """The first line states every finding that the options or hypotheses are about, as the labels have it."""
    for task in ("binary", "single", "multi", "open"):
        for sample in samples[task]:
            steps = steps_of(sample.answer)
            look, *judgement = steps[0].think.split("\n")
            assert len(judgement) == (task != "open") and all("\n" not in step.think for step in steps[1:])
            assert look.startswith("I look at the image. ") and look.endswith(".")
            names = sample.meta.get("labels_asked") or sample.meta.get("labels_weighed") or []
            names = names or [sample.meta["label"], *sample.meta["options"]]
            for name in {*names} & {*CHEXPERT_LABELS} - {NONE}:
                if task == "binary":
                    present = right(sample) == "Yes"
                else:
                    present = name in sample.meta.get("labels_present", [right(sample)] if task == "single" else [])
                absent = "lungs are clear" in look or f"I see no {name.lower()}." in look
                stated = label(look).get(name, 0 if absent else 1 if f"I see {name.lower()}." in look else None)
                assert stated == present, (sample.id, name, look)


def test_no_finding_is_judged_after_the_findings(samples: dict[str, list[Sample]]) -> None:
    refuted = 0
    for sample in (*samples["single"], *samples["open"]):
        judged = [step.answer for step in steps_of(sample.answer)[:-1]]
        subjects = sample.meta["options"] if sample.task == "single" else sample.meta["labels_weighed"]
        if NONE in subjects:
            *_, last = judged
            name = f"{'ABCDEFG'[subjects.index(NONE)]})" if sample.task == "single" else NONE
            assert last.startswith(name)
            refuted += last.endswith("❌")
    assert refuted > 100


def test_worked_answers_of_open_questions(samples: dict[str, list[Sample]]) -> None:
    for sample in samples["open"]:
        score = cxmind.opened(sample.answer, Reference(sample.answer))
        assert (score["overall"], score["process"], score["reason"]) == (pytest.approx(1), 0.2, pytest.approx(1))
        steps = steps_of(sample.answer)
        assert steps[0].answer == f"Differential Diagnoses: [{', '.join(sample.meta['labels_weighed'])}]"
        assert sorted(steps[-1].answer.split(", ")) == sorted(sample.meta["labels_present"])


@pytest.mark.parametrize("views", ["image", "study"])
def test_nothing_is_asked_or_offered_that_is_in_doubt_or_unknown(phantoms: Shard, doubts: Shard, views: str) -> None:
    for shard in (phantoms, doubts):
        labels = {(s := shard.study(i)).key: s.labels for i in range(len(shard))}
        doubted = 0
        for sample in asked(shard, views=views):
            stated = labels[sample.study]
            doubted += -1 in stated.values()
            if sample.task in ("binary", "single", "progression", "multi", "open"):
                names = {n for n in CHEXPERT_LABELS if n != NONE and re.search(rf"\b{n}\b", sample.prompt, re.I)}
                names |= set(sample.meta.get("labels_weighed", [])) - {NONE}
                assert names or sample.task == "open"
                for name in names:
                    well = stated.get(NONE) == 1 and name != "Support Devices" and name not in stated
                    assert stated.get(name) in (0, 1) or well, (sample.id, name)
            if sample.task == "open":
                assert -1 not in stated.values()
        assert shard is phantoms or doubted > 100


def test_answers_follow_the_labels(phantoms: Shard, doubts: Shard) -> None:
    for shard in (phantoms, doubts):
        truth = {(s := shard.study(i)).key: known_labels(s.labels) for i in range(len(shard))}
        for sample in asked(shard, {"binary": 1, "single": 1, "multi": 1, "open": 1}):
            labels = truth[sample.study]
            if sample.task == "binary":
                assert right(sample) == ("Yes" if labels[sample.meta["label"]] else "No")
            elif sample.task == "single":
                assert [name for name in sample.meta["options"] if labels[name]] == [right(sample)]
            elif sample.task == "multi":
                assert set(right(sample).split(", ")) == {name for name in sample.meta["labels_asked"] if labels[name]}
            else:
                present = {name for name, true in labels.items() if true and name != "Support Devices"}
                assert set(sample.meta["labels_present"]) == present


def test_the_question_does_not_tell_the_answer(samples: dict[str, list[Sample]]) -> None:
    """Questions about one finding are worded alike whatever the answer; none holds the answer or a name of the study."""
    bare: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for sample in samples["binary"]:
        bare[sample.meta["label"]][right(sample)].add(re.sub(r"(?m)^[AB]\) (Yes|No)$", "", sample.prompt))
    both = [sides for sides in bare.values() if sum(map(len, sides.values())) == 4]
    assert len(both) >= 10
    assert all(sides["Yes"] == sides["No"] for sides in both)
    for task, mine in samples.items():
        for sample in mine:
            assert sample.study.split("/")[1] not in sample.prompt.replace("study", "") or task in ("matching", "fs")
            assert sample.answer not in sample.prompt
            if task in CLOSED_TASKS:
                assert not re.search(r"[A-G]\) [✅❌]", sample.prompt)


def test_no_option_of_a_choice_stands_out(samples: dict[str, list[Sample]]) -> None:
    """Guessing by how much of a set the others share, by how often its findings occur, or by length is near chance."""
    hits: Counter[str] = Counter()
    chances = 0.0
    for sample in samples["multi"]:
        sets = [set(text.split(", ")) for text in sample.meta["options"]]
        often = Counter(name for one in sets for name in one)
        truth = "ABCDEFG".index(sample.meta["option"])
        shared: list[float] = [sum(len(one & other) / len(one | other) for other in sets) for one in sets]
        common: list[float] = [sum(often[name] - len(sets) / 2 for name in one) for one in sets]
        long: list[float] = [len(one) for one in sets]
        for guess, worth in (("shared", shared), ("common", common), ("long", long)):
            hits[f"most {guess}"] += worth[truth] == max(worth) and worth.count(max(worth)) == 1
            hits[f"least {guess}"] += worth[truth] == min(worth) and worth.count(min(worth)) == 1
        chances += 1 / len(sets)
    assert max(hits.values()) < 1.7 * chances, (hits, chances)


def test_reports_of_matching_are_of_other_patients_and_alike(phantoms: Shard) -> None:
    studies = {(s := phantoms.study(i)).key: s for i in range(len(phantoms))}
    reports = defaultdict(list)
    for sample in report_samples(phantoms, "x.h5", "train"):
        reports[sample.answer].append(studies[sample.study])
    shared = []
    for sample in asked(phantoms, {"matching": 1}):
        text = sample.prompt.split("Report: ")[1].split("\nA) ")[0]
        mine = studies[sample.study]
        if right(sample) == "Yes":
            assert mine in reports[text]
        else:
            assert all(other.patient != mine.patient for other in reports[text])
            present = [{n for n, v in s.labels.items() if v == 1} for s in (mine, reports[text][0])]
            assert present[0] != present[1]
            shared.append(bool(present[0] & present[1]) or NONE in present[0])
    assert sum(shared) > 0.7 * len(shared)


def test_progression_pairs_two_studies_of_a_patient(doubts: Shard) -> None:
    studies = {(s := doubts.study(i)).key: s for i in range(len(doubts))}
    courses = {"has worsened": "Worse", "is unchanged": "Unchanged", "has improved": "Improved"}
    answers: Counter[str] = Counter()
    for sample in asked(doubts, {"progression": 1}):
        before, after = (doubts.study(doubts.study_of(ref.row)) for ref in sample.images)
        assert before.patient == after.patient and int(before.id) + 1 == int(after.id)
        assert studies[sample.study] == after and sample.prompt.startswith("<image><image>T")
        was, now = (known_labels(study.labels)[sample.meta["label"]] for study in (before, after))
        answer = right(sample)
        answers[answer] += 1
        if was and now:
            written = next(answer for words, answer in courses.items() if words in after.findings)
            assert answer == written
        else:
            assert answer == {(False, True): "New", (True, False): "Resolved"}[was, now]
    assert len(answers) == 5 and max(answers.values()) <= 2 * min(answers.values())


@pytest.mark.parametrize(
    ("sentence", "course"),
    [
        ("the effusion has increased since yesterday", "Worse"),
        ("no interval change in the effusion", "Unchanged"),
        ("no increase of the effusion", "Unchanged"),
        ("improved but persistent edema", ""),
        ("resolving edema", "Improved"),
        ("increased interstitial markings", ""),
        ("a small effusion", ""),
    ],
)
def test_the_course_in_words(sentence: str, course: str) -> None:
    assert course_of(sentence) == course


def test_grounding_in_pixels_is_the_box(phantoms: Shard) -> None:
    for sample in asked(phantoms, {"grounding_pixels": 1}):
        image = phantoms.image(sample.images[0].row)
        [box] = [box for box in image.boxes if box.label == sample.meta["label"]]
        corners = json.loads(sample.answer)
        scale = (image.width, image.height) * 2
        for corner, side, fraction in zip(corners, scale, (box.x1, box.y1, box.x2, box.y2), strict=True):
            assert abs(corner - side * fraction) <= 0.5


def test_parts_of_reports(phantoms: Shard) -> None:
    studies = {(s := phantoms.study(i)).key: s for i in range(len(phantoms))}
    for sample in asked(phantoms, dict.fromkeys(("fg", "fg_i", "fs", "ig", "ig_i"), 1.0)):
        study = studies[sample.study]
        text = study.findings if sample.task.startswith("fg") else study.impression
        assert sample.answer == " ".join(text.lower().split())
        assert (study.indication.lower() in sample.prompt) == sample.task.endswith("_i")
        assert (study.findings.lower() in sample.prompt) == (sample.task == "fs")


def test_one_question_shows_all_images_of_a_study(phantoms: Shard) -> None:
    found = asked(phantoms, {"binary": 1, "fg": 1, "open": 1}, views="study")
    studies = {(s := phantoms.study(i)).key: s for i in range(len(phantoms))}
    assert {len(s.images) for s in found} == {2}
    for sample in found:
        assert len(sample.images) == len(studies[sample.study].images) == sample.prompt.count("<image>")


def test_a_share_of_the_patients(phantoms: Shard) -> None:
    whole = asked(phantoms, {"fg": 1.0})
    part = asked(phantoms, {"fg": 0.3})
    assert {s.id for s in part} < {s.id for s in whole}
    assert 0.15 < len(part) / len(whole) < 0.45
    rest = asked(phantoms, {"fg": (0.3, 1.0)})
    assert not {s.meta["patient"] for s in part} & {s.meta["patient"] for s in rest}
    assert {s.id for s in part} | {s.id for s in rest} == {s.id for s in whole}


@given(st.dictionaries(st.sampled_from(CHEXPERT_LABELS), st.sampled_from([1, 0, -1])))
def test_known_labels(labels: dict[str, int]) -> None:
    found = known_labels(labels)
    for name, value in labels.items():
        if name != NONE:
            assert found.get(name) == {1: True, 0: False, -1: None}[value]
    assert "Support Devices" not in found or "Support Devices" in labels
    if labels.get(NONE) != 1:
        assert set(found) <= {*labels, NONE}
    ill = any(true for name, true in found.items() if name not in (NONE, "Support Devices"))
    assert found.get(NONE) is not ill or not ill


def test_phantoms_are_known_by_their_findings() -> None:
    findings = Findings()
    assert known_labels(label("\n".join(findings.report())))[NONE] is True
