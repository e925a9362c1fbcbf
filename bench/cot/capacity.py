"""Against a scripted server that answers in 200 ms and has 256 slots: what the client costs, and nothing else."""

import os
import time
from pathlib import Path

from bench.cot import ours, released, shards
from bench.cot.canned import Canned
from bench.cot.fake import COMMAND, scripted, used_s
from bench.figures import Figures

LATENCY_S, SLOTS = 0.2, 256
SAMPLES, WARM = 3000, 300
UNITS = 6  # of the task, with equally many samples
SIZE, IMAGES = 512, 200  # different images; the others repeat them
RELEASED_S = 15
SETTINGS = {"max_num_seqs": SLOTS, "images": 1, "shutdown_timeout_s": 1}
GOAL_RELEASED, GOAL_CAPACITY = 44, 0.98


def measure(folder: Path, figures: Figures) -> None:
    """Measure, and add the figures."""
    keys = [f"unit{number}" for number in range(UNITS)]
    for seed, (key, count) in enumerate({"warm": WARM, **dict.fromkeys(keys, SAMPLES // UNITS)}.items()):
        shards.write(folder / "shards" / "bench" / f"{key}.h5", count, SIZE, seed, distinct=IMAGES)
    with scripted(folder, delay_s=LATENCY_S, slots=SLOTS):
        with ours.opened(_context(folder, "server"), COMMAND) as (servers, server):
            asked = Canned(send=False, keep=True)
            ours.run(["warm"], servers, _context(folder, "asked"), asked)
            ours.run(["warm"], servers, _context(folder, "warm"), Canned())
            began = time.monotonic()
            done = released.collect(server.process.socket, list(asked.asked.values()), folder / "released", RELEASED_S)
            theirs = done.calls / (time.monotonic() - began)

            canned = Canned()
            canned.watch(2 * SLOTS, SAMPLES)  # all slots are taken by then, until the last one is begun
            pids = os.getpid(), server.process.pid
            before = [used_s(pid) for pid in pids]
            mine = ours.run(keys, servers, _context(folder, "ours"), canned)
            client, fake = (used_s(pid) - start for pid, start in zip(pids, before, strict=True))
            one_by_one = sum(
                ours.run([key], servers, _context(folder, f"only-{key}"), Canned()).seconds for key in keys
            )
    capacity, each = SLOTS / LATENCY_S, mine.calls / mine.samples
    print(
        f"scripted server, {LATENCY_S} s, {SLOTS} slots: {SAMPLES} samples in {UNITS} units, {mine.calls} calls,"
        f" images of {SIZE} pixels;"
        f" ours {mine.seconds:.1f} s in all ({one_by_one:.1f} s one unit after the other),"
        f" {canned.steady:.0f} calls/s from sample {2 * SLOTS} to the last one's beginning,"
        f" {mine.calls / mine.seconds:.0f} with ramp-up and tail;"
        f" {client / mine.calls * 1e3:.2f} ms of processor a call, the server {fake / mine.calls * 1e3:.2f} ms;"
        f" the released way {theirs:.1f} calls/s over {RELEASED_S} s",
        flush=True,
    )
    figures.add(
        "fake_samples",
        SAMPLES / mine.seconds * 3600,
        "samples/hour",
        theirs / each * 3600,
        GOAL_RELEASED,
        least=True,
        of="ratio",
    )
    figures.add("fake_requests", canned.steady, "requests/s", capacity, GOAL_CAPACITY, least=True, of="ratio")
    figures.add("fake_units", one_by_one / mine.seconds, "times as fast as one unit after the other")
    figures.add("client_cpu", client / mine.calls * 1e3, "ms a call")
    figures.add("fake_server_cpu", fake / mine.calls * 1e3, "ms a call")


def _context(folder: Path, name: str) -> ours.Context:
    return ours.settings(folder, name, SETTINGS)
