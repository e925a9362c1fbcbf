"""Row 16 in Ray: the actors of GRPO run the code of their run, whatever lies in the folder of submission and in the shell."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from diagcot.jobs.environment import code
from tests import chains
from tests.integration.environment import hostile

pytestmark = pytest.mark.heavy

DRIVER = """
import sys
from pathlib import Path
from diagcot.jobs.environment import variables
variables.enter()
from diagcot.jobs.testing import context
from diagcot.serving import ServerSettings
from diagcot.training.config.reward_settings import RewardModelsSettings
from diagcot.training.distributed import ray_cluster
from diagcot.training.reward_models.worker import RewardWorker
from diagcot.training.rl.actors import ScoringServer, context_fields

root = Path(sys.argv[1])
ctx = context(root)
asked = lambda self: (sys.modules["diagcot"].__file__, sorted(__import__("os").environ))
Worker = type("Worker", (RewardWorker,), {"asked": asked})
Server = type("Server", (ScoringServer,), {"asked": asked})
with ray_cluster.start_head(ctx, 80):
    import ray
    worker = ray.remote(Worker).options(num_cpus=0).remote({}, {}, RewardModelsSettings(), {})
    server = ray.remote(Server).options(num_cpus=0).remote("judge", root, ServerSettings(), context_fields(ctx), 0, 1)
    for actor in (worker, server):
        file, names = ray.get(actor.asked.remote())
        print("actor", file, [name for name in names if name.startswith(("RAY_ADDRESS", "VLLM", "MASTER", "DIAGCOT_CODE"))])
print("place", Path.cwd())
"""


@pytest.mark.row(
    16,
    promise="Ray's actors import the run's code and drop the shell's variables, as every process of a run does",
    injected="a checkout that cannot be imported any more as the working directory; hostile variables for Ray and Python",
    daemons="real",
)
def test_row_16_actors_of_grpo_run_the_code_of_their_run(tmp_path: Path) -> None:
    roots = [chains.ROOT / name for name in ("diagcot", "launchers", "prompts")]
    snapshot = tmp_path / code.FOLDER / code.digest(roots)
    code.snapshot(roots, snapshot)
    checkout = tmp_path / "checkout"
    shutil.copytree(snapshot / "diagcot", checkout / "diagcot")
    (checkout / "diagcot" / "__init__.py").write_text("raise RuntimeError('edited after submission')\n")
    # The driver starts as a task does: Python's own variables are gone before it, the others it drops itself.
    env = os.environ | hostile.environment()
    env = {name: value for name, value in env.items() if not name.startswith("PYTHON")}
    env |= {"PYTHONPATH": str(snapshot), "PYTHONSAFEPATH": "1", code.VARIABLE: str(snapshot)}
    command = [sys.executable, "-c", DRIVER, str(tmp_path / "work")]
    done = subprocess.run(command, cwd=checkout, env=env, capture_output=True, text=True, timeout=400, check=False)
    own = f"actor {snapshot / 'diagcot' / '__init__.py'} ['DIAGCOT_CODE']"
    assert done.stdout.splitlines() == [own, own, f"place {checkout}"], done.stdout + done.stderr
