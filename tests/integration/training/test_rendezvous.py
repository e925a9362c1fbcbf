"""Ranks meet those of their own execution, whoever else comes to the port."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from diagcot.jobs.testing import context
from diagcot.training.distributed.rendezvous import connect_store
from tests.conftest import free_ports


def start(contexts: list[Any], deadline_s: float) -> dict[str, dist.Store | RuntimeError]:
    """Let each context's rank meet, in a thread of its own: what each got, by attempt and rank."""
    got: dict[str, dist.Store | RuntimeError] = {}

    def meet(ctx: Any) -> None:
        try:
            got[f"{ctx.attempt} rank {ctx.rank}"] = connect_store(ctx, deadline_s)
        except RuntimeError as error:
            got[f"{ctx.attempt} rank {ctx.rank}"] = error

    threads = [threading.Thread(target=meet, args=(ctx,)) for ctx in contexts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return got


def test_ranks_of_another_execution_at_the_same_port_are_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_ports(1)))
    first = [context(tmp_path, rank=rank, world_size=2, attempt="5-0") for rank in range(2)]
    stray = context(tmp_path, rank=1, world_size=2, attempt="6-0")
    alone = start([first[0], stray], deadline_s=2)
    messages = {name: str(error) for name, error in alone.items()}
    assert "rank 1 of 2 did not come" in messages["5-0 rank 0"] and "rank 0 of 2" in messages["6-0 rank 1"], messages
    monkeypatch.setenv("MASTER_PORT", str(free_ports(1)))
    met = start([*first, stray], deadline_s=3)
    assert isinstance(met.pop("6-0 rank 1"), RuntimeError)
    one, other = met.values()
    assert not isinstance(one, RuntimeError) and not isinstance(other, RuntimeError)
    one.set("key", "value")
    assert other.get("key") == b"value"
