"""Models that read reports: exact against their published programs on tiny weights, and the stage that runs them."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from diagcot.data.study import CHEXPERT_LABELS
from diagcot.evaluation import aggregate, predictions
from diagcot.evaluation.clinical import clinical
from diagcot.jobs import Unit, UserError
from diagcot.jobs.state.ledger import publish
from diagcot.jobs.testing import context, run_unit
from diagcot.metrics.clinical import weights
from diagcot.metrics.clinical.bertscore import BASELINE, BertScore
from diagcot.metrics.clinical.chexbert import HEADS, CheXbert
from diagcot.metrics.clinical.graphs import Graph
from diagcot.metrics.clinical.radgraph import RadGraph
from diagcot.metrics.clinical.ratescore import RateScore
from diagcot.metrics.clinical.readers import normalised
from diagcot.metrics.intervals import LEAST_STUDIES
from diagcot.metrics.radcliq import radcliq_v1
from tests.integration.evaluation import report_models
from tests.unit.evaluation.evaluated_run import MODELS, write_run

PUBLISHED = json.loads((Path(__file__).parent / "report_models.json").read_text())
TEXTS = PUBLISHED["texts"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    report_models.write_chexbert(root)
    report_models.write_roberta(root)
    for name in ("radgraph", "radgraph-xl"):
        report_models.write_radgraph(root, name)
    return root


@pytest.mark.parametrize("name", ["radgraph", "radgraph-xl"])
def test_graphs_are_those_of_the_package_reports_longer_than_the_transformer_included(models, name):
    expected = [
        Graph(tuple(map(tuple, g["entities"])), tuple(map(tuple, g["relations"]))) for g in PUBLISHED["graphs"][name]
    ]
    read = RadGraph(models / name, "cpu", name).read(TEXTS)
    assert [graph.entities for graph in read] == [graph.entities for graph in expected]
    assert [set(graph.relations) for graph in read] == [set(graph.relations) for graph in expected]
    assert sum(len(graph.relations) for graph in expected) > 30
    assert RadGraph(models / name, "cpu", name).read([""]) == [Graph(())]


def test_an_archive_of_another_form_is_refused(models, tmp_path):
    folder = report_models.write_radgraph(tmp_path, "radgraph")
    config = json.loads((folder / "config.json").read_text())
    config["model"]["modules"]["coref"]["coref_prop"] = 2
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="propagation"):
        RadGraph(folder, "cpu", "radgraph")


def test_bertscore_is_that_of_the_package(models):
    scorer = BertScore(models / "distilroberta-base", "cpu")
    read = scorer.read(TEXTS)
    for ours, theirs, f in PUBLISHED["bertscore"]:
        assert scorer.compare(read[ours], read[theirs])["bertscore"] == pytest.approx(
            (f - BASELINE) / (1 - BASELINE), abs=2e-5
        )
    empty, twice = scorer.read(["", "No  effusion"]), scorer.read(["No effusion"])
    assert scorer.compare(twice[0], empty[1])["bertscore"] == pytest.approx(1.0, abs=1e-5)
    assert scorer.compare(empty[0], read[0])["bertscore"] == pytest.approx(-BASELINE / (1 - BASELINE))


def test_chexbert_reads_the_published_checkpoint(models):
    """The same labels and vectors as a BERT and heads put together by hand, whatever stands beside a text."""
    import torch
    import transformers

    texts = [*TEXTS, "", "left " * 700]
    reader = CheXbert(models / "chexbert", "cpu")
    read = reader.read(texts)
    state = torch.load(models / "chexbert" / "chexbert.pth")["model_state_dict"]
    bert = transformers.BertModel(report_models.bert_config()).eval()
    bert.load_state_dict(
        {k[12:]: v for k, v in state.items() if k.startswith("module.bert.") and "position_ids" not in k}
    )
    place = {word: i for i, word in enumerate(report_models.WORDS)}
    tokens = torch.tensor([[2, place["no"], place["pneumothorax"], 3]])
    with torch.no_grad():
        first = bert(tokens).last_hidden_state[:, 0]
        heads = [
            int((first @ state[f"module.linear_heads.{h}.weight"].T + state[f"module.linear_heads.{h}.bias"]).argmax())
            for h in range(14)
        ]
    expected = {name: {1: 1, 2: 0, 3: -1}[c] for name, c in zip(HEADS, heads, strict=True) if c}
    assert TEXTS[2] == "No pneumothorax" and read[2][0] == expected and len(set(expected.values())) == 3
    np.testing.assert_allclose(read[2][1], first[0].numpy(), atol=1e-5)
    assert sorted(HEADS) == sorted(CHEXPERT_LABELS)
    assert reader.compare(read[0], read[0])["semb"] == pytest.approx(1.0)
    assert reader.compare(read[0], read[2])["semb"] < 0.99


def test_a_checkpoint_that_does_not_fit_is_told(models, tmp_path):
    import transformers

    folder = report_models.write_chexbert(tmp_path)
    (folder / "config.json").write_text(
        transformers.BertConfig(vocab_size=5, hidden_size=16, num_attention_heads=2).to_json_string()
    )
    with pytest.raises(UserError, match=r"chexbert\.pth does not fit its config\.json"):
        CheXbert(folder, "cpu")


@pytest.fixture
def run(tmp_path):
    write_run(tmp_path, studies=2, size=48, datasets=("mimic_cxr", "iu_xray"))
    return tmp_path


def stage(root, models, **overrides):
    inputs = {"predictions": [str(root / "shards/demo/evaluate")]}
    return context(
        root, {"weights": models and str(models), "batch": 2}, run="demo", stage="clinical", inputs=inputs, **overrides
    )


def unit(model, shard=0):
    params = {"model": model, "task": "report", "source": "shard", "shard": f"{shard:05d}"}
    return Unit(f"{model}.report.{shard:05d}", params)


def scored(root, ctx, others=()):
    counts = []
    with clinical.prepare(ctx) as shared:  # as a task does for all its units
        for one in [unit(model, shard) for shard in range(2) for model in MODELS]:
            result = clinical.run(one, shared, ctx)
            publish(ctx.stage_dir, one.key, result.outputs, result.counts, {})
            counts.append(result.counts)
    logs = root / "logs" / "demo"
    inputs = ctx.inputs | {"clinical": [str(ctx.output), *others]}
    run_unit(
        aggregate,
        Unit("metrics", {"models": list(MODELS), "starts": {}}),
        context(
            root,
            {"draws": 100, "examples": 0},
            run="demo",
            stage="report",
            output=logs,
            stage_dir=logs / "report",
            inputs=inputs,
        ),
    )
    return counts, json.loads((logs / "metrics.json").read_text())


def test_scores_go_to_the_table(run, models):
    counts, metrics = scored(run, stage(run, models))
    assert [c["missing"] for c in counts] == [1] * 2 * len(MODELS)  # RaTEScore's models are not there
    assert metrics["missing"] == {"RaTEScore": "no folder weights/ratescore"}  # not where that is: it may be shared
    rows = {row["model"]: row["scores"] for row in metrics["rows"] if row["dataset"] == "all"}
    lines = [
        json.loads(line) for path in sorted((run / "shards/test/clinical").glob("*.jsonl")) for line in path.open()
    ]
    mine = [line["scores"] for line in lines if line["model"] == "grpo"]
    for name in ("bertscore", "semb", "radgraph_partial", "radgraph_xl_complete", "radcliq"):
        cell = rows["grpo"][name]
        assert cell["value"] == pytest.approx(np.mean([scores[name] for scores in mine]))
        assert cell["low"] is None and cell["studies"] < LEAST_STUDIES  # too few for an interval
        assert cell["n"] == len(mine) and cell["start"]
    assert rows["grpo"]["chexbert_f1"]["studies"] < rows["grpo"]["chexbert_f1"]["n"]  # views of a study move together
    one = mine[0]
    assert one["radcliq"] == pytest.approx(
        radcliq_v1(
            {"radgraph": one["radgraph_radcliq"], "bertscore": one["bertscore"], "semb": one["semb"], "bleu2": 0}
        ),
        abs=1e-9,
    )
    thought = [scores["radgraph_overall"] for scores in mine if "radgraph_overall" in scores]
    assert rows["grpo"]["radgraph_overall"]["value"] == pytest.approx(sum(thought) / len(mine)) and max(thought) > 0
    assert "radgraph_overall" not in rows["base"]  # its replies have no reasoning
    assert rows["base"]["ratescore"]["reason"] == metrics["missing"]["RaTEScore"]
    columns = {column["name"]: column for column in metrics["columns"]}
    assert columns["radcliq"]["low"] and not columns["bertscore"]["low"]
    assert all("green" not in name for name in columns)  # no stage was to make it


def test_without_any_model_each_metric_says_why_and_the_table_is_there(run):
    counts, metrics = scored(run, stage(run, None))
    assert counts[0]["missing"] == len(weights.READERS)
    assert metrics["missing"]["CheXbert F1 (micro), RadCliQ-v1"] == "no folder of models: set `weights`"
    cells = metrics["rows"][0]["scores"]
    assert cells["bleu4"]["value"] is not None and cells["radcliq"]["value"] is None
    assert "No BERTScore, RadCliQ-v1: " in (run / "logs/demo/report.md").read_text()


def test_a_reader_that_breaks_halfway_costs_its_own_metrics_alone(run, models, monkeypatch):
    read, calls = BertScore.read, []

    def broken(self, texts):
        calls.append(texts)
        if len(calls) > 1:
            raise RuntimeError("CUDA out of memory\nTried to allocate")
        return read(self, texts)

    monkeypatch.setattr(BertScore, "read", broken)
    _, metrics = scored(run, stage(run, models))
    cells = metrics["rows"][0]["scores"]
    assert "CUDA out of memory Tried to allocate" in cells["bertscore"]["reason"] and cells["radcliq"]["value"] is None
    assert cells["chexbert_f1"]["value"] is not None and cells["radgraph_partial"]["value"] is not None
    assert len(calls) == 3 and len(calls[2]) == 2  # a plain sentence, twice; it is not asked again by this task


def test_what_was_read_of_a_reference_serves_all_models_of_a_shard(run, models, monkeypatch):
    read, seen = BertScore.read, []

    def counted(self, texts):
        seen.extend(texts)
        return read(self, texts)

    monkeypatch.setattr(BertScore, "read", counted)
    scored(run, stage(run, models))
    rows = list(predictions.read(sorted((run / "shards/demo/evaluate").glob("*.report.*.jsonl"))))
    references = {normalised(row.reference) for row in rows}
    # By the first model's units; before that, at most once more as an answer to another film.
    assert len(references) > 3 and {1, 2} >= set(map(seen.count, references))


def test_a_stop_keeps_what_is_scored(run, models):
    ctx = stage(run, models)
    ctx.settings["batch"] = 3
    ctx.on_progress = lambda row: ctx.stop.set()
    assert run_unit(clinical, unit("grpo"), ctx) is None
    assert len(ctx.records(unit("grpo"))) == 3
    assert run_unit(clinical, unit("grpo"), stage(run, models)).counts == {"scored": 4, "missing": 1, "unread": 0}


def test_what_is_lacking_is_told_without_torch(models, tmp_path, monkeypatch):
    assert "the variable in $NOWHERE/x is not set" in weights.notes(Path("$NOWHERE/x"))[0]
    told = weights.notes(models)
    assert told[0] == "found chexbert, distilroberta-base, radgraph, radgraph-xl" and "RaTEScore" in told[1]
    (report_models.write_chexbert(tmp_path) / "chexbert.pth").unlink()
    assert "lacks chexbert.pth" in weights.missing_files("chexbert", tmp_path)
    code = "import sys; import launchers.evaluation.clinical; assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_ratescore_is_asked_in_its_own_environment(tmp_path):
    """The package itself, where RATESCORE_PYTHON names a Python that has it."""
    python = os.environ.get("RATESCORE_PYTHON")
    if not python:
        pytest.skip("RATESCORE_PYTHON names no Python with the package RaTEScore")
    report_models.write_ratescore(tmp_path, python)
    assert weights.missing_files("ratescore", tmp_path) is None
    with contextlib.closing(RateScore(tmp_path / "ratescore", "cpu")) as reader:
        # As RaTEScore 0.6.0 has them, called by itself.
        assert reader.compare(TEXTS[0], "Heart")["ratescore"] == pytest.approx(0.923303, abs=1e-4)
        assert reader.compare("Heart", "Heart")["ratescore"] == pytest.approx(1.0)
        assert reader.compare("", TEXTS[0])["ratescore"] == 0.5


@pytest.mark.parametrize(
    ("python", "said"),
    [
        ("#!/bin/sh\nexit 3\n", "ended with 3"),
        (f"#!/bin/sh\nexec {sys.executable} -S -E -s $@\n", "No module named 'RaTEScore'"),
        ("#!/bin/sh\necho '{}'\n", None),
    ],
)
def test_a_ratescore_that_does_not_run_costs_its_metric_alone(tmp_path, python, said):
    """Its Python dies at once, has no such package, or dies after it has started."""
    program = tmp_path / "python"
    program.write_text(python)
    program.chmod(0o755)
    folder = report_models.write_ratescore(tmp_path, str(program))
    if said:
        with pytest.raises(UserError, match=said):
            RateScore(folder, "cpu")
        return
    with (
        contextlib.closing(RateScore(folder, "cpu")) as reader,
        pytest.raises(RuntimeError, match=r"has ended|ended with"),
    ):
        reader.compare("Heart", "Heart")


@pytest.mark.parametrize("why", [None, "no server"])
def test_scores_of_several_stages_meet_in_one_table(run, tmp_path, why):
    """GREEN's scores stand beside the others'; where its server never came, its column says so."""
    folder = run / "shards/test/green"
    folder.mkdir(parents=True)
    for path in (run / "shards/demo/evaluate").glob("*.report.*.jsonl"):
        rows = [
            {"id": one.id, "task": "report", "model": one.model, "scores": {} if why else {"green": 0.25}}
            for one in predictions.read([path])
        ]
        (folder / path.name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / f"{unit(MODELS[0]).key}.missing.json").write_text(
        json.dumps({"readers": ["green"], "missing": {"green": why} if why else {"chexbert": "not there then"}})
    )
    report_models.write_chexbert(tmp_path / "models")
    _, metrics = scored(run, stage(run, tmp_path / "models"), [str(folder)])
    cells = metrics["rows"][0]["scores"]
    assert cells["chexbert_f1"]["value"] is not None
    assert cells["green"].get("value") == (None if why else 0.25)
    assert metrics["missing"].get("GREEN") == cells["green"].get("reason") == why
    assert "not there then" not in metrics["missing"].values()  # what a stage lacked and another has
