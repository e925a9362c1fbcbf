"""The judge on a real vLLM: requests, verdicts in both orders, and the agreement that the table tells."""

import json
from contextlib import ExitStack
from pathlib import Path

import pytest

from diagcot.evaluation import aggregate, judge
from diagcot.evaluation.settings import JudgeSettings
from diagcot.jobs import Unit
from diagcot.jobs.testing import context, run_unit
from diagcot.serving import Reply, Request, Server
from diagcot.serving.client.client import Client
from tests.unit.evaluation.evaluated_run import MODELS, write_predictions, write_shard

pytestmark = pytest.mark.heavy
TASKS = ("open", "single")


def test_answers_are_judged_in_either_order_and_the_table_tells_the_agreement(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = tmp_path / "shards"
    shard = write_shard(shards / "test" / "shard" / "00000.h5", 6, size=56)
    answers = shards / "test" / "evaluate"
    write_predictions(answers, shard, shards, limit=6, questions=TASKS)
    for path in [*answers.glob("*.report.*"), *answers.glob("*.grounding.*")]:
        path.unlink()
    inputs = {"predictions": [str(answers)], "model": ["the server's own"]}
    settings = JudgeSettings(tasks=["open", "single"], server=server.settings)
    ctx = context(tmp_path, settings.model_dump(mode="json"), stage="judge", inputs=inputs)
    asked: list[tuple[Request, Reply]] = []
    chat = Client.chat

    async def heard(self: Client, request: Request) -> Reply:
        reply = await chat(self, request)
        asked.append((request, reply))
        return reply

    monkeypatch.setattr(Client, "chat", heard)
    verdicts: list[list[bool]] = []
    with ExitStack() as stack:
        shared = judge.Judge(ctx, stack)
        monkeypatch.setattr(shared, "server", lambda: server)
        for path in sorted(answers.glob("*.jsonl")):
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            result = judge.run(Unit(path.stem), shared, ctx)
            assert result is not None
            ((final, staged),) = result.outputs.items()
            staged.rename(final)
            told = {row["id"]: row for row in map(json.loads, final.read_text().splitlines())}
            assert told.keys() == {row["id"] for row in rows}
            # Each request was accepted and each verdict read, from a model of random weights.
            assert result.counts["failed"] == result.counts["unreadable"] == 0
            assert result.counts["agreed"] == sum(row["same"][0] == row["same"][1] for row in told.values())
            for row in rows:
                mine = [(request, reply) for request, reply in asked if request.id == row["id"]]
                texts = {request.messages[0][1] for request, _ in mine}
                both = (row["answer"], row["reference"])
                assert texts == {
                    judge._ASK.format(question=row["question"], first=f"Answer 1: {a}", second=f"Answer 2: {b}")
                    for a, b in (both, both[::-1])
                }
                said = {request.messages[0][1].index("Answer 1"): json.loads(reply.text) for request, reply in mine}
                assert all(set(verdict) == {"same"} for verdict in said.values())
                verdicts.append(told[row["id"]]["same"])
            asked.clear()
    assert len(verdicts) == len(MODELS) * len(TASKS) * 6
    assert {one for pair in verdicts for one in pair} <= {True, False}
    assert sum(one == two for one, two in verdicts) > 0
    inputs = {"predictions": [str(answers)], "verdicts": [str(ctx.output)]}
    table = context(tmp_path, {"draws": 100, "examples": 0}, stage="table", inputs=inputs, shards_root=shards)
    table.output.parent.mkdir(exist_ok=True, parents=True)
    assert run_unit(aggregate, Unit("metrics.0", {"models": list(MODELS), "starts": {}}), table) is not None
    metrics = json.loads((table.output / "metrics.json").read_text())
    for row in metrics["rows"]:
        for task in TASKS:
            mine = [
                json.loads(line)["same"]
                for line in (ctx.output / f"{row['model']}.{task}.00000.jsonl").read_text().splitlines()
            ]
            scores = row["scores"]
            assert scores[f"{task}_judge_agreement"]["value"] == pytest.approx(
                sum(pair[0] == pair[1] for pair in mine) / len(mine)
            )
            assert scores[f"{task}_judged"]["value"] == pytest.approx(sum(all(pair) for pair in mine) / len(mine))
            assert -1 <= scores[f"{task}_judge_kappa"]["value"] <= 1
