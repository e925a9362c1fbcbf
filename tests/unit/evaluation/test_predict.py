"""The prediction stage with a stand-in server that fails on request; the real one is in the serving and chain tests."""

import asyncio
import json
import math
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from diagcot.data.phantom.drawing import draw
from diagcot.data.phantom.findings import Findings
from diagcot.data.pixels import convert
from diagcot.data.study import CHEXPERT_LABELS, Image, Study
from diagcot.evaluation import predict
from diagcot.evaluation.settings import EvaluateSettings
from diagcot.jobs import Unit, UserError
from diagcot.jobs.testing import context, run_unit
from diagcot.serving import Reply
from diagcot.shards import Shard
from diagcot.shards.writer import ShardWriter
from diagcot.tasks.diagnosis import classification_samples
from diagcot.tasks.prompt_set import DEFAULT
from diagcot.tasks.prompts import reasoned
from launchers.evaluation import evaluate
from tests import stages
from tests.unit.evaluation.evaluated_run import write_shard


class Server:
    """Answers every request; `fails` and `stops_after` (samples) inject what a server does to us."""

    def __init__(self, model):
        self.models, self.asked = [model], []
        self.fails, self.stops_after = (lambda request: False), 10**6

    def load(self, model):
        self.models.append(model)

    async def chat(self, request):
        self.asked.append(request)
        if self.fails(request):
            return Reply(error="HTTP 400")
        if request.scored_tokens:  # Yes is the likelier the longer the label's name, as any rule would do
            yes, no = request.scored_tokens
            odds = {f"token_id:{yes}": -1.0, f"token_id:{no}": -len(request.messages[0][1]) / 50}
            return Reply(["Perhaps"], ["length"], top_logprobs=[odds])
        text = reasoned("looked at", f"no regions detected by {self.models[-1].parent.name}")
        return Reply([text], ["stop"])

    def each(self, items, work, stopping):
        for number, item in enumerate(items):
            if number >= self.stops_after or stopping():
                return
            yield asyncio.run(work(self, item))


@pytest.fixture
def server(monkeypatch):
    made = Server(None)

    @contextmanager
    def serve(model, settings, ctx):
        made.models[:] = [model]
        yield made

    monkeypatch.setattr("diagcot.evaluation.server.serve", serve)
    monkeypatch.setattr(predict, "first_tokens", lambda model: (3, 4))
    return made


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("shards")
    write_shard(root / "shards" / "test" / "shard" / "00000.h5", 8, size=48)
    return root


def made(root, tmp_path, **settings):
    inputs = {
        "models": [str(root / "models" / "test" / name) for name in ("base", "grpo")],
        "shards": [str(root / "shards" / "test" / "shard")],
    }
    return context(tmp_path, settings, stage="evaluate", inputs=inputs, shards_root=root / "shards")


def unit(model="base", task="report", max_tokens=512):
    params = {"model": model, "task": task, "source": "shard", "shard": "00000", "max_tokens": max_tokens}
    return Unit(f"{model}.{task}.shard.00000", params)


def rows(ctx, of):
    return [json.loads(line) for line in (ctx.output / f"{of.key}.jsonl").read_text().splitlines()]


def test_images_without_a_present_label_are_hard_negatives_of_the_evaluation_alone(tmp_path):
    known: tuple[dict[str, int], ...] = ({"Edema": 1, "Fracture": 0}, {"Edema": 0, "Fracture": 0}, {"Edema": -1}, {})
    jpeg = convert(draw("1", Findings(), "PA", 48).jpeg(), 48, 90)
    with ShardWriter(tmp_path / "0.h5") as out:
        for number, labels in enumerate(known):
            images = (Image(f"i{number}", "PA"),)
            out.add(Study("mine", f"s{number}", f"p{number}", "test", labels=labels, images=images), [jpeg])
    shard = Shard(tmp_path / "0.h5")
    asked = predict.samples_of(shard, tmp_path, "classification", EvaluateSettings(), "test", 0)
    assert {sample.study: sample.answer.rpartition(": ")[2] for sample in asked} == {
        "mine/s0": "Edema", "mine/s1": "No Finding",
    }  # fmt: skip
    assert [sample.study for sample in classification_samples(shard, "0.h5", "test")] == ["mine/s0"]


def test_one_answer_for_each_sample(root, tmp_path, server):
    ctx = made(root, tmp_path)
    result = run_unit(predict, unit(task="grounding"), ctx)
    found = rows(ctx, unit(task="grounding"))
    needed = {"samples of task grounding": len(found)}
    assert result.counts == {"samples": len(found), "failed": 0, "cut_at_max_tokens": 0, "needed": needed}
    assert [row["id"] for row in found] == sorted(row["id"] for row in found)
    one = found[0]
    assert one["answer"] == "no regions detected by base" and one["output"].startswith("<think>")
    assert one["phantom"] and one["dataset"] == "mimic_cxr" and one["study"].startswith("mimic_cxr/")
    assert one["images"][0]["shard"] == "test/shard/00000.h5"
    request = server.asked[0]
    assert request.temperature == 0 and request.images[0][:2] == b"\xff\xd8" and request.max_tokens == 512
    assert [role for role, _ in request.messages] == ["user"]  # the reference stays here


def test_a_server_is_shared_and_switched(root, tmp_path, server):
    ctx = made(root, tmp_path, samples_per_shard=3)
    with predict.prepare(ctx) as shared:
        for model in ("base", "grpo"):
            assert predict.run(unit(model), shared, ctx).counts["samples"] == 3
    assert [path.parent.name for path in server.models] == ["base", "grpo"]
    first, second = server.asked[:3], server.asked[3:]
    assert [r.id for r in first] == [r.id for r in second]  # the same samples for every model


def test_models_are_asked_for_the_tags_where_the_recipe_says_so(root, tmp_path, server):
    asked = []
    for instructed in (False, True):
        ctx = made(root, tmp_path / str(instructed), samples_per_shard=2, format_instruction=instructed)
        assert run_unit(predict, unit(), ctx).counts["samples"] == 2
        asked.append(dict(request.messages[-1] for request in server.asked)["user"])
        server.asked.clear()
    assert asked[1].startswith(asked[0]) and "<answer>" in asked[1] and "<answer>" not in asked[0]


def test_stopped_it_goes_on_where_it_was(root, tmp_path, server):
    ctx = made(root, tmp_path)
    server.stops_after = 5
    assert run_unit(predict, unit(), ctx) is None
    server.stops_after = 10**6
    again = made(root, tmp_path)
    assert run_unit(predict, unit(), again).counts["samples"] == 16
    asked = [request.id for request in server.asked]
    assert len(asked) == len(set(asked)) == 16
    assert len(rows(again, unit())) == 16


def test_a_failed_request_is_a_miss(root, tmp_path, server):
    ctx = made(root, tmp_path)
    bad = {"id": None}
    server.fails = lambda request: bad.setdefault("first", request.id) == request.id
    assert run_unit(predict, unit(), ctx).counts["failed"] == 1
    row = next(row for row in rows(ctx, unit()) if row["id"] == bad["first"])
    assert row["finish"] == "error" and row["answer"] == "" and len(rows(ctx, unit())) == 16


def test_a_server_that_answers_nothing_is_an_error(root, tmp_path, server):
    server.fails = lambda request: True
    with pytest.raises(UserError, match="none of 16 requests: HTTP 400"):
        run_unit(predict, unit(), made(root, tmp_path))


def test_the_grid_is_ordered_by_model():
    other = SimpleNamespace(spec=SimpleNamespace(kind="questions"))
    chain = SimpleNamespace(units_of=lambda name: [Unit("00000"), Unit("00001")], stage=lambda name: other)
    report = {"tasks": ["report"]}
    units = evaluate.units(stages.stage("evaluate", report, models=["base", "grpo"], shards=["shard"]), chain)
    assert [u.key for u in units] == [
        "base.report.shard.00000",
        "base.report.shard.00001",
        "grpo.report.shard.00000",
        "grpo.report.shard.00001",
    ]
    assert units[0].params == {
        "model": "base",
        "task": "report",
        "source": "shard",
        "shard": "00000",
        "max_tokens": 1024,
    }
    two = stages.stage("evaluate", report, models=["base"], shards=["mimic", "iu"])
    assert [u.key for u in evaluate.units(two, chain)][1:3] == ["base.report.mimic.00001", "base.report.iu.00000"]
    with pytest.raises(UserError, match="two inputs"):
        evaluate.units(stages.stage("evaluate", report, models=["base"]), chain)


def test_labels_get_probabilities_from_the_first_tokens_of_yes_and_no(root, tmp_path, server):
    ctx = made(root, tmp_path, tasks=["classification"], samples_per_shard=3)
    run_unit(predict, unit(task="classification", max_tokens=40), ctx)
    found = rows(ctx, unit(task="classification"))
    asked = server.asked[:15]
    assert len({request.id for request in asked}) == 1 and not asked[0].scored_tokens and asked[0].max_tokens == 40
    assert {request.scored_tokens for request in asked[1:]} == {(3, 4)} and asked[1].max_tokens == 1
    assert "no finding" in asked[1].messages[0][1] and len({request.images for request in asked}) == 1
    assert set(found[0]["scores"]) == set(CHEXPERT_LABELS) == set(found[0]["about"]["labels"]) | set(found[0]["scores"])
    odds = len(DEFAULT.render("presence", label="edema")) / 50 - 1
    assert found[0]["scores"]["Edema"] == pytest.approx(1 / (1 + math.exp(-odds)))
    assert {row["split"] for row in found} == {"test"}  # the shard has no validate split
    plain = made(root, tmp_path / "plain", tasks=["classification"], probabilities=False)
    server.asked.clear()
    run_unit(predict, unit(task="classification"), plain)
    assert (
        not any(request.choice for request in server.asked)
        and rows(plain, unit(task="classification"))[0]["scores"] == {}
    )


def test_questions_of_every_kind_are_asked(root, tmp_path, server):
    for task in ("binary", "single", "multi", "view", "matching", "open", "fg", "grounding_pixels"):
        ctx = made(root, tmp_path / task, tasks=[task])
        run_unit(predict, unit(task=task), ctx)
        found = rows(ctx, unit(task=task))
        assert found and {row["task"] for row in found} == {task}
        if task == "binary":
            assert found[0]["about"]["options"] and found[0]["reference"].endswith("✅")
            assert "❌" not in found[0]["reference"]  # the conclusion, not the first judgement


def test_unknown_tasks_and_wordings_are_refused():
    with pytest.raises(ValueError, match="tasks"):
        EvaluateSettings(tasks=["prose"])
    with pytest.raises(ValueError, match="unknown wording"):
        EvaluateSettings(wording={"riddle": ["<image>?"]})
    assert EvaluateSettings(max_tokens={"report": 7}).tokens("report") == 7
    assert EvaluateSettings().tokens("report") == 1024 and EvaluateSettings().tokens("open") == 512


def test_test_samples_that_training_has_seen_are_not_asked(root, tmp_path, server, monkeypatch):
    class Seen:
        def why(self, shard, row):
            return "the same picture" if row % 2 else ""

    monkeypatch.setattr(predict, "seen_in_run", lambda ctx: Seen())
    ctx = made(root, tmp_path)
    counts = run_unit(predict, unit(), ctx).counts
    assert counts["seen_in_training"] == counts["samples"] == len(rows(ctx, unit())) > 0
    (event,) = [row for row in map(json.loads, (ctx.stage_dir / "events.jsonl").read_text().splitlines())]
    assert event["event"] == "seen_in_training" and event["samples"] == {"the same picture": counts["samples"]}


def test_imported_test_samples_are_asked_by_their_task(tmp_path, server):
    from diagcot.exchange import importing

    image = tmp_path / "a.jpg"
    image.write_bytes(draw("a", Findings.from_tags(()), "PA", 64, 1).jpeg())
    common = {"problem": "<image>what ?", "images": [str(image)], "patient": "p", "split": "test"}
    asked = [{**common, "answer": f"{task} test", "task": task} for task in ("report", "open")]
    asked.append({"problem": "no image", "answer": "report train", "task": "report"})
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, asked)))
    mine = context(tmp_path, {"files": [{"path": str(tmp_path / "rows.jsonl")}]}, stage="mine")
    assert run_unit(importing, Unit("00000"), mine).counts["test"] == 2
    inputs = {"models": [str(tmp_path / "models" / "test" / "base")], "shards": [str(mine.output)]}
    ctx = context(tmp_path, {}, stage="evaluate", inputs=inputs)
    one = unit(task="report")
    one = Unit(one.key, {**one.params, "source": "mine"})
    assert run_unit(predict, one, ctx).counts["samples"] == 1
    (row,) = rows(ctx, one)
    assert (row["reference"], row["question"], row["dataset"]) == ("report test", "what ?", "imported")
    shard, settings = Shard(mine.output / "00000.h5"), EvaluateSettings()
    (known,) = predict.samples_of(shard, ctx.shards_root, "report", settings, "train", 7)
    assert known.answer == "report train"  # where the best constant answer is chosen
    for task, lacking in (("binary", "options"), ("classification", "labels of their study")):
        with pytest.raises(UserError, match=f"have no {lacking}; do not ask them {task}"):
            run_unit(predict, Unit("x", {**one.params, "task": task}), ctx)
