"""The same samples on the same real vLLM: ours compared with the released way, with what the engine alone needs for the same
requests, and with vLLM's own load generator."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import httpx

from bench.cot import model, ours, released
from bench.cot import shards as phantoms
from bench.cot.canned import Canned
from bench.figures import Figures
from diagcot.cot.search.collection import Servers
from diagcot.serving import Request, Server
from diagcot.serving.server.command import arguments, environment
from diagcot.serving.server.replica import Replica

SIZE = 756  # of the images: 729 tokens, about as many as in the method
UNITS = ("one", "two")  # of a task
SAMPLES, WARM = 240, 5  # of both units
TOKENS, VERDICT_TOKENS = 96, 24  # less than a real teacher says: what is decoded is where many in flight gain most
SETTINGS = {"max_model_len": model.LONGEST, "images": 1, "startup_timeout_s": 300}
ROUNDS = ("released", "ours", "released")
RELEASED_S = 20  # of each of its rounds
PROMPTS = 64  # for vLLM's load generator and for ours, all different
GENERATOR = ("ours", "vllm", "ours")
GOAL_RELEASED, GOAL_ENGINE, GOAL_HITS, GOAL_GENERATOR = 2.5, 0.95, 0.99, 0.95


def measure(folder: Path, figures: Figures) -> None:
    """Measure, and add the figures."""
    shards = folder / "shards" / "bench"
    counts = {"warm": WARM, "prompts": PROMPTS} | dict.fromkeys(UNITS, SAMPLES // len(UNITS))
    for seed, (key, count) in enumerate(counts.items()):
        phantoms.write(shards / f"{key}.h5", count, SIZE, seed)
    model.build(folder / "model", SIZE)
    began = time.monotonic()
    with ours.opened(context(folder, "server")) as (servers, server):
        print(f"vLLM ready after {time.monotonic() - began:.0f} s", flush=True)
        ours.run(["warm"], servers, context(folder, "warm"), Canned())
        seconds = _search(folder, figures, servers, server)
        (replica,) = server.replicas
        assert isinstance(replica, Replica)
        _engine(folder, figures, replica, seconds)  # the server is idle meanwhile
        _generator(folder, figures, servers, server)


def context(folder: Path, name: str) -> ours.Context:
    """The context of a stage with the settings of this benchmark."""
    return ours.settings(folder, name, SETTINGS, TOKENS, VERDICT_TOKENS)


def asked(folder: Path, servers: Servers, keys: Sequence[str], name: str) -> list[list[Request]]:
    """What our search asks about each sample of some shards; nothing is sent."""
    canned = Canned(send=False, keep=True)
    ours.run(keys, servers, context(folder, name), canned)
    return list(canned.asked.values())


def _search(folder: Path, figures: Figures, servers: Servers, server: Server) -> float:
    """Ours takes all samples through their searches, and its ramp-up and tail count. The released way, whose five threads
    are busy from the first second to the last, goes as far as it comes in RELEASED_S; then its rate is known. Returns the
    seconds of ours."""
    samples = asked(folder, servers, UNITS, "asked")
    requests = [request for sample in samples for request in sample]
    with (folder / "requests.jsonl").open("wb") as out:
        out.writelines(replace(request, schema=None).encode() + b"\n" for request in requests)
    calls, each, took = len(requests), len(requests) / SAMPLES, 0.0
    print(
        f"{SAMPLES} phantom images of {SIZE} pixels in {len(UNITS)} units of a task, {calls} calls, {TOKENS} tokens a reply"
        f" and {VERDICT_TOKENS} a verdict, both ways the same words; no JSON constraint; caches emptied before each run"
    )
    print(
        f"{'':<10} {'seconds':>8} {'calls':>6} {'calls/s':>8} {'samples/h':>10} {'tokens a prompt':>16} {'from the cache':>15}"
    )
    rates: dict[str, list[float]] = {way: [] for way in ROUNDS}
    hits: dict[str, list[float]] = {way: [] for way in ROUNDS}
    around: set[float] = set()  # tokens of a prompt beside those of its words, whose vocabulary is bytes
    for number, way in enumerate(ROUNDS):
        empty(server)
        before, began = server.metrics(), time.monotonic()
        if way == "ours":
            answered = ours.run(UNITS, servers, context(folder, f"ours-{number}"), Canned()).calls
            done = released.Done(requests)
            assert answered == calls, (answered, calls)
        else:
            done = released.collect(server.process.socket, samples, folder / f"released-{number}", RELEASED_S)
        seconds, after = time.monotonic() - began, server.metrics()
        queries, found, said, successes, images, known = (
            after[f"vllm:{name}_total"] - before[f"vllm:{name}_total"]
            for name in (
                "prefix_cache_queries",
                "prefix_cache_hits",
                "generation_tokens",
                "request_success",
                "mm_cache_queries",
                "mm_cache_hits",
            )
        )
        # The work is the same: no prompt lacks a word, and no reply ended before its limit.
        assert (successes, said) == (done.calls, done.tokens), (way, successes, said, done.calls, done.tokens)
        around.add((queries - done.bytes) / done.calls)
        rates[way].append(done.calls / each / seconds * 3600)
        hits[way].append(found / queries)
        print(
            f"{way:<10} {seconds:>8.1f} {done.calls:>6} {done.calls / seconds:>8.2f} {rates[way][-1]:>10.0f}"
            f" {queries / done.calls:>16.0f} {found / queries:>14.1%}",
            flush=True,
        )
        if way == "ours":
            took = seconds
            figures.add("vllm_images_processed", images - known, "images", SAMPLES, 1, of="ratio")
    assert len(around) == 1, around
    mine, theirs = (statistics.mean(rates[way]) for way in ("ours", "released"))
    figures.add("vllm_samples", mine, "samples/hour", theirs, GOAL_RELEASED, least=True, of="ratio")
    mine, theirs = (statistics.mean(hits[way]) for way in ("ours", "released"))
    figures.add("vllm_prefix_cache_hits", mine, "of prompt tokens", theirs)
    return took


def _engine(folder: Path, figures: Figures, replica: Replica, seconds: float) -> None:
    """What the engine alone needs for the requests of the search, see `bench.cot.engine`. seconds: of ours."""
    settings, placement = replica.settings, replica.placement
    env = environment(settings, placement, "") | {"PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, "-m", "bench.cot.engine", str(folder / "model"), str(folder / "requests.jsonl")]
    command += arguments(settings, placement)
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=400, env=env)
    if done.returncode:
        raise RuntimeError(f"the engine alone: {done.stderr[-2000:]}")
    row = json.loads(done.stdout.splitlines()[-1])
    possible = row["prefix_cache_hits"] / row["prefix_cache_queries"]
    print(
        f"the engine alone: {row['seconds']:.1f} s for the same {row['requests']} requests, {possible:.1%} from the cache;"
        f" ours {seconds:.1f} s",
        flush=True,
    )
    figures.add("vllm_engine", row["seconds"] / seconds, "of the engine's speed", goal=GOAL_ENGINE, least=True)
    hits = figures.rows["vllm_prefix_cache_hits"]["value"]
    figures.add("vllm_prefix_cache_used", hits / possible, "of the possible hits", goal=GOAL_HITS, least=True)


def _generator(folder: Path, figures: Figures, servers: Servers, server: Server) -> None:
    """Requests per second for the first prompt of each of some samples."""
    requests = [sample[0] for sample in asked(folder, servers, ["prompts"], "prompts")]
    rates: dict[str, list[float]] = {way: [] for way in GENERATOR}
    for number, way in enumerate(GENERATOR):
        empty(server)
        if way == "ours":
            # The generator knows no system message.
            plain = [Request(r.id, r.messages[-1:], r.images, max_tokens=TOKENS) for r in requests]
            began = time.monotonic()
            replies = dict(server.complete(plain))
            rates[way].append(len(replies) / (time.monotonic() - began))
            assert all(reply.completion_tokens == TOKENS for reply in replies.values())
        else:
            rates[way].append(_vllm_bench(folder / f"generator-{number}", server, requests))
        print(f"{way:<5} {rates[way][-1]:.2f} requests/s", flush=True)
    mine, theirs = (statistics.mean(rates[way]) for way in ("ours", "vllm"))
    figures.add("vllm_requests", mine, "requests/s", theirs, GOAL_GENERATOR, least=True, of="ratio")


def _vllm_bench(folder: Path, server: Server, requests: list[Request]) -> float:
    """Requests per second as `vllm bench serve` counts them, as many at once as ours may be."""
    folder.mkdir()
    with (folder / "prompts.jsonl").open("w") as out:
        for request in requests:
            out.write(json.dumps({"content": released.parts(request, image_first=True)}) + "\n")
    options = {
        "--backend": "openai-chat",
        "--base-url": "http://server",
        "--endpoint": "/v1/chat/completions",
        "--model": "model",
        "--tokenizer": folder.parent / "model",
        "--dataset-name": "custom_image",
        "--dataset-path": folder / "prompts.jsonl",
        "--custom-output-len": TOKENS,
        "--num-prompts": len(requests),
        "--max-concurrency": server.settings.window,
        "--ready-check-timeout-sec": 0,
        "--result-dir": folder,
        "--result-filename": "result.json",
    }
    words = [str(word) for pair in options.items() for word in pair]
    flags = ["--disable-tqdm", "--save-result", "--ignore-eos"]
    command = [sys.executable, "-m", "bench.cot.generator", str(server.process.socket), *words, *flags]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=400, env=os.environ | {"HF_HUB_OFFLINE": "1"}
    )
    if done.returncode:
        raise RuntimeError(f"vllm bench serve: {done.stderr[-2000:]}")
    row = json.loads((folder / "result.json").read_text())
    assert row["completed"] == len(requests), row
    assert row["total_output_tokens"] == TOKENS * len(requests), row
    return float(row["request_throughput"])


def empty(server: Server) -> None:
    """Drop the server's caches of prefixes, processed images and encoded images."""
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(server.process.socket)), base_url="http://server") as http:
        for cache in ("prefix", "mm", "encoder"):
            http.post(f"/reset_{cache}_cache").raise_for_status()
