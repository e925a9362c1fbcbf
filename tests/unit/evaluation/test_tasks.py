"""Scores of labels, boxes in pixels, options and lists of findings, from predictions to the table."""

import asyncio
import dataclasses
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from diagcot.cli import main as cli
from diagcot.console.screens import metrics_table
from diagcot.data.readers.iu_xray import IuXray
from diagcot.data.study import CHEXPERT_LABELS, MIMIC_CXR
from diagcot.evaluation import judge, predictions
from diagcot.evaluation.compare import compare
from diagcot.evaluation.report import report
from diagcot.evaluation.scores import answers, columns
from diagcot.evaluation.scores.classification import classification_metrics
from diagcot.evaluation.scores.columns import BY_NAME
from diagcot.evaluation.scores.grounding import grounding_metrics, pixel_metrics
from diagcot.evaluation.scores.reports import r2gen_metrics, r2gen_texts, report_metrics
from diagcot.evaluation.scores.table import table
from diagcot.evaluation.scores.text_tools import TextTools
from diagcot.evaluation.scores.verdicts import verdict, verdicts
from diagcot.evaluation.settings import JudgeSettings
from diagcot.jobs import Unit, UserError
from diagcot.jobs.testing import context
from diagcot.metrics.intervals import Bootstrap, Metric
from diagcot.metrics.labels import kappa
from diagcot.metrics.text import cider
from diagcot.serving import Reply
from diagcot.tasks.predictions import Prediction

OPTIONS = ["Edema", "Pleural Effusion", "No Finding"]


def row(name, task, answer, reference, model="base", **more):
    return Prediction(
        id=f"mimic_cxr/{name}/x:{task}",
        study=f"mimic_cxr/{name}",
        task=task,
        dataset="mimic_cxr",
        model=model,
        output=answer,
        answer=answer,
        reference=reference,
        finish="stop",
        phantom=True,
        images=[{"shard": "a.h5", "row": 0}],
        **more,
    )


def value_of(boot: Bootstrap, metric: Metric | str) -> float | None:
    assert not isinstance(metric, str), metric  # the reason why there is none
    return boot.value(metric)


def test_bleu2_of_rexrank_is_the_mean_of_samples_in_its_own_words():
    rows = [
        row(
            "1",
            "report",
            "Findings: Heart is LARGE. Impression: Big.",
            "findings : heart is large . impression : big .",
        ),
        row("2", "report", "heart is large", "heart is big"),  # 2 of 3 words, 1 of 2 pairs
    ]
    found = report_metrics(rows, {text: text for one in rows for text in (one.answer, one.reference)})
    boot = Bootstrap([r.study for r in rows], draws=100)
    assert value_of(boot, found["bleu2_rexrank"]) == pytest.approx((1 + (2 / 3 * 1 / 2) ** 0.5) / 2)
    assert not BY_NAME["bleu2_rexrank"].main and not BY_NAME["radgraph_radcliq_as_written"].main


def test_open_answers_by_hand():
    rows = [
        row("1", "open", "Edema, Fracture", "Edema, Cardiomegaly"),
        row("2", "open", "enlarged heart", "Cardiomegaly"),
        row("3", "open", "", "No Finding"),
    ]
    boot = Bootstrap([r.study for r in rows], draws=100)
    found = {name: value_of(boot, metric) for name, metric in answers.open_metrics(rows).items()}
    assert found["open_f1"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert found["open_exact"] == pytest.approx(1 / 3)
    assert found["open_recall_1"] == pytest.approx((0.5 + 1 + 0) / 3) == found["open_recall_5"]
    assert columns.unreadable(rows[2]) and not columns.unreadable(rows[1])


def test_boxes_in_pixels():
    rows = [
        row("1", "grounding_pixels", "[0, 0, 10, 10]", "[0, 0, 10, 20]"),
        row("2", "grounding_pixels", "[10, 10, 0, 0]", "[0, 0, 10, 10]"),  # corners in the wrong order
        row("3", "grounding_pixels", "nowhere", "[0, 0, 10, 10]"),
    ]
    boot = Bootstrap([r.study for r in rows], draws=100)
    assert value_of(boot, pixel_metrics(rows)["iou_pixels"]) == pytest.approx(0.5 / 3)


def test_boxes_in_the_style_of_a_base_model_count_and_are_marked():
    gold = "<box>(100,200),(300,400)</box>"
    answers_given = ["<|box_start|>(100,200),(300,400)<|box_end|>", gold, "nowhere", "No edema regions detected."]
    rows = [row(str(n), "grounding", answer, gold, about={"label": "Edema"}) for n, answer in enumerate(answers_given)]
    boot = Bootstrap([r.study for r in rows], draws=100)
    found = {name: value_of(boot, metric) for name, metric in grounding_metrics(rows).items()}
    assert found["iou"] == found["accuracy_70"] == 0.5 and found["grounding_other_style"] == 0.25
    assert found["iou_as_released"] == 1.0  # of the one that the released script can read
    assert [columns.unreadable(one) for one in rows] == [False, False, True, False]
    shown = table(rows, ["base"], TextTools(), draws=100)
    assert {c["name"]: (c["main"], c["low"]) for c in shown["columns"]}["grounding_other_style"] == (False, True)


def labelled(count, model, skill, split="test", seed=0):
    rng = np.random.default_rng([seed, len(split)])
    made = []
    for number in range(count):
        present = {name: int(rng.random() < 0.05 + 0.06 * at) for at, name in enumerate(CHEXPERT_LABELS)}
        noise = np.random.default_rng([number, len(model), len(split)]).random(14)
        scores = {n: float(skill * v * 0.5 + e * 0.5) for (n, v), e in zip(present.items(), noise, strict=True)}
        text = "The label of this X-ray image is: " + ", ".join(n for n, v in scores.items() if v > 0.5)
        reference = "The label of this X-ray image is: " + ", ".join(n for n, v in present.items() if v)
        about = {"labels": present}
        made.append(
            row(f"{split}{number}", "classification", text, reference, model, split=split, scores=scores, about=about)
        )
    return made


def test_labels_from_scores_and_their_thresholds():
    rows = [
        one
        for model, skill in (("base", 0.1), ("grpo", 0.9))
        for split, count in (("test", 80), ("validate", 60))
        for one in labelled(count, model, skill, split)
    ]
    found = table(rows, ["base", "grpo"], TextTools(), draws=200, seed=1)
    base, grpo = found["rows"]
    assert base["samples"] == {"classification": 80}  # validation is for thresholds alone
    assert grpo["scores"]["auc"]["value"] > 0.9 > 0.65 > base["scores"]["auc"]["value"]
    assert grpo["scores"]["auc"]["start"]["verdict"] == "better" and grpo["scores"]["auc"]["start"]["p"] < 0.05
    assert grpo["scores"]["brier"]["start"]["verdict"] == "better" > ""  # the lower the better
    assert grpo["scores"]["brier"]["value"] < base["scores"]["brier"]["value"]
    assert grpo["scores"]["f1_at_thresholds"]["value"] > grpo["scores"]["classification_f1"]["value"]
    assert {"auc_head", "auc_medium", "auc_tail", "auprc", "calibration_error", "balanced_accuracy"} <= set(
        grpo["scores"]
    )
    assert set(grpo["labels"]) == set(CHEXPERT_LABELS) and 0.5 < grpo["labels"]["Edema"]["value"] <= 1.0
    assert {c["name"] for c in found["columns"] if c["main"]} == {"auc"}
    alone = table([r for r in rows if r.split == "test"], ["base", "grpo"], TextTools(), draws=100, seed=1)
    assert "validate split" in alone["rows"][0]["scores"]["f1_at_thresholds"]["reason"]


def test_a_model_without_probabilities_is_told_so_and_a_lost_answer_counts():
    rows = [dataclasses.replace(one, scores={}) for one in labelled(20, "base", 0.5)]
    scores = table(rows, ["base"], TextTools(), draws=100, seed=1)["rows"][0]["scores"]
    assert scores["auc"] == {
        "value": None,
        "reason": "no probabilities were asked for (`probabilities` of the evaluate stage)",
    }
    assert scores["balanced_accuracy"]["value"] is not None
    whole = labelled(40, "base", 0.9)
    lost = [dataclasses.replace(one, scores={}, finish="error") if at % 4 == 0 else one for at, one in enumerate(whole)]
    values = [
        table(part, ["base"], TextTools(), draws=100, seed=1)["rows"][0]["scores"]["auc"] for part in (whole, lost)
    ]
    assert values[0]["n"] == values[1]["n"] == 40 and values[1]["value"] < values[0]["value"]


@pytest.mark.parametrize("skill", [0.0, 0.9])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_failed_requests_improve_no_score_of_classification(skill, share):
    validation = labelled(40, "base", skill, "validate")
    whole = labelled(60, "base", skill)
    failed = [
        dataclasses.replace(one, answer="", scores={}, finish="error") if at < share * len(whole) else one
        for at, one in enumerate(whole)
    ]
    boot = Bootstrap([one.study for one in whole], draws=100)
    before, after = (classification_metrics(rows, validation) for rows in (whole, failed))
    assert set(before) == set(after)
    for name, metric in before.items():
        worse = after[name]
        assert isinstance(metric, Metric) and isinstance(worse, Metric)
        loss = (boot.value(worse) - boot.value(metric)) * (1 if BY_NAME[name].low else -1)
        assert loss > 0 or (skill == 0.0 and loss == 0.0), name


def test_calibration_and_brier_need_no_label_of_both_classes():
    """By hand: every label is absent but Edema, which every study has; 1.0 and 0.5 are said of Edema, 0 of the others."""
    labels = {name: int(name == "Edema") for name in CHEXPERT_LABELS}
    said = [{name: value * (name == "Edema") for name in CHEXPERT_LABELS} for value in (1.0, 0.5)]
    rows = [
        row(str(n), "classification", "Edema", "Edema", scores=scores, about={"labels": labels})
        for n, scores in enumerate(said)
    ]
    boot = Bootstrap([one.study for one in rows], draws=100)
    found = classification_metrics(rows, [])
    assert (
        found["auc"] == found["auprc"] == found["auc_head"] == "no label is both present and absent in the test split"
    )
    assert value_of(boot, found["brier"]) == pytest.approx(0.25 / 28)
    assert value_of(boot, found["calibration_error"]) == pytest.approx(0.5 / 28)
    doubt = [dataclasses.replace(one, about={"labels": dict.fromkeys(CHEXPERT_LABELS, -1)}) for one in rows]
    assert "in doubt" in str(classification_metrics(doubt, [])["brier"])  # and not the 0 of a perfect model


def test_captions_with_several_references_are_scored_against_all():
    one = row(
        "1", "report", "the heart is large .", "an enlarged heart .", about={"references": ["the heart is large ."]}
    )
    other = row(
        "2", "report", "clear lungs .", "the lungs are clear .", about={"references": ["lungs clear .", "ok ."]}
    )
    lone = dataclasses.replace(other, about={})
    words = {text: text for each in (one, other) for text in (each.answer, *each.references)}
    boot = Bootstrap(["1", "2"])
    several, first = (report_metrics(rows, words) for rows in ([one, other], [one, lone]))
    assert value_of(boot, several["rouge_l"]) > (value_of(boot, first["rouge_l"]) or 0)
    assert value_of(boot, several["cider"]) == pytest.approx(
        cider([one.answer, other.answer], [one.references, other.references]).mean()
    )
    lost = dataclasses.replace(one, answer="", output="", finish="error")
    assert (value_of(boot, report_metrics([lost, other], words | {"": ""})["bleu1"]) or 0) < (
        value_of(boot, several["bleu1"]) or 0
    )


def test_cider_without_two_different_references_says_why():
    one = row("1", "report", "the heart is large .", "the heart is normal .")
    same = [one, dataclasses.replace(one, id="2", study="mimic_cxr/2", answer="the lungs are clear .")]
    words = {side: side for each in same for side in (each.answer, each.reference)}
    for rows in ([one], same):
        for found, name in ((columns.measured(rows, [], words), "cider"), (r2gen_metrics(rows), "cider_r2gen")):
            assert "two different references" in str(found[name])
    other = [one, dataclasses.replace(same[1], reference="the lungs are clear .")]
    assert value_of(Bootstrap([r.study for r in other], draws=100), r2gen_metrics(other)["cider_r2gen"]) > 0


def test_more_failed_requests_are_no_advantage():
    pair = {"value": 0.2, "low": 0.1, "high": 0.3, "p_holm": 0.01}
    assert verdict(pair, 50, False, 0, 0) == verdict(pair, 50, False, 0, 9) == "better"
    assert verdict(pair, 50, False, 9, 0) == "unclear"
    assert verdict(pair, 50, True, 9, 0) == "worse" and verdict(pair, 50, True, 0, 9) == "unclear"
    assert verdict(pair, 9, False, 0, 0) == verdict(pair | {"p_holm": 0.06}, 50, False, 0, 0) == "unclear"
    assert verdict(pair | {"low": -0.1}, 50, False, 0, 0) == "unclear"


def test_closed_questions_in_the_table():
    made = [
        row(
            str(n),
            "single",
            "A) ✅" if n < right else "none of them",
            "A) ✅",
            model,
            about={"options": OPTIONS, "option": "A"},
        )
        for model, right in (("base", 5), ("grpo", 15))
        for n in range(20)
    ]
    found = table(made, ["base", "grpo"], TextTools(), draws=200, seed=1)["rows"]
    assert [one["scores"]["single_accuracy"]["value"] for one in found] == [0.25, 0.75]
    assert found[0]["failures"]["single"]["unreadable"] == 15


def test_models_that_share_no_main_column_are_told_apart_by_nothing():
    about = {"options": OPTIONS, "option": "A"}
    made = [row(str(n), "open", "Edema" if n < 9 else "Fracture", "Edema", "base") for n in range(25)]
    made += [row(str(n), "single", "A", "A) ✅", "tuned", about=about) for n in range(25)]
    made += [row(str(n), "open", "Edema", "Edema", "grpo") for n in range(25)]
    found = table(made, ["base", "tuned", "grpo"], TextTools(), draws=200)
    said = verdicts(found["rows"], found["columns"])
    assert [(one["model"], one["against"], one["better"]) for one in said] == [("grpo", "base", ["open F1"])]
    tuned = found["rows"][1]["scores"]["single_accuracy"]
    assert tuned["value"] == 1.0 and "start" not in tuned and "base" not in tuned
    whole = found | {"run": "r", "time": 0.0, "verdicts": said, "warnings": []}
    assert "does not" not in report.table(whole) and "tuned" in report.html(whole, [], [], {})
    screen = metrics_table.text.console(width=120)
    with screen.capture() as shown:
        screen.print(metrics_table.render(whole, screen))
    assert "tuned" in shown.get()


def test_parquet_holds_every_prediction(tmp_path):
    from pyarrow import parquet

    rows = labelled(3, "base", 0.5)
    path = predictions.write_parquet(tmp_path / "all.parquet", rows)
    back = parquet.read_table(path).to_pylist()
    assert [one["id"] for one in back] == [one.id for one in rows]
    assert dict(back[0]["scores"]) == rows[0].scores and json.loads(back[0]["about"]) == rows[0].about
    assert back[0]["images"] == [{"shard": "a.h5", "row": 0}]


def test_reports_by_the_protocol_of_r2gen():
    answer = "findings : The heart, is LARGE. 2. no effusion . impression : big heart ."
    rows = [row("1", "report", answer, "findings : the heart is <unk> . no effusion . impression : a large heart .")]
    hyps, refs = r2gen_texts(rows)
    assert hyps == ["the heart is large . no effusion ."] and refs == ["the heart is <unk> . no effusion ."]
    long = [dataclasses.replace(rows[0], answer="word " * 200, dataset=name) for name in (IuXray.dataset, MIMIC_CXR)]
    assert [len(text.split()) for text in r2gen_texts(long)[0]] == [59, 99]
    tools = TextTools(missing={"meteor": "not asked"})
    found = table(rows, ["base"], tools, draws=100, seed=1, r2gen=True)["rows"][0]["scores"]
    assert found["bleu1_r2gen"]["value"] == pytest.approx(7 / 8) and found["meteor_r2gen"]["value"] is None
    assert "bleu1_r2gen" not in table(rows, ["base"], tools, draws=100, seed=1)["rows"][0]["scores"]


def test_kappa_is_that_of_scikit_learn():
    from sklearn import metrics as sklearn

    rng = np.random.default_rng(0)
    one, two = rng.random(200) < 0.4, rng.random(200) < 0.5
    counts = np.array([(one & two).sum(), (one & ~two).sum(), (~one & two).sum(), (~one & ~two).sum()], dtype=float)
    assert kappa(counts) == pytest.approx(sklearn.cohen_kappa_score(one, two))
    assert kappa(np.array([5.0, 0, 0, 0])) == 1.0


class Says:
    """A judge that finds the same whatever comes first, or whatever is in `right`."""

    def __init__(self, right):
        self.right, self.asked = right, []

    async def chat(self, request):
        self.asked.append(request)
        verdict = request.id in self.right and "Answer 1: Edema" in request.messages[0][1]
        return Reply([json.dumps({"same": verdict})], ["stop"])

    def each(self, items, work, stopping):
        yield from (asyncio.run(work(self, item)) for item in items)


def test_a_judge_is_asked_twice_and_measured(tmp_path):
    rows = [
        row("1", "open", "Edema", "Edema", "base", split="test"),
        row("2", "open", "wet lungs", "Edema", "base"),
        row("3", "open", "", "Edema", "base"),
    ]
    folder = tmp_path / "evaluate"
    folder.mkdir()
    (folder / "base.open.0.jsonl").write_text("".join(json.dumps(one.row()) + "\n" for one in rows))
    ctx = context(tmp_path, {}, stage="judge", inputs={"predictions": [str(folder)], "model": ["none"]})
    server = Says({rows[0].id, rows[1].id})
    shared: Any = SimpleNamespace(server=lambda: server, settings=JudgeSettings())
    counts = judge.run(Unit("base.open.0"), shared, ctx).counts
    assert (
        counts == {"judged": 3, "agreed": 2, "unreadable": 0, "failed": 0} and len(server.asked) == 4
    )  # nothing to say of no answer
    assert server.asked[0].temperature == 0 and server.asked[0].schema
    verdicts = {rows[0].id: [True, True], rows[1].id: [False, True], rows[2].id: [False, False]}
    path = next((tmp_path).rglob(".base.open.0.jsonl.*"))
    assert {one["id"]: one["same"] for one in map(json.loads, path.read_text().splitlines())} == verdicts
    scores = table(rows, ["base"], TextTools(), 100, 1, judged={("open", "base"): verdicts})["rows"][0]["scores"]
    assert scores["open_judged"]["value"] == pytest.approx(1 / 3)
    assert scores["open_judge_agreement"]["value"] == pytest.approx(2 / 3)
    assert scores["open_judge_kappa"]["value"] == 1.0


def test_a_judgement_that_cannot_be_read_is_none_and_agrees_with_nothing():
    assert {judge.same(Reply([text])) for text in ("", "yes", '{"same": "true"}', "[]", '{"same": null}')} == {None}
    assert judge.same(Reply(['{"same": true}'])) is True and judge.same(Reply(['{"same":false}'])) is False
    assert [columns.agree(pair) for pair in ([True, True], [False, False], [True, False], [None, None], [None, False])] == [
        True, True, False, False, False,
    ]  # fmt: skip


def test_a_judge_that_is_refused_is_told_and_asked_again(tmp_path):
    rows = [row(name, "open", "Edema", "Edema", "base") for name in "123"]
    (tmp_path / "evaluate").mkdir()
    text = "".join(json.dumps(one.row()) + "\n" for one in rows)
    (tmp_path / "evaluate" / "base.open.0.jsonl").write_text(text)

    class Refuses(Says):
        def __init__(self, refused):
            super().__init__({one.id for one in rows})
            self.refused = refused

        async def chat(self, request):
            return Reply(error="HTTP 400") if request.id in self.refused else await super().chat(request)

    def judged(refused):
        inputs = {"predictions": [str(tmp_path / "evaluate")], "model": ["none"]}
        ctx = context(tmp_path, {}, stage="judge", inputs=inputs)
        shared: Any = SimpleNamespace(server=lambda: Refuses(refused), settings=JudgeSettings())
        return judge.run(Unit("base.open.0"), shared, ctx)

    with pytest.raises(UserError, match="the judge answered none of 3 requests: HTTP 400"):
        judged({one.id for one in rows})
    result = judged({rows[1].id})
    assert result.counts == {"judged": 3, "agreed": 2, "unreadable": 0, "failed": 1}
    (path,) = result.outputs.values()
    told = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(one["same"], one["error"]) for one in told] == [
        ([True, True], None), ([None, None], "HTTP 400"), ([True, True], None),
    ]  # fmt: skip


def written(run, rows):
    run.mkdir(parents=True)
    (run / "run.json").write_text("{}")
    (run / "metrics.json").write_text(json.dumps({"models": ["base", "grpo"]}))
    predictions.write_parquet(run / "predictions.parquet", rows)


def choices(right, count, model):
    about = {"options": OPTIONS, "option": "A"}
    return [row(str(n), "single", "A) ✅" if n < right else "B) ✅", "A) ✅", model, about=about) for n in range(count)]


def test_two_runs_side_by_side(tmp_path, capsys, monkeypatch):
    written(tmp_path / "one", [*choices(5, 20, "grpo"), *choices(5, 20, "base")])
    written(tmp_path / "two", [*choices(15, 24, "grpo"), *choices(5, 24, "base")])
    metrics, costs, notes = compare(tmp_path / "one", tmp_path / "two", draws=200)
    assert metrics["models"] == ["A:base", "B:base", "A:grpo", "B:grpo"]
    cells = [one["scores"]["single_accuracy"] for one in metrics["rows"]]
    assert [cell["value"] for cell in cells] == [0.25, 0.25, 0.25, 0.75] and cells[0]["n"] == 20
    assert [cell.get("start", {}).get("verdict") for cell in cells] == [None, "unclear", None, "better"]
    alone = table(choices(5, 20, "grpo"), ["grpo"], TextTools(), draws=200)["rows"][0]["scores"]["single_accuracy"]
    assert alone["low"] < alone["high"]
    assert all(cells[2][end] == alone[end] for end in ("value", "low", "high"))  # one number has one interval
    assert cells[3]["start"]["p_holm"] == round(cells[3]["start"]["p"] * 2, 4)  # two pairs are shown, and corrected for
    by_id, left_out = notes  # runs of an earlier version, without digests of images
    assert by_id.startswith("samples are paired by id and reference alone")
    assert left_out == "4 of 24 samples of two are not in the other run and are left out"
    assert [cost["run"] for cost in costs] == ["one", "two"]
    assert cli.main(["compare", "one", "two", "--logs", str(tmp_path), "--draws", "100"]) == 0
    assert "B:grpo: " in capsys.readouterr().out
    written(tmp_path / "three", [row("x", "single", "A) ✅", "A) ✅", about={"options": OPTIONS, "option": "A"})])
    assert cli.main(["compare", "one", "three", "--logs", str(tmp_path)]) == 1
    assert "no sample in common" in capsys.readouterr().err
    assert cli.main(["compare", "one", "tow", "--logs", str(tmp_path)]) == 1
    assert "the newest are three, two, one" in capsys.readouterr().err
