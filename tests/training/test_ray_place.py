"""Ray in the private place of a run: its actors' variables, its sockets, and its logs after a failure."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chains import ROOT

pytestmark = pytest.mark.heavy

# A process of its own, since Ray's core reads the variables of its cluster when it is loaded, once.
DRIVER = """
import json, os, sys
from pathlib import Path
from diagcot.jobs import testing
from diagcot.jobs.execution import place
from diagcot.jobs.state import failures
from diagcot.training.distributed import ray_cluster

ctx = testing.context(Path(sys.argv[1]))
found = {}

def variables():
    return dict(os.environ)

def fails():
    raise ValueError("the first cause")

with place.opened() as own:
    try:
        with ray_cluster.start_head(ctx, 100):
            import ray
            found["actor"] = ray.get(ray.remote(num_cpus=0)(variables).remote())
            found["sockets"] = [path.name for path in own.rglob("*") if path.is_socket()]
            ray.get(ray.remote(num_cpus=0)(fails).remote())
    except Exception as error:
        found["cause"] = repr(failures.first_cause(error))
    found["driver"] = dict(os.environ)
    found["place"] = str(own)
found["kept"] = [path.name for path in ctx.workspace.glob("ray.*/*")]
Path(sys.argv[2]).write_text(json.dumps(found))
"""


def test_ray_lives_in_the_place_and_leaves_the_cause(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    command = [sys.executable, "-c", DRIVER, str(tmp_path / "work"), str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    assert {*found["sockets"]} >= {"raylet", "plasma_store"}
    for name in ("PATH", "HOME", "TMPDIR", "TORCHINDUCTOR_CACHE_DIR", "DIAGCOT_PLACE"):
        assert found["actor"].get(name) == found["driver"][name], name
    assert found["driver"]["DIAGCOT_PLACE"] == found["place"] and not os.path.lexists(found["place"])
    assert found["cause"] == "ValueError('the first cause')"
    assert "raylet.out" in found["kept"]  # with what Ray's processes said
