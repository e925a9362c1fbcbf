"""The benchmark of the collection, at a small size: it measures, and every way asks the same."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from bench.cot import capacity, ours, released
from bench.cot.canned import Canned
from bench.figures import Figures
from diagcot.cot.search.collection import Servers

SLOTS = 4


def test_the_scripted_part_measures_the_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"SLOTS": SLOTS, "LATENCY_S": 0.02, "SAMPLES": 18, "WARM": 5, "SIZE": 56, "IMAGES": 4, "RELEASED_S": 0.5}
    for name, value in small.items():
        monkeypatch.setattr(capacity, name, value)
    monkeypatch.setattr(capacity, "SETTINGS", capacity.SETTINGS | {"max_num_seqs": SLOTS})
    asked: list[Canned] = []
    run = ours.run

    def kept(keys: Sequence[str], servers: Servers, ctx: ours.Context, canned: Canned) -> ours.Run:
        asked.append(canned)
        return run(keys, servers, ctx, canned)

    monkeypatch.setattr(ours, "run", kept)
    figures = Figures("cot")
    capacity.measure(tmp_path, figures)
    rows = figures.rows
    assert (rows["fake_samples"]["goal"], rows["fake_requests"]["goal"]) == (44, 0.98)
    assert rows["fake_requests"]["baseline"] == SLOTS / 0.02 and rows["fake_samples"]["value"] > 0
    assert 0 < rows["fake_requests"]["ratio"] < 1.1 and rows["client_cpu"]["value"] > 0

    (requests,) = (canned.asked for canned in asked if canned.keep)
    for request in (request for sample in requests.values() for request in sample):
        messages = released.body(request)["messages"]
        *texts, image = messages[-1]["content"]
        said = [(row["role"], row["content"]) for row in messages[:-1]]
        said.append((messages[-1]["role"], "".join(part["text"] for part in texts)))
        assert said == [(role, text.replace("<image>", "")) for role, text in request.messages]
        assert image["type"] == "image_url" and said[0][0] == "system"
