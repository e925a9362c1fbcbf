"""The table of all benchmarks: what changed since the last run, and what failed."""

import json
from pathlib import Path
from typing import Any

import pytest

import bench.__main__ as benchmarks
from bench.figures import Figures


def result(commit: str, value: float, baseline: float) -> dict[str, Any]:
    figures = Figures("rewards")
    figures.add("ready", value, "s", baseline, goal=3)
    figures.add("rate", 1234.5, "1/s", goal=2000, least=True)
    row = json.loads(figures.line())
    return {"commit": commit, "date": "d", "cores": 2, "load": [1.0, 2.0], "seconds": 9, "figures": row["figures"]}


def test_a_change_of_a_tenth_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarks, "ROOT", tmp_path)
    monkeypatch.setattr(benchmarks, "LOGS", tmp_path)
    monkeypatch.setattr(benchmarks, "STORED", tmp_path / "stored.json")
    monkeypatch.setattr(benchmarks, "TABLE", tmp_path / "table.md")
    results = iter([result("aaa", 2.0, 4.0), result("bbb", 2.6, 4.0), None])
    monkeypatch.setattr(benchmarks, "_run", lambda part: next(results))
    assert benchmarks.main(["--parts", "rewards"]) == 0
    assert "| ready | 2 s | 4 | 0.5 | 3 | met |  |" in (tmp_path / "table.md").read_text()
    assert benchmarks.main(["--parts", "rewards"]) == 0
    page = (tmp_path / "table.md").read_text()
    assert "| ready | 2.6 s | 4 | 0.65 | 3 | met | **+30%** since aaa |" in page
    assert "| rate | 1,234 1/s |  |  | 2,000 | **missed** | +0% since aaa |" in page
    assert benchmarks.main(["--parts", "rewards"]) == 1  # a failed part keeps its rows
    assert (tmp_path / "table.md").read_text() == page


def test_an_unknown_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        benchmarks.main(["--parts", "rewards speed"])
    assert "there is no benchmark speed" in capsys.readouterr().err
