"""Judge, verifier and teacher that really write English, on a real vLLM: SmolLM2-135M-Instruct, which `make model-small` obtains.

What so small a model writes is long, off the subject and seldom in the requested form. Each reply is read, or told why not,
and none is lost from the counts.
"""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from diagcot.cot.filtration import filter as filtration
from diagcot.cot.filtration.judge import CRITERIA
from diagcot.cot.search import collect
from diagcot.cot.search.collection import Collection, Servers
from diagcot.cot.synthetic import conversations
from diagcot.data.phantom import build as phantoms
from diagcot.evaluation import judge
from diagcot.evaluation.settings import JudgeSettings
from diagcot.jobs import Unit
from diagcot.jobs.testing import context, run_unit
from diagcot.serving import Reply, Request, Server, serve
from diagcot.serving.client.client import Client
from diagcot.shards import Shard, build
from diagcot.tasks.diagnosis import report_samples
from diagcot.training import small_model as small
from diagcot.training.config.reward_settings import RewardModelsSettings, RewardSettings
from diagcot.training.reward_models.scorers import Pair, ServedScorer
from diagcot.training.reward_models.weighted import weighted
from tests.serving.conftest import SETTINGS
from tests.unit.cot.cot_traces import trace
from tests.unit.evaluation.evaluated_run import write_predictions, write_shard

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(
        not (small.PLACE / small.IMAGES).is_dir(), reason="SmolLM2-135M is not in data/models: run `make model-small`"
    ),
]
UNIT = Unit("00000")
TEXT_ONLY = SETTINGS.model_copy(update={"images": 0, "max_num_seqs": 8, "cpu_threads": 2})


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The language model, which takes no images."""
    with serve(small.PLACE / small.TEXT, TEXT_ONLY, context(tmp_path_factory.mktemp("text"))) as running:
        yield running


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one shard of phantoms, and the traces that a search would have left of its reports."""
    root = tmp_path_factory.mktemp("language")
    run_unit(phantoms, Unit("tree"), context(root, {"studies": 16, "size": 112, "views": ["PA"]}, stage="phantoms"))
    settings = {"sources": [{"kind": "mimic_cxr", "input": "phantoms"}], "shards": 1, "image_size": 112}
    inputs = {"phantoms": [str(root / "shards/test/phantoms")]}
    run_unit(build, UNIT, context(root, settings, stage="shard", inputs=inputs))
    shard, rows = Shard(root / "shards/test/shard/00000.h5"), []
    for sample in list(report_samples(shard, "test/shard/00000.h5", "train"))[:6]:
        study = shard.study(shard.study_of(sample.images[0].row))
        images = [{"shard": image.shard, "row": image.row} for image in sample.images]
        texts = dict.fromkeys(("reference", "guide", "answer", "conclusion"), sample.answer)
        reasoning = conversations.Reading.of(study.findings, study.impression).reasoning
        about = {"id": sample.id, "study": sample.study, "images": images, "meta": sample.meta}
        rows.append(trace(**about, **texts, reasoning=reasoning))
    (root / "shards/test/cot").mkdir()
    (root / "shards/test/cot/00000.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Request, Reply]]:
    """Requests and replies of the test."""
    found: list[tuple[Request, Reply]] = []
    chat = Client.chat

    async def listening(self: Client, request: Request) -> Reply:
        reply = await chat(self, request)
        found.append((request, reply))
        return reply

    monkeypatch.setattr(Client, "chat", listening)
    return found


def is_language(text: str) -> bool:
    """Whether a text is a few English words in a row."""
    return bool(re.search(r"\b(the|is|of|and|in)\b", text)) and len(re.findall(r"[a-z]{2,}", text)) >= 6


def filtered(server: Server, root: Path, name: str, **settings: Any) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """Counts and verdicts of a stage `filter` whose judge is this server."""
    about = {"rules": False, "image": False, "server": server.settings.model_dump(mode="json"), **settings}
    ctx = context(root, about, stage=name, inputs={"traces": [str(root / "shards/test/cot")]})
    result = filtration.run(UNIT, server, ctx)
    assert result is not None
    table = next(path for final, path in result.outputs.items() if final.parent.name == "verdicts")
    return result.counts, [json.loads(line) for line in table.read_text().splitlines()]


def test_the_judge_of_traces_writes_prose_or_its_form_and_all_of_it_is_counted(
    language: Server, run_folder: Path, heard: list[tuple[Request, Reply]]
) -> None:
    counts, rows = filtered(language, run_folder, "word", verdict="word", repeats=3, max_tokens=48)
    texts = [text for _, reply in heard for text in reply.texts]
    # No grammar holds it: beside the two words that it was asked for, it says yes, no, or whole sentences.
    assert len(texts) == 18 and any(map(is_language, texts)) and len({text.lower() for text in texts}) > 2
    judgements = [one for row in rows for one in row["judgements"]]
    assert len(judgements) == 18 and counts["traces"] == len(rows) == 6 and counts["votes"] == 18
    unread = {"the reply is neither true nor false"}
    assert {one["error"] for one in judgements} == {None, *unread}
    assert sum(one["error"] is None for one in judgements) == sum(
        bool(re.search(r"\b(true|false)\b", text, re.IGNORECASE)) for text in texts
    )
    assert counts["kept"] + sum(n for name, n in counts.items() if name.startswith("dropped_")) == 6

    heard.clear()
    counts, rows = filtered(language, run_folder, "scored", max_tokens=400, reason_chars=60)
    scored = [row for row in rows if row["error"] is None]
    assert scored and any(is_language(" ".join(row["judgements"][0]["reasons"].values())) for row in scored)
    assert all(row["judgements"][0]["scores"].keys() == set(CRITERIA) for row in scored)
    cut, _ = filtered(language, run_folder, "cut", max_tokens=24, reason_chars=60)
    assert cut["dropped_unreadable"] == 6 and cut["kept"] == 0


def test_replies_out_of_form_are_told_apart_and_retried(
    language: Server, run_folder: Path, heard: list[tuple[Request, Reply]], tmp_path: Path
) -> None:
    """The whole search without a grammar: the teacher sees images, the verifier takes none. Every trace ends with its cause."""
    settings: dict[str, Any] = {
        "samples_per_shard": 5,
        "search": {
            "constrained": False,
            "attempts": 1,
            "depth": 1,
            "parse_retries": 1,
            "max_tokens": 96,
            "verdict_tokens": 48,
            "reply": {"steps": 2, "step_chars": 60, "section_chars": 60},
        },
        "server": SETTINGS.model_dump(mode="json"),
    }
    inputs = {"shards": [str(run_folder / "shards/test/shard")]}
    ctx = context(run_folder, settings, stage="search", inputs=inputs)
    with_images = SETTINGS.model_copy(update={"max_num_seqs": 8, "cpu_threads": 2})
    with serve(small.PLACE / small.IMAGES, with_images, context(tmp_path)) as teacher:
        result = collect.run(UNIT, Collection(Servers(teacher, language), ctx), ctx)
        free = [text for _, reply in heard for text in reply.texts]
        assert result is not None and sum(map(is_language, free)) >= len(free) // 2
        heard.clear()
        settings["search"] |= {"constrained": True, "max_tokens": 200}
        ctx = context(run_folder, settings, stage="constrained", inputs=inputs)
        held = collect.run(UNIT, Collection(Servers(teacher, language), ctx), ctx)
    assert held is not None and all(reply.error is None for _, reply in heard)
    for found in (result, held):
        rows = [json.loads(line) for line in next(iter(found.outputs.values())).read_text().splitlines()]
        assert len(rows) == 5 == sum(found.counts.get(name, 0) for name in ("verified", "forced", "failed"))
        assert all(row["error"] or row["answer"] for row in rows)
        assert not any("HTTP" in (row["error"] or "") for row in rows)
        causes = [row["error"].partition(":")[2] for row in rows if row["error"]]
        known = ("cut off at", "the reply cannot be used", "cut at")
        assert all(any(cause.strip().startswith(one) for one in known) for cause in causes), causes
    asked = [request for request, _ in heard if "verdict" in json.dumps(request.schema)]
    assert asked and all(not request.images and "<image>" not in str(request.messages) for request in asked)


def test_the_judge_of_answers_is_read_in_both_orders(
    language: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = tmp_path / "shards"
    shard = write_shard(shards / "test" / "shard" / "00000.h5", 6, size=56)
    answers = shards / "test" / "evaluate"
    write_predictions(answers, shard, shards, limit=6, questions=("open",))
    settings = JudgeSettings(tasks=["open"], server=language.settings).model_dump(mode="json")
    ctx = context(tmp_path, settings, stage="judge", inputs={"predictions": [str(answers)], "model": ["the server's"]})
    with ExitStack() as stack:
        shared = judge.Judge(ctx, stack)
        monkeypatch.setattr(shared, "server", lambda: language)
        result = judge.run(Unit("base.open.00000"), shared, ctx)
    assert result is not None
    assert (result.counts["judged"], result.counts["failed"], result.counts["unreadable"]) == (6, 0, 0)
    # The same without the grammar: prose, of which no verdict is made.
    asked = [Request(str(n), (("user", f"Is there an effusion in study {n}?"),), max_tokens=40) for n in range(4)]
    prose = [reply for _, reply in language.complete(asked)]
    assert all(is_language(reply.text) for reply in prose) and [judge.same(reply) for reply in prose] == [None] * 4


def test_the_judge_pays_as_a_component_of_a_reward(language: Server, tmp_path: Path) -> None:
    pairs = [
        Pair("findings : there is a left effusion .", "findings : there is a small left effusion ."),
        Pair("findings : the lungs are clear .", "findings : there is a small left effusion ."),
        Pair("Effusions are common and I am happy to help you with them!", "findings : the lungs are clear ."),
    ]

    def ask(requests: Any) -> list[Reply]:
        replies = dict(language.complete(requests))
        return [replies[request.id] for request in requests]

    models = RewardModelsSettings.model_validate({"judge": {"max_tokens": 160, "server": {"images": 0}}})
    scores = ServedScorer("judge", models, ask).score(pairs)
    assert len(scores) == 3 and all(score is None or 0 <= score <= 1 for score in scores)
    assert sum(score is not None for score in scores) >= 2
    reward = RewardSettings.model_validate({"components": {"plain": 0.5, "judge": 0.5}})
    paid = weighted([{"overall": 1.0}] * 3, {"judge": scores}, reward.weights)
    assert sum(row["unread"] for row in paid) == scores.count(None)
    cut = models.model_copy(update={"judge": models.judge.model_copy(update={"max_tokens": 16})})
    assert ServedScorer("judge", cut, ask).score(pairs) == [None] * 3  # cut off: told as unread, not as 0
