"""A real vLLM: films, constraints, log-probabilities, exchange of weights, death, warm."""

import asyncio
import io
import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from diagcot.cot.filtration import judge
from diagcot.cot.search import schemas
from diagcot.evaluation.predict import first_tokens
from diagcot.jobs.testing import context
from diagcot.serving import Reply, Request, Server, ServingStats, serve
from diagcot.serving.server import warm, weights
from diagcot.serving.server.process import connect
from tests.serving.conftest import SETTINGS

pytestmark = pytest.mark.heavy
LONG = "look long " * 12  # the words after an image fill blocks of the prefix cache to its end


def film(shade: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (112, 112), (shade, shade, shade)).save(out, "JPEG")
    return out.getvalue()


def one(server: Server, **request: object) -> Reply:
    asked = Request(**({"id": "x", "messages": (("user", "look"),), "max_tokens": 4, "logprobs": 2} | request))  # type: ignore[arg-type]
    ((_, reply),) = server.complete([asked])
    assert reply.error is None, reply.error
    return reply


def test_a_film_takes_part_in_the_answer(server):
    plain = one(server)
    dark, light = (one(server, messages=(("user", "<image>look"),), images=(film(shade),)) for shade in (10, 240))
    assert dark.prompt_tokens == plain.prompt_tokens + 18  # 16 of 112 px, and the two marks around them
    assert dark.logprobs != light.logprobs
    both, other = (
        one(server, messages=(("user", "<image><image>look"),), images=(film(10), film(shade))) for shade in (10, 240)
    )
    assert both.prompt_tokens == plain.prompt_tokens + 36 and both.logprobs != other.logprobs


def test_many_at_once_each_get_their_own_reply(server):
    requests = [
        Request(str(n), (("user", f"<image>{n}"),), (film(n),), max_tokens=6, return_token_ids=True) for n in range(40)
    ]
    replies = dict(server.complete(iter(requests)))
    assert set(replies) == {str(n) for n in range(40)} and not [r.error for r in replies.values() if r.error]
    for reply in replies.values():
        assert reply.token_ids is not None and len(reply.token_ids[0]) == reply.completion_tokens <= 6
        assert reply.prompt_token_ids is not None and len(reply.prompt_token_ids) == reply.prompt_tokens


def test_several_replies_are_seeded(server):
    first, again = (one(server, n=3, temperature=1.0, seed=5).texts for _ in range(2))
    assert first == again and len(first) == 3 and len(set(first)) > 1


def test_choices_are_scored_by_their_first_token(server):
    reply = one(server, choice=["yes", "no"], logprobs=5, max_tokens=8)
    assert reply.text in ("yes", "no") and reply.finish_reasons == ["stop"]
    assert {"y", "n"} <= set(reply.top_logprobs[0])


@pytest.mark.parametrize(
    "schema",
    [
        schemas.thinking(schemas.Limits(3, 30, 60)),
        schemas.thinking(schemas.Limits(3, 30, 60), check_first=True),
        schemas.verdict(schemas.Limits()),
        schemas.final(schemas.Limits(3, 30, 60)),
        judge.schema(30),
    ],
    ids=["thinking", "again", "verdict", "final", "judge"],
)
def test_schemas_hold_even_for_random_weights_without_white_space(server, schema):
    reply = one(server, schema=schema, max_tokens=900, temperature=1.0, seed=3, logprobs=None)
    assert reply.finish_reasons == ["stop"]
    value = json.loads(reply.text, strict=False)  # the constraint lets control characters into strings
    assert list(value) == list(schema["properties"])
    assert reply.text.startswith("{" + json.dumps(next(iter(value))) + ":")
    assert not reply.text.startswith("{" + json.dumps(next(iter(value))) + ": ")  # the layout that the primer teaches


def test_scored_tokens_have_the_probability_that_the_free_model_gives_them(server, models):
    """What the evaluation's label probabilities stand on, also for tokens that are far from the best."""
    yes, no = first_tokens(models["a"])
    free = one(server, max_tokens=1, logprobs=5, return_token_ids=True)
    best = free.token_ids[0][0]
    reply = one(server, max_tokens=1, logprobs=None, scored_tokens=(best, yes, no))
    assert reply.first_token_logprob(best) == pytest.approx(free.logprobs[0][0], abs=1e-3)
    assert max(reply.first_token_logprob(yes), reply.first_token_logprob(no)) <= reply.first_token_logprob(best) < 0
    shown = one(
        server,
        max_tokens=1,
        logprobs=None,
        scored_tokens=(yes,),
        messages=(("user", "<image>look"),),
        images=(film(9),),
    )
    assert shown.first_token_logprob(yes) not in (0.0, reply.first_token_logprob(yes))


def test_banned_tokens_are_not_sampled(server):
    allowed = one(server, temperature=1.0, seed=1, max_tokens=20, return_token_ids=True)
    banned = {token: -100.0 for token in allowed.token_ids[0]}
    reply = one(server, temperature=1.0, seed=1, max_tokens=20, return_token_ids=True, logit_bias=banned)
    assert not set(reply.token_ids[0]) & set(banned)


def test_what_cannot_be_served_is_an_error_of_that_request_only(server):
    long = Request("long", (("user", "x" * 6000),), max_tokens=4)
    broken = Request("broken", (("user", "<image>"),), (b"no jpeg",), max_tokens=4)
    replies = dict(server.complete([long, broken, Request("fine", (("user", "x"),), max_tokens=4)]))
    assert "4096" in (replies["long"].error or "") and "HTTP 4" in (replies["broken"].error or "")
    assert replies["fine"].error is None


def test_the_client_is_asynchronous(server):
    async def both() -> list[Reply]:
        async with server.client() as client:
            return await asyncio.gather(*(client.chat(Request(n, (("user", n),), max_tokens=3)) for n in "ab"))

    assert [reply.error for reply in asyncio.run(both())] == [None, None]


def test_load_exchanges_all_weights_and_drops_the_caches(server, models):
    asked = {"messages": (("user", "<image>look again"),), "images": (film(77),)}
    before, pids = one(server, **asked), [replica.process.pid for replica in server.replicas]
    server.load(models["b"])
    after = one(server, **asked)
    assert [replica.process.pid for replica in server.replicas] == pids and after.logprobs != before.logprobs
    assert server.load_s < 10
    server.load(models["a"])
    assert one(server, **asked).logprobs == before.logprobs
    assert server.metrics()["vllm:request_success_total"] > 0


def test_an_answer_in_flight_goes_on_with_new_weights(server, models):
    """As rollouts ahead of training: its first tokens are the old model's and its last ones the new one's.

    Its image was in the prefix cache when it came, as that of a later answer to one prompt: it is encoded again all the same.
    """
    config = json.loads((models["a"] / "config.json").read_text())
    banned = (config["text_config"]["eos_token_id"], config["image_token_id"], config["video_token_id"])
    asked: dict[str, Any] = {
        "messages": (("user", f"<image>{LONG}"),), "images": (film(33),), "max_tokens": 200, "logprobs": 0,
        "temperature": 1.0, "seed": 5, "logit_bias": dict.fromkeys(banned, -100.0), "return_token_ids": True,
    }  # fmt: skip
    cached = server.metrics()["vllm:prefix_cache_hits_total"]
    alike = [Request(f"{n}", **asked | {"max_tokens": 1}) for n in range(4)]  # for all replicas
    assert not any(reply.error for _, reply in server.complete(alike))
    before = server.metrics()["vllm:generation_tokens_total"]
    with ThreadPoolExecutor(1) as pool:
        flying = pool.submit(one, server, **asked)
        while server.metrics()["vllm:generation_tokens_total"] < before + 20:
            assert not flying.done()
            time.sleep(0.01)
        for route, load in (("/pause?mode=keep", True), ("/resume", False)):
            for replica in server.replicas:
                with connect(replica.process.socket, 60) as http:
                    http.post(route).raise_for_status()
            if load:
                server.load(models["b"])
        reply = flying.result()
    assert not server.generation and server.metrics()["vllm:prefix_cache_hits_total"] > cached
    server.load(models["a"])
    drawn, told = reply.token_ids[0], reply.logprobs[0]
    assert len(drawn) == len(told) == 200
    old, new = (_logprobs_of(models[name], film(33), drawn) for name in "ab")
    by_old = [abs(value - said) < 0.02 for value, said in zip(old, told, strict=True)]
    by_new = [abs(value - said) < 0.02 for value, said in zip(new, told, strict=True)]
    switch = by_new.index(True)
    while not all(by_new[switch:]):
        switch += 1
    assert 10 < switch < 200 and all(by_old[: switch - 1]) and not all(by_old[switch:])


def _logprobs_of(model: Path, image: bytes, drawn: list[int]) -> list[float]:
    """Log-probabilities that transformers' model gives these tokens after the prompt."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(model)
    parts = [{"type": "image"}, {"type": "text", "text": LONG}]
    text = processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
    inputs = processor(text=[text], images=[Image.open(io.BytesIO(image))], return_tensors="pt")
    prompt, tokens = inputs["input_ids"], torch.tensor([drawn])
    longer = {
        "input_ids": torch.cat([prompt, tokens], 1),
        "attention_mask": torch.ones(1, prompt.shape[1] + len(drawn)),
    }
    longer["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(tokens)], 1)
    with torch.no_grad():
        logits = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32)(**{**inputs, **longer}).logits
    scores = logits[0, prompt.shape[1] - 1 : -1].log_softmax(-1)
    return [float(value) for value in scores.gather(1, tokens[0][:, None])[:, 0]]


def test_two_replicas_share_the_samples_and_one_is_enough(server, models):
    """The last to use the server: one of its replicas ends here."""
    first, second = server.replicas
    asked = {"messages": (("user", "<image>which replica"),), "images": (film(50),)}
    assert len({str(one(server, id=str(n), **asked).logprobs) for n in range(4)}) == 1  # they are the same model
    before = [_answered(replica) for replica in (first, second)]
    requests = [Request(str(n), (("user", f"<image>{n}"),), (film(n),), max_tokens=24) for n in range(120)]
    assert not [reply.error for _, reply in server.complete(requests[:60]) if reply.error]
    halves = [_answered(replica) - was for replica, was in zip((first, second), before, strict=True)]
    assert sum(halves) == 60 and min(halves) >= SETTINGS.window  # however quick one is, the other had its window full
    seen: list[ServingStats] = []
    replies = {}
    for request_id, reply in server.complete(requests, progress=seen.append):
        replies[request_id] = reply
        if len(replies) == 60:
            second.settings = second.settings.model_copy(update={"restarts": 0})  # it does not come back
            os.killpg(second.process.pid, signal.SIGKILL)
    assert len(replies) == 120 and not [reply.error for reply in replies.values() if reply.error]
    assert server.generation == 0
    assert seen[-1].requests == 120 and seen[-1].cache_hit_rate is not None
    assert sum(reply.completion_tokens for reply in replies.values()) == seen[-1].completion_tokens
    long = {"messages": (("user", "x" * 400),)}  # a CPU's blocks of the cache hold 128 tokens
    assert one(server, **long).cached_tokens == 0 and (one(server, **long).cached_tokens or 0) >= 128


def _answered(replica):
    return sum(
        float(line.split()[-1])
        for line in replica.metrics().decode().splitlines()
        if "vllm:request_success_total{" in line
    )


def test_a_server_whose_api_process_alone_got_sigterm_is_replaced(models, tmp_path):
    """vLLM's engine ends then and its API process stays, so requests would wait for their own deadline of 15 minutes."""
    with serve(models["a"], SETTINGS, context(tmp_path)) as server:
        assert server.settings.request_timeout_s >= 900
        requests = [Request(str(n), (("user", f"look at {n}"),), max_tokens=600) for n in range(48)]
        replies, ended = {}, 0.0
        for request_id, reply in server.complete(requests):
            replies[request_id] = reply
            if len(replies) == 4:
                os.kill(server.process.pid, signal.SIGTERM)
                ended = time.monotonic()
        assert server.generation == 1 and len(replies) == 48
        assert not [reply.error for reply in replies.values() if reply.error]
        assert ended and time.monotonic() - ended < 400


def test_tied_embeddings_are_exchanged_in_place_with_the_output_layer(models, tmp_path):
    assert (
        weights.architecture(models["tied"]) != weights.architecture(models["a"]) == weights.architecture(models["b"])
    )
    asked = {"messages": (("user", "<image>look"),), "images": (film(60),), "max_tokens": 8}
    with serve(models["tied"], SETTINGS, context(tmp_path)) as server:
        first, pid = one(server, **asked), server.process.pid
        server.load(models["tied-too"])
        other = one(server, **asked)
        server.load(models["tied"])
        assert one(server, **asked).logprobs == first.logprobs != other.logprobs and server.process.pid == pid
    with serve(models["tied-too"], SETTINGS, context(tmp_path)) as server:  # as one that never held other weights
        assert one(server, **asked).logprobs == other.logprobs


def test_a_warm_server_is_taken_over_and_replaced_when_dead(models, tmp_path, monkeypatch):
    monkeypatch.setenv(warm.FOLDER, str(tmp_path / "s"))
    monkeypatch.setenv(warm.OWNER, str(os.getpid()))
    try:
        with serve(models["a"], SETTINGS, context(tmp_path)) as first:
            pid, reply = first.process.pid, one(first)
        started = time.monotonic()
        with serve(models["b"], SETTINGS, context(tmp_path)) as second:
            assert second.process.pid == pid and one(second).logprobs != reply.logprobs
        assert time.monotonic() - started < 10
        os.killpg(pid, signal.SIGKILL)
        with serve(models["a"], SETTINGS, context(tmp_path)) as third:
            assert third.process.pid != pid and one(third).logprobs == reply.logprobs
            assert Path(third.process.folder).parent == tmp_path / "s"
    finally:
        warm.stop(tmp_path / "s")
