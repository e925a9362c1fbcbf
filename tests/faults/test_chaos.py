"""Everything at once: at the end every record exactly once, and the bytes of a quiet run. `make soak` does it for an hour."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import DevCluster
from tests.faults import chaos, soak

pytestmark = [pytest.mark.slurm, pytest.mark.heavy]
SEED = "20"


@pytest.mark.skipif(os.getuid() != 0, reason="nodes with networks of their own need root")
@pytest.mark.timeout(600)
def test_a_chain_survives_chaos_and_a_person(devcluster_with: Callable[..., DevCluster], shared_path: Path) -> None:
    cluster = devcluster_with(**soak.SETTINGS)
    row = soak.play(cluster, shared_path, "chaos", SEED, len(chaos.FAULTS), 6, 0)
    print("\n".join(row.get("told", ())))
    assert row["violation"] is None, row["violation"]
    assert row["units"] >= 200 and sum(row["faults"].values()) == len(chaos.FAULTS)
    assert sum(row["actions"].values()) >= 6
