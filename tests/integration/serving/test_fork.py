"""A process that vLLM forks on CPU computes with all its threads, whatever the one before it has computed."""

import os
import signal
import subprocess
import sys

from tests.chains import ROOT

CHILD = """
import os
from diagcot.serving.server import entrypoint
entrypoint._keep_to_one_thread()  # without it the child waits for ever
import torch
numbers = torch.ones(2000, 2000)
numbers @ numbers
if os.fork() == 0:
    product = numbers @ numbers
    print(torch.get_num_threads(), os.environ["OMP_NUM_THREADS"], product[0, 0].item(), flush=True)
    os._exit(0)
os.wait()
"""


def test_a_forked_process_has_all_threads_and_waits_for_none() -> None:
    variables = os.environ | {"OMP_NUM_THREADS": "2", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD],
        cwd=ROOT,
        env=variables,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        said = child.communicate(timeout=60)[0]
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        raise
    assert said == "2 2 2000.0\n"
