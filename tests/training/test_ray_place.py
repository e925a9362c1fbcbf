"""Ray in the private place of a run: its actors' variables, its sockets, and its logs after a failure."""

import os
from pathlib import Path

import pytest

from diagcot.jobs import testing
from diagcot.jobs.execution import place
from diagcot.jobs.state import failures
from diagcot.training.distributed import ray_cluster

pytestmark = pytest.mark.heavy


def test_ray_lives_in_the_place_and_leaves_the_cause(tmp_path: Path) -> None:
    ctx = testing.context(tmp_path)
    seen: dict[str, str] = {}
    with place.opened() as own:
        with pytest.raises(Exception) as raised, ray_cluster.start_head(ctx, 100):
            import ray

            def variables() -> dict[str, str]:
                return dict(os.environ)

            def fails() -> None:
                raise ValueError("the first cause")

            seen |= ray.get(ray.remote(num_cpus=0)(variables).remote())
            sockets = [path for path in own.rglob("*") if path.is_socket()]
            assert {path.name for path in sockets} >= {"raylet", "plasma_store"}
            ray.get(ray.remote(num_cpus=0)(fails).remote())
        wanted = ("PATH", "HOME", "TMPDIR", "TORCHINDUCTOR_CACHE_DIR", place.VARIABLE)
        assert {name: seen.get(name) for name in wanted} == {name: os.environ[name] for name in wanted}
    assert not own.exists()
    cause = failures.first_cause(raised.value)
    assert (type(cause), str(cause)) == (ValueError, "the first cause")
    assert list(ctx.workspace.glob("ray.*/raylet.out"))  # kept, with what Ray's processes said
