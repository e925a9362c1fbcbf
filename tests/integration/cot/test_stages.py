"""Collect, filter and synthetic-sft on real shards of phantoms, with a model that answers by script."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from diagcot.cot.filtration import filter as filtration
from diagcot.cot.filtration import judge
from diagcot.cot.search import collect, collection, prompts, schemas
from diagcot.cot.search.sample import select_samples
from diagcot.cot.settings import CollectSettings
from diagcot.cot.synthetic import conversations, questions, synthetic_sft
from diagcot.jobs import Context, Unit, UserError
from diagcot.jobs.state.counts import nothing_of
from diagcot.jobs.state.ledger import publish
from diagcot.jobs.testing import context, run_unit
from diagcot.serving.server import process
from diagcot.shards import Shard
from diagcot.tasks.diagnosis import report_samples
from diagcot.tasks.prompt_set import DEFAULT
from diagcot.tasks.samples import read_samples
from tests.fakes.serving import COMMAND, model_folder, prompts_seen, starts, write_script
from tests.unit.shards import test_files as test_shards_files

UNIT = Unit("00000")
TWO = (UNIT, Unit("00001"))
SERVER = {"startup_timeout_s": 60, "shutdown_timeout_s": 1, "in_flight": 6, "request_timeout_s": 30}


def stage(root: Path, name: str, settings: dict[str, Any], **inputs: str) -> Context:
    found = {role: [str(root / "shards" / "test" / where)] for role, where in inputs.items()}
    return context(root, settings, stage=name, output=root / "shards" / "test" / name, inputs=found)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with phantoms of 24 studies in one shard."""
    from diagcot.data.phantom import build as phantoms
    from diagcot.shards import build

    root = tmp_path_factory.mktemp("run")
    settings: dict[str, Any] = {"studies": 24, "size": 56}
    ctx = stage(root, "phantoms", settings)
    run_unit(phantoms, Unit("tree"), ctx)
    settings = {"sources": [{"kind": "mimic_cxr", "input": "phantoms"}], "shards": 1, "image_size": 56}
    run_unit(build, UNIT, stage(root, "shard", settings, phantoms="phantoms"))
    return root


@pytest.fixture
def run_folder(shards: Path, tmp_path: Path) -> Path:
    """A run of its own with those shards and a model folder for the scripted server."""
    (tmp_path / "shards" / "test").mkdir(parents=True)
    (tmp_path / "shards" / "test" / "shard").symlink_to(shards / "shards" / "test" / "shard")
    model_folder(tmp_path / "shards" / "test")
    return tmp_path


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    start = process.Process.start.__func__  # type: ignore[attr-defined]

    def fake(cls, *args, **kwargs):  # type: ignore[no-untyped-def]
        args = (*args[:6], COMMAND)
        return start(cls, *args, **kwargs)

    monkeypatch.setattr(process.Process, "start", classmethod(fake))


def collect_ctx(root: Path, **settings: Any) -> Context:
    return stage(root, "cot", {"server": SERVER, **settings}, shards="shard", model=".")


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_traces_name_their_films_and_hold_no_pixels(run_folder, monkeypatch):
    write_script(run_folder, monkeypatch)
    ctx = collect_ctx(run_folder)
    result = run_unit(collect, UNIT, ctx)
    found = rows(ctx.output / "00000.jsonl")
    assert result.counts["samples"] == len(found) > 10
    assert result.counts["verified"] == len(found) and result.counts["failed"] == result.counts["forced"] == 0
    assert [row["id"] for row in found] == sorted(row["id"] for row in found)
    for row in found:
        assert (
            row["error"] is None and row["calls"] == 3 and row["reasoning"] and row["answer"].startswith("findings : ")
        )
        assert row["images"][0]["shard"] == "test/shard/00000.h5"
        assert "base64" not in json.dumps(row)


def test_an_independent_verifier_is_a_server_of_its_own(run_folder, monkeypatch):
    (run_folder / "shards" / "test" / "other").mkdir()
    model_folder(run_folder / "shards" / "test" / "other")
    # The teacher would accept nothing and the verifier accepts all; the verifier is not asked for anything else.
    models = {
        "other": {"verdict": True, "die_on": "Answer in JSON: thinking"},
        "test": {"verdict": False, "die_on": "to review"},
    }
    write_script(run_folder, monkeypatch, models=models)
    settings = {"server": SERVER, "samples_per_shard": 4, "views": "frontal"}
    ctx = stage(run_folder, "cot", settings, shards="shard", model=".", verifier="other")
    counts = run_unit(collect, UNIT, ctx).counts
    assert (counts["samples"], counts["verified"], counts["by_init"], counts["calls"]) == (4, 4, 4, 12)
    assert starts(run_folder) == 2


def test_traces_are_the_same_bytes_however_the_calls_came_in(run_folder, monkeypatch):
    written = []
    for number, server in enumerate(({"in_flight": 1}, {"in_flight": 6})):
        write_script(run_folder, monkeypatch, verdict=False, usage=[10, 5])
        found = {"server": SERVER | server, "samples_per_shard": 5, "views": "all"}
        ctx = stage(run_folder, f"cot{number}", found, shards="shard", model=".")
        counts = run_unit(collect, UNIT, ctx).counts
        assert counts["forced"] == counts["by_label"] == 5 and counts["calls"] == 80
        assert counts["prompt_tokens"] == 800 and counts["completion_tokens"] == 400
        written.append((ctx.output / "00000.jsonl").read_bytes())
    assert written[0] == written[1]


def test_every_task_is_collected_and_its_traces_pass_the_filter(run_folder, monkeypatch):
    """Reports, labels, boxes and questions through one server; what the rules of the filter keep is what is right."""
    shard = Shard(run_folder / "shards/test/shard/00000.h5")
    run_unit(questions, UNIT, stage(run_folder, "questions", {}, shards="shard"))
    asked = {sample.id: sample for sample in read_samples(run_folder / "shards/test/questions/00000.jsonl")}
    settings = {"tasks": ["report", "classification", "grounding", "closed", "open"], "samples_per_shard": 6}
    cases = select_samples(shard, run_folder / "shards", CollectSettings(**settings), asked.values())
    assert len(cases) == 30
    told: dict[str, str] = {}
    for case in cases:
        head = prompts.head(len(case.images), case.reference_report, case.question).without_images.text
        if case.trace_format == "interleaved":
            told[head] = conversations.pairs(case, asked[case.id].answer)[1]
        elif case.task != "report":
            step = {"title": "film", "content": "i see it"}
            told[f"{head}Reason from"] = json.dumps(
                {"thinking": [step], "conclusion": case.reference, "check": "it fits"}
            )
    told.pop(
        prompts.head(1, cases[-1].reference_report, cases[-1].question).without_images.text
    )  # one that cannot be answered
    text = "i look at all of the film, its middle and its edges, and i see what is there to see"
    for case in cases:  # the reasoning has to state what the answer states
        if case.trace_format == "think":
            conclusion = case.reference_report if case.task == "report" else case.reference
            told[f"\nConclusion: {conclusion}\n"] = (
                f"{text}\n{case.reference_report if '<box>' in conclusion else conclusion}"
            )
    write_script(run_folder, monkeypatch, replies=told, text=text)
    ctx = stage(run_folder, "cot", settings | {"server": SERVER}, shards="shard", samples="questions", model=".")
    counts = run_unit(collect, UNIT, ctx).counts
    found = rows(ctx.output / "00000.jsonl")
    assert [row["id"] for row in found if row["error"]] == [cases[-1].id]
    assert (counts["samples"], counts["verified"], counts["failed"], counts["by_init"]) == (30, 29, 1, 29)
    assert counts["calls"] == 6 * 3 + 6 * 2 + 6 * 2 + 11 + 6  # the last one is asked three times, and thrice again
    kept = run_unit(filtration, UNIT, stage(run_folder, "filter", {"judge": False}, traces="cot")).counts
    assert kept["kept"] == 29 and kept["dropped_search_failed"] == 1
    samples = {sample.id: sample for sample in read_samples(run_folder / "shards/test/filter/00000.jsonl")}
    for case in (case for case in cases[:-1] if case.trace_format == "interleaved"):
        assert samples[f"{case.id}:cot"].answer == asked[case.id].answer
        assert samples[f"{case.id}:cot"].prompt == asked[case.id].prompt


def test_samples_are_the_same_choice_of_the_training_split(run_folder):
    shard = Shard(run_folder / "shards/test/shard/00000.h5")
    some = select_samples(shard, run_folder / "shards", CollectSettings(samples_per_shard=5))
    every = select_samples(shard, run_folder / "shards", CollectSettings())
    assert [s.id for s in some] == [s.id for s in every][:5]
    train = {sample.id for sample in report_samples(shard, "test/shard/00000.h5", "train")}
    films = {
        views: {s.id for s in select_samples(shard, run_folder / "shards", CollectSettings(views=views))}
        for views in ("all", "frontal", "first")
    }
    assert films["frontal"] < films["all"] == train and films["first"] < train
    studies = {s.study for s in every}
    assert studies == {s.id for s in every} == {name.rpartition("/")[0] for name in train}
    assert max(len(s.images) for s in every) > 1 and all(s.question.count("<image>") == len(s.images) for s in every)
    assert len(films["first"]) == len(every)


def test_a_poison_sample_is_recorded_with_its_cause(run_folder, monkeypatch):
    shard = Shard(run_folder / "shards/test/shard/00000.h5")
    reference = select_samples(shard, run_folder / "shards", CollectSettings())[0].reference_report
    write_script(run_folder, monkeypatch, refuse={reference: [400] * 99})
    ctx = collect_ctx(run_folder)
    result = run_unit(collect, UNIT, ctx)
    failed = [row for row in rows(ctx.output / "00000.jsonl") if row["error"]]
    assert 1 <= len(failed) == result.counts["failed"] < result.counts["samples"]
    assert failed[0]["error"] == "init: HTTP 400: refused by script" and failed[0]["calls"] == 1


def test_a_stop_and_a_resume_lose_and_repeat_nothing(run_folder, monkeypatch):
    write_script(run_folder, monkeypatch, delay_s=0.02)
    ctx = collect_ctx(run_folder)
    with collect.prepare(ctx) as server:
        monkeypatch.setattr(
            ctx, "stopping", lambda: (len(prompts_seen(run_folder)) if (run_folder / "script.log").exists() else 0) > 12
        )
        assert collect.run(UNIT, server, ctx) is None
    before = len(prompts_seen(run_folder))
    again = collect_ctx(run_folder)
    done = again.records(UNIT).ids
    assert done
    result = run_unit(collect, UNIT, again)
    found = rows(again.output / "00000.jsonl")
    assert len(found) == result.counts["samples"] == len({row["id"] for row in found})
    inits = [
        line for line in prompts_seen(run_folder)[before:] if line.startswith("<image>") or line.startswith("Reference")
    ]
    assert len(prompts_seen(run_folder)) - before == 3 * (len(found) - len(done)), inits


def two_units(root: Path, name: str, studies: int) -> Context:
    """A stage whose task has the units 00000 and 00001, with images of their own."""
    if not (root / "shards/test/both").exists():
        (root / "shards/test/both").mkdir()
        for key, first in (("00000", 3), ("00001", 303)):
            made = [test_shards_files.made(number) for number in range(first, first + 3 * studies, 3)]
            test_shards_files.write(root / f"shards/test/both/{key}.h5", made)
    return replace(stage(root, name, {"server": SERVER}, shards="both", model="."), units=TWO)


def test_samples_of_the_next_unit_fill_the_places_that_a_unit_leaves_free(run_folder, monkeypatch):
    write_script(run_folder, monkeypatch, delay_s=0.02, verdict=0.4)  # 3 to 16 calls a sample
    ctx, alone = (two_units(run_folder, name, 8) for name in ("cot", "alone"))
    written, begun = [], []
    with collect.prepare(ctx) as shared:
        for unit in TWO:
            begun.append(len(ctx.records(unit)))
            result = collect.run(unit, shared, ctx)
            publish(ctx.stage_dir, unit.key, result.outputs, result.counts, {"attempt": ctx.attempt})
            written.append(result)
    assert begun[0] == 0 < begun[1]  # some of them ended before the last ones of the first unit
    for unit, result in zip(TWO, written, strict=True):
        assert run_unit(collect, unit, replace(alone, units=(unit,))).counts["samples"] == result.counts["samples"] > 5
        product = f"{unit.key}.jsonl"
        assert (ctx.output / product).read_bytes() == (alone.output / product).read_bytes()
    assert len(prompts_seen(run_folder)) == 2 * sum(result.counts["calls"] for result in written)  # none asked twice
    told = sum(result.counts["told_tokens"] for result in written)
    assert told in (0, sum(result.counts["prompt_tokens"] for result in written))


def test_a_fault_of_the_next_unit_waits_until_it_is_its_turn(run_folder, monkeypatch):
    write_script(run_folder, monkeypatch)
    ctx = two_units(run_folder, "cot", 8)
    (run_folder / "shards/test/both/00001.h5").write_bytes(b"no shard")
    with collect.prepare(ctx) as shared:
        result = collect.run(TWO[0], shared, ctx)
        assert result is not None and result.counts["samples"] > 5 and not result.counts["failed"]
        with pytest.raises(UserError, match=r"00001\.h5"):
            collect.run(TWO[1], shared, ctx)


def test_a_passing_fault_of_the_next_unit_is_forgotten(run_folder, monkeypatch):
    write_script(run_folder, monkeypatch)
    ctx, opened = two_units(run_folder, "cot", 8), collection.UnitTraces.__init__
    faults = [OSError(errno.ESTALE, "Stale file handle")]

    def stale(self, unit, *about):
        if unit == TWO[1] and faults:
            raise faults.pop()
        opened(self, unit, *about)

    monkeypatch.setattr(collection.UnitTraces, "__init__", stale)
    with collect.prepare(ctx) as shared:
        assert all(collect.run(unit, shared, ctx) for unit in TWO) and not faults


@pytest.mark.parametrize("seen", [True, False])
def test_a_stop_keeps_what_was_in_flight_for_the_next_unit(run_folder, monkeypatch, seen):
    write_script(run_folder, monkeypatch, delay_s=0.02)
    ctx = two_units(run_folder, "cot", 8)
    with collect.prepare(ctx) as shared:
        assert collect.run(TWO[0], shared, ctx) is not None
        before = ctx.records(TWO[1]).ids
        ctx.stop.set()  # as between two units
        assert seen or collect.run(TWO[1], shared, ctx) is None  # it comes after the worker has looked
    after = ctx.records(TWO[1]).ids
    assert before < after and len(after) <= len(before) + SERVER["in_flight"]


def test_killed_at_any_moment_the_unit_resumes_without_loss_or_duplicates(run_folder, monkeypatch):
    script = write_script(run_folder, monkeypatch, delay_s=0.05)
    code = (
        "import sys; from pathlib import Path; from tests.integration.cot import test_stages as t\n"
        "from diagcot.serving.server import process; import diagcot.cot.search.collect as c\n"
        "start = process.Process.start.__func__\n"
        "process.Process.start = classmethod(lambda cls, *a, **k: start(cls, *(*a[:6], t.COMMAND), **k))\n"
        "t.run_unit(c, t.UNIT, t.collect_ctx(Path(sys.argv[1])))"
    )
    partial = run_folder / "logs/test/cot/partial"
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(run_folder)], env=os.environ | {"DIAGCOT_FAKE_SCRIPT": str(script)}
    )
    deadline = time.monotonic() + 60
    while sum(len(p.read_text().splitlines()) for p in partial.glob("*.jsonl")) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    torn = sorted(partial.glob("*.jsonl"))[0]
    torn.write_bytes(torn.read_bytes()[:-5])  # as if the kill had come in the middle of a line
    write_script(run_folder, monkeypatch)
    ctx = collect_ctx(run_folder)
    result = run_unit(collect, UNIT, ctx)
    found = [row["id"] for row in rows(ctx.output / "00000.jsonl")]
    expected = select_samples(
        Shard(run_folder / "shards/test/shard/00000.h5"), run_folder / "shards", CollectSettings()
    )
    assert sorted(found) == sorted(s.id for s in expected) and result.counts["samples"] == len(expected)


def test_the_primer_writes_every_conversation_as_the_search_asks_it(run_folder):
    weights = dict.fromkeys([*conversations.CONVERSATIONS, "report", "grounding", "closed", "open"], 1.0)
    ctx = stage(run_folder, "synthetic", {"tasks": weights}, shards="shard")
    result = run_unit(synthetic_sft, UNIT, ctx)
    samples = list(read_samples(ctx.output / "00000.jsonl"))
    assert set(result.counts) - {"needed"} == set(weights) and not nothing_of(result.counts)
    shard = Shard(run_folder / "shards/test/shard/00000.h5")
    train = {s.study for s in report_samples(shard, "test/shard/00000.h5", "train")}
    assert {s.study for s in samples} <= train
    assert len({(s.id, s.task) for s in samples}) == len(samples)
    limits, known = schemas.Limits(), set()
    layouts = {
        "init": schemas.thinking(limits, ("findings", "impression")),
        "label": schemas.continued(limits),
        "rethink": schemas.thinking(limits, ("findings", "impression"), check_first=True),
        "final": schemas.final(limits, ("findings",)),
        "verify_true": schemas.verdict(limits),
        "verify_false": schemas.verdict(limits),
        "judge_yes": judge.schema(200),
        "judge_no": judge.schema(200),
    }
    for sample in samples:
        assert sample.prompt.count("<image>") == len(sample.images) <= (2 if sample.task == "closed" else 1)
        if sample.task in layouts:
            answer = json.loads(sample.answer)
            assert sample.messages[0] == ("system", DEFAULT.render("system")) and len(sample.messages) == 3
            assert list(answer) == list(layouts[sample.task]["properties"])  # the order that the constraint imposes
            assert sample.answer == json.dumps(answer, ensure_ascii=False, separators=(",", ":"))
    for sample in samples:
        if sample.task.startswith("verify"):
            assert json.loads(sample.answer)["verdict"] is (sample.task == "verify_true")
            reference, shown = (line.split(": ", 1)[1] for line in sample.prompt.splitlines()[:2])
            assert (reference == shown) is (sample.task == "verify_true")
    for sample in samples:
        if sample.task in ("closed", "open"):
            assert sample.prompt.startswith("<image>") and sample.prompt.endswith("Answer in JSON.")
            answer, told = json.loads(sample.answer), "The correct answer is" in sample.prompt
            letters = [name for name in answer if name != "summary"]
            schema = (
                schemas.closed_question(limits, letters) if sample.task == "closed" else schemas.open_question(limits)
            )
            assert list(answer) == list(schema["properties"])
            known.add((sample.task, told))
    assert known == {(task, told) for task in ("closed", "open") for told in (True, False)}


def test_weights_of_the_primer_are_averages(run_folder):
    counts = {}
    for weight in (0.0, 0.5, 2.0):
        ctx = stage(run_folder, f"synthetic{weight}", {"tasks": {"report": weight}}, shards="shard")
        counts[weight] = run_unit(synthetic_sft, UNIT, ctx).counts.get("report", 0)
    films = len(list(report_samples(Shard(run_folder / "shards/test/shard/00000.h5"), "x", "train")))
    assert counts[0.0] == 0 and counts[2.0] == 2 * films and 0.2 * films < counts[0.5] < 0.8 * films
    ctx = stage(
        run_folder, "p", {"tasks": {"drawing": 1.0, "report": 0.0}}, shards="shard"
    )  # its shards have no drawings
    assert nothing_of(run_unit(synthetic_sft, UNIT, ctx).counts) == ["conversations of task drawing"]


def test_drawings_become_conversations_with_their_boxes(tmp_path: Path) -> None:
    from diagcot.data.drawings import build as drawings
    from diagcot.shards import build

    run_unit(drawings, Unit("tree"), stage(tmp_path, "drawings", {"images": 30, "size": 56}))
    source = {"kind": "diagcot/data/drawings/drawings.yaml", "input": "drawings"}
    run_unit(build, UNIT, stage(tmp_path, "shard", {"sources": [source], "image_size": 56}, drawings="drawings"))
    settings = {"tasks": {"drawing": 1.0, "drawing_boxes": 1.0}}
    run_unit(synthetic_sft, UNIT, stage(tmp_path, "conversations", settings, shards="shard"))
    samples = list(read_samples(tmp_path / "shards" / "test" / "conversations" / "00000.jsonl"))
    described = [sample for sample in samples if sample.task == "drawing"]
    assert len(described) == 30 and all(sample.answer.startswith("There is ") for sample in described)
    boxed = [sample for sample in samples if sample.task == "drawing_boxes"]
    assert 15 < len(boxed) < 30 and all("<box>(" in sample.answer for sample in boxed)
