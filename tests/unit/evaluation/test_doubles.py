"""An id that stands for two samples is refused by every join, with both files; and texts that not every model can read."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from diagcot.cot.filtration import filter as filtration
from diagcot.cot.review import traces
from diagcot.cot.search import collect, collection
from diagcot.evaluation import aggregate, predict, predictions
from diagcot.evaluation.clinical.scores import ClinicalScores
from diagcot.evaluation.compare import compare
from diagcot.evaluation.settings import Claim
from diagcot.evaluation.study import study
from diagcot.jobs import Context, Unit, UserError
from diagcot.jobs.testing import context
from diagcot.metrics.clinical.readers import LONGEST, readable
from diagcot.serving import Reply, Request
from diagcot.tasks.predictions import Prediction
from diagcot.training.rl.actors import ScoringServer
from diagcot.training.rl.rollout_pool import RolloutPool
from launchers.chain import open_chain

ROW = Prediction(
    *("a/1/x", "a/1", "report", "a", "base", "one", "one", "two", "stop"), phantom=True, images=[]
)  # fmt: skip
ONE, TWO = "base.report.shard.00000.jsonl", "base.report.other.00000.jsonl"
Rows = Sequence[Prediction | Mapping[str, Any]]


def given(folder: Path, role: str, files: Mapping[str, Rows]) -> Context:
    """A context whose input `role` is a stage that wrote these files."""
    return staged(folder, {role: {f"stage/{name}": rows for name, rows in files.items()}})


def staged(folder: Path, roles: Mapping[str, Mapping[str, Rows]]) -> Context:
    """A context whose inputs are stages that wrote these files: role -> stage/file -> rows."""
    inputs: dict[str, list[str]] = {}
    for role, files in roles.items():
        for name, rows in files.items():
            path = folder / role / name
            path.parent.mkdir(parents=True, exist_ok=True)
            found = (row.row() if isinstance(row, Prediction) else row for row in rows)
            path.write_text("".join(json.dumps(row) + "\n" for row in found))
        inputs[role] = list(dict.fromkeys(str(folder / role / Path(name).parent) for name in files))
    return replace(context(folder / "run"), inputs=inputs)


def about(**fields: Any) -> dict[str, Any]:
    """What another stage says of ROW."""
    return {"id": ROW.id, "task": ROW.task, "model": ROW.model, **fields}


CLAIM = Claim(text="Training helps.", column="rule_label_f1", better="tuned", than="base")
TABLES: dict[str, Any] = {
    "aggregate": lambda ctx: aggregate.run(
        Unit("all", {"models": ["base"], "starts": {}}), aggregate.AggregateSettings(), ctx
    ),
    "study": lambda ctx: study.run(Unit("study"), study.StudySettings(claims=[CLAIM], seeds=[1]), ctx),
}


@pytest.mark.parametrize("name", TABLES)
def test_two_answers_of_a_model_to_one_id_are_refused_with_both_files(tmp_path: Path, name: str) -> None:
    ctx = given(tmp_path, "predictions", {ONE: [ROW], TWO: [replace(ROW, answer="another")]})
    with pytest.raises(
        UserError, match=rf"a/1/x \(task report\) by base is in .*{TWO} and in .*{ONE}: .* one `shards` stage"
    ):
        TABLES[name](ctx)


def test_one_id_may_have_other_tasks_and_models_but_one_reference(tmp_path: Path) -> None:
    others = [ROW, replace(ROW, model="tuned"), replace(ROW, task="open"), replace(ROW, id="a/2/x")]
    ctx = given(tmp_path, "predictions", {ONE: others})
    files = ctx.files("predictions", "*.jsonl")
    assert list(predictions.distinct(files, compared=True)) == others
    ctx = given(tmp_path / "content", "predictions", {ONE: [ROW], TWO: [replace(ROW, model="tuned", reference="x")]})
    files = ctx.files("predictions", "*.jsonl")
    assert len(list(predictions.distinct(files, compared=False))) == 2  # of two seeds, which are not compared
    with pytest.raises(UserError, match=rf"with two references, is in .*{TWO} and in .*{ONE}"):
        list(predictions.distinct(files, compared=True))


def test_a_double_in_the_file_of_a_unit_is_refused_by_what_reads_that_unit(tmp_path: Path) -> None:
    """Kinds clinical, green and judge read the predictions of one unit."""
    ctx = given(tmp_path, "predictions", {ONE: [ROW, replace(ROW, answer="another")]})
    with pytest.raises(UserError, match=rf"a/1/x .* is twice in .*{ONE}"):
        predictions.tested(Unit(ONE.removesuffix(".jsonl")), ctx)


def scores(**values: float) -> dict[str, Any]:
    return about(scores=values)


NOTHING: Rows = [{"readers": [], "missing": {}}]


@pytest.mark.parametrize(
    ("role", "read", "first", "second"),
    [
        ("clinical", ClinicalScores.read, scores(bertscore=0.9), scores(bertscore=0.1)),
        ("clinical", ClinicalScores.read, scores(green=0.9), scores(green=0.1)),
        ("verdicts", aggregate._judged, about(same=[True, True]), about(same=[False, False])),
    ],
    ids=["clinical", "green", "judge"],
)
def test_what_is_said_of_two_samples_of_one_id_is_not_joined(
    tmp_path: Path, role: str, read: Any, first: Any, second: Any
) -> None:
    with pytest.raises(UserError, match=rf"a/1/x .* by base is in .*{TWO} and in .*{ONE}"):
        read(given(tmp_path / "two", role, {ONE: [first], TWO: [second], "all.missing.json": NOTHING}))
    with pytest.raises(UserError, match=rf"a/1/x .* by base is twice in .*{ONE}"):
        read(given(tmp_path / "one", role, {ONE: [first, second], "all.missing.json": NOTHING}))


def test_two_stages_may_score_one_unit(tmp_path: Path) -> None:
    files = {f"clinical/{ONE}": [scores(bertscore=0.9)], f"green/{ONE}": [scores(green=0.5)]}
    nothing = {f"{stage}/all.missing.json": NOTHING for stage in ("clinical", "green")}
    found = ClinicalScores.read(staged(tmp_path, {"clinical": files | nothing}))
    assert found.scores["report", "base"]["a/1/x"] == {"bertscore": 0.9, "green": 0.5}


def test_a_comparison_refuses_a_run_with_two_answers_to_one_id(tmp_path: Path) -> None:
    for name, rows in (("one", [ROW]), ("two", [ROW, replace(ROW, answer="another")])):
        (tmp_path / name).mkdir()
        predictions.write_parquet(tmp_path / name / "predictions.parquet", rows)
    with pytest.raises(UserError, match=r"a/1/x .* by base is twice in .*two/predictions\.parquet"):
        compare(tmp_path / "one", tmp_path / "two")


TRACE: dict[str, Any] = {"id": "a/1/x"}


@pytest.mark.parametrize(
    ("found", "verdicts", "said"),
    [
        ({"0": [TRACE, TRACE]}, {"0": [TRACE]}, r"the trace a/1/x is twice in .*traces/stage/0\.jsonl"),
        ({"0": [TRACE]}, {"0": [TRACE, TRACE]}, r"a verdict on the trace a/1/x is twice in .*verdicts/0\.jsonl"),
        (
            {"0": [TRACE], "1": [TRACE]},
            {"0": [TRACE], "1": [TRACE]},
            r"the trace a/1/x is in .*stage/0\.jsonl and in .*stage/1\.jsonl",
        ),
    ],
)
def test_traces_and_verdicts_and_their_page_refuse_doubles(
    tmp_path: Path, found: Any, verdicts: Any, said: str
) -> None:
    ctx = staged(
        tmp_path,
        {
            "traces": {f"stage/{name}.jsonl": rows for name, rows in found.items()},
            "verdicts": {f"stage/verdicts/{name}.jsonl": rows for name, rows in verdicts.items()},
        },
    )
    (source,), (judged,) = ctx.inputs["traces"], ctx.inputs["verdicts"]
    with pytest.raises(UserError, match=said):
        list(traces.pairs(Path(source), Path(judged).parent))


def test_the_filter_refuses_two_traces_of_one_id(tmp_path: Path) -> None:
    ctx = given(tmp_path, "traces", {"0.jsonl": [TRACE, TRACE | {"answer": "another"}]})
    with pytest.raises(UserError, match=r"the trace a/1/x is twice in .*0\.jsonl"):
        filtration.run(Unit("0"), None, replace(ctx, settings={"judge": False}))


def test_collection_and_evaluation_refuse_two_samples_of_one_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without that a unit would never be done: there is one record for each id."""
    ctx = replace(context(tmp_path), inputs={"shards": [str(tmp_path / "s")]})
    shard, doubles = SimpleNamespace(path=tmp_path / "0.h5"), [SimpleNamespace(id="a/1/x", images=[])] * 2
    for module, selector in ((collection, "select_samples"), (predict, "samples_of")):
        monkeypatch.setattr(module, "Shard", lambda path: shard)
        monkeypatch.setattr(module, selector, lambda *_: doubles)
    with pytest.raises(UserError, match=r"the sample a/1/x is twice in .*0\.h5"):
        collect.run(Unit("0"), collection.Collection(SimpleNamespace(), ctx), ctx)  # type: ignore[arg-type]
    asked = Unit("m.report.s.0", {"task": "report", "source": "s", "shard": "0", "model": "m", "max_tokens": 9})
    settings: Any = SimpleNamespace(settings=predict.EvaluateSettings())
    with pytest.raises(UserError, match=r"the sample a/1/x is twice in .*0\.h5"):
        predict.run(asked, settings, ctx)


def test_rollouts_and_judgements_refuse_two_requests_of_one_id() -> None:
    twice = [Request("0", (("user", "look"),))] * 2

    class Server:
        def complete(self, requests: Sequence[Request]) -> Iterator[tuple[str, Reply]]:
            return ((request.id, Reply()) for request in requests)

    scoring, pool = object.__new__(ScoringServer), object.__new__(RolloutPool)
    scoring._server = Server()  # type: ignore[assignment]
    with pytest.raises(ValueError, match="two requests have one id"):
        scoring.complete(twice)
    with pytest.raises(ValueError, match="two requests of a step have one id"):
        pool.roll_out(twice, lambda index, reply: [], 0.0)


HEAD = """\
name: mine
stages:
  - {name: phantoms, kind: phantoms, number: 0, settings: {studies: 8}}
  - {name: shard, kind: shard, number: 0, inputs: {tree: phantoms}, settings: {sources: [{kind: mimic_cxr, input: tree}]}}
  - {name: again, kind: phantoms, number: 0, settings: {studies: 8}}
  - {name: other, kind: phantoms, number: 0, settings: {studies: 9}}
  - {name: base, kind: model, number: 1, inputs: {shards: shard}}
  - {name: collect, kind: collect, number: 2, inputs: {shards: shard, model: base}}
  - {name: strict, kind: filter, number: 2, inputs: {traces: collect}, settings: {judge: false, min_words: 9}}
  - {name: loose, kind: filter, number: 2, inputs: {traces: collect}, settings: {judge: false}}
"""
SECOND = (
    "  - {{name: second, kind: shard, number: 0, inputs: {{tree: {}}},"
    " settings: {{sources: [{{kind: mimic_cxr, input: tree{}}}]}}}}\n"
)
EVALUATED = "  - {name: tested, kind: evaluate, number: eval, inputs: {models: base, shards: [shard, second]}}\n"
TRAINED = (
    "  - {{name: tuned, kind: sft, number: 3, inputs: {{model: base, samples: [{}]}},"
    " settings: {{trainable: [merger], deepspeed: {{steps: 1, global_batch: 8}}}}}}\n"
)


@pytest.mark.parametrize(
    ("added", "stage", "said"),
    [
        (SECOND.format("phantoms", "") + EVALUATED, "tested", "collection .* from shard and from second"),
        (SECOND.format("again", "") + EVALUATED, "tested", "collection .* from shard and from second"),
        (SECOND.format("other", "") + EVALUATED, "tested", ""),
        (SECOND.format("phantoms", ", splits: [train]") + EVALUATED, "tested", ""),
        (TRAINED.format("strict, loose"), "tuned", "samples of strict and of loose, which both keep traces of collect"),
        (TRAINED.format("strict"), "tuned", ""),
    ],
)
def test_what_would_be_double_is_refused_when_the_recipe_is_planned(
    tmp_path: Path, added: str, stage: str, said: str
) -> None:
    (tmp_path / "mine.yaml").write_text(HEAD + added)
    chain = open_chain(str(tmp_path / "mine.yaml"), "laptop", "mine")
    if not said:
        assert chain.units_of(stage)
        return
    with pytest.raises(UserError, match=said):
        chain.units_of(stage)


def test_models_read_whole_valid_texts_of_bounded_length() -> None:
    report = "Heart is  large.\nNo effusion."
    assert readable(report) == report
    assert readable("a \ud800 b") == "a ? b"
    assert readable("no edema " * 4500).split() == ["no", "edema"] * (LONGEST // 2)
