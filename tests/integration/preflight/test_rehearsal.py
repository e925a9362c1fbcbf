"""Rehearsals that run: ranks that do not meet, and a whole rehearsal on this machine."""

import json
import time
from pathlib import Path

import pytest

from diagcot.jobs import testing
from diagcot.preflight.rehearsal import collective, command
from diagcot.preflight.rehearsal.stage import RehearsedStage
from launchers.chain import open_chain


def test_ranks_that_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "0")
    told = RehearsedStage(output=tmp_path, workspace=tmp_path, probe="p", nodes=2, ranks=2)
    began = time.monotonic()
    (found,) = collective.check(told, testing.context(tmp_path, world_size=2, nodes=2), 1)
    assert (
        found.level == "bad"
        and "2 ranks did not connect within 1 s" in found.text
        and "rank 1 of 2 did not come" in found.text
        and "NCCL_SOCKET_IFNAME" in found.remedy
    )
    assert time.monotonic() - began < 30


def test_a_rehearsal_without_slurm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sources = {"sources": [{"kind": "mimic_cxr", "input": "phantoms"}], "shards": 1}
    stages = [
        {"name": "phantoms", "kind": "phantoms", "stage": 0, "settings": {"studies": 20, "size": 64}},
        {"name": "model", "kind": "model", "stage": 1, "settings": {"pretrained": str(tmp_path / "qwen")}},
        {"name": "shard", "kind": "shard", "stage": 0, "inputs": {"phantoms": "phantoms"}, "settings": sources},
    ]
    (tmp_path / "few.yaml").write_text(json.dumps({"name": "few", "stages": stages}))
    roots = {name: str(tmp_path / "roots" / name) for name in ("logs", "shards", "models")}
    here = {"name": "here", "executor": "local", "roots": roots, "resource_profiles": {"cpu": {"tasks_per_node": 2}}}
    (tmp_path / "here.yaml").write_text(json.dumps(here))
    made = open_chain(str(tmp_path / "few.yaml"), str(tmp_path / "here.yaml"), "real")
    assert command.main(made) == 1
    said = capsys.readouterr().out
    result = json.loads((tmp_path / "roots" / "logs" / "rehearsals" / "real.rehearsal1" / "findings.json").read_text())
    wrong = [row for row in result["rows"] if row["level"] == "bad"]
    assert [(row["stage"], row["subject"]) for row in wrong] == [("model", "model")]  # told once, by the node
    assert str(tmp_path / "qwen") in wrong[0]["text"]
    assert {row["stage"] for row in result["rows"] if row["subject"] == "imports"} == {"phantoms", "model", "shard"}
    assert any(row["text"] == "2 on 1 node" for row in result["rows"])
    assert "rehearsed 3 of 3 stages" in said and "1 problem to fix" in said
    assert sorted(path.name for path in (tmp_path / "roots").rglob("*") if "real" in path.name) == ["real.rehearsal1"]
