"""What runs in the server's own process: vLLM's OpenAI server, which ends with its owner and starts fast on CPU.

`python -m diagcot.serving.server.entrypoint MODEL_DIR --uds SOCKET ...` takes the arguments of `vllm serve`.
"""

import os
import sys
import threading

from diagcot.jobs.environment import code
from diagcot.serving.server.owner import OWNER, follow_owner


def _fork_engine_core() -> None:
    """Let vLLM fork its engine core process on CPU, where it would start a new interpreter and import everything again.

    vLLM's `CpuPlatform.check_and_update_config` (vllm/platforms/cpu.py) sets the method to spawn. Fork is safe here because
    the parent runs no parallel region, after which a child would wait for threads that it does not have: it keeps to one
    thread, and the child takes all of them. No device is open. It halves the time until the server is ready (docs/serving.md).
    """
    from vllm.platforms.cpu import CpuPlatform

    update = CpuPlatform.check_and_update_config.__func__

    def check_and_update_config(cls, vllm_config):  # type: ignore[no-untyped-def]
        update(cls, vllm_config)
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"

    CpuPlatform.check_and_update_config = classmethod(check_and_update_config)


def _keep_to_one_thread() -> None:
    """Give this process one OpenMP thread, before any library reads how many, and those that it forks all that were asked for.

    On CPU alone, where `command.py` names their number: elsewhere nothing is forked.
    """
    threads = os.environ.get("OMP_NUM_THREADS")
    if threads is None or "VLLM_CPU_OMP_THREADS_BIND" not in os.environ:
        return
    os.environ["OMP_NUM_THREADS"] = "1"

    def take_all() -> None:
        import torch

        os.environ["OMP_NUM_THREADS"] = threads
        torch.set_num_threads(int(threads))

    os.register_at_fork(after_in_child=take_all)


def main() -> None:
    """Run the server until it is ended. Follows the steps of `vllm serve` (vllm/entrypoints/cli/serve.py)."""
    code.require_own()
    owner = os.environ.get(OWNER)
    if owner:
        threading.Thread(target=follow_owner, args=(owner,), daemon=True).start()
    _keep_to_one_thread()
    import uvloop
    from vllm.entrypoints.launchers.api_server.entry import run_server
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
    from vllm.platforms import current_platform
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    cli_env_setup()
    if current_platform.is_cpu():
        _fork_engine_core()
    parser = make_arg_parser(FlexibleArgumentParser())
    args = parser.parse_args(sys.argv[1:])
    if args.model_tag:
        args.model = args.model_tag
    validate_parsed_serve_args(args)
    if args.headless:  # another node's part of a server that spans several nodes
        from vllm.entrypoints.cli.serve import run_headless

        args.api_server_count = 0
        run_headless(args)
        return
    uvloop.run(run_server(args))


if __name__ == "__main__":
    main()
