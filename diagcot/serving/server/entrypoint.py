"""What runs in the server's own process: vLLM's OpenAI server, which ends with its owner and starts fast on CPU.

`python -m diagcot.serving.server.entrypoint MODEL_DIR --uds SOCKET ...` takes the arguments of `vllm serve`.
"""

import os
import sys
import threading
from typing import Any

from diagcot.jobs.environment import code
from diagcot.serving.server.owner import OWNER, follow_owner


def _adapt_to_cpu() -> None:
    """Let vLLM fork its engine core process on CPU, where it would start a new interpreter and import everything again, and have
    room for the images of all its sequences.

    vLLM's `CpuPlatform.check_and_update_config` (vllm/platforms/cpu.py) sets the method to spawn. Fork is safe here because
    the parent runs no parallel region, after which a child would wait for threads that it does not have: it keeps to one
    thread, and the child takes all of them. No device is open. It halves the time until the server is ready (docs/serving.md).
    """
    from vllm.platforms.cpu import CpuPlatform

    update = CpuPlatform.check_and_update_config.__func__

    def check_and_update_config(cls, vllm_config):  # type: ignore[no-untyped-def]
        update(cls, vllm_config)
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"
        make_room_for_images(vllm_config.scheduler_config, vllm_config.model_config.max_model_len)

    CpuPlatform.check_and_update_config = classmethod(check_and_update_config)


def make_room_for_images(scheduler: Any, max_model_len: int) -> None:
    """Let the visual tokens of all sequences that vLLM's `SchedulerConfig` allows be computed in one step.

    Where its room for them is used up, vLLM computes a prompt up to its image and the rest in a later step, even where chunked
    prefill is disabled. Then it rewinds the random state of a seeded request, which a CPU generator cannot do: the server
    would die. The room is host memory that only images take.
    """
    tokens = scheduler.max_num_seqs * max_model_len
    scheduler.max_num_encoder_input_tokens = max(scheduler.max_num_encoder_input_tokens, tokens)
    scheduler.encoder_cache_size = max(scheduler.encoder_cache_size, tokens)


def keep_images() -> None:
    """Let vLLM's workers keep the pixels of an image whose tokens are in the prefix cache when its request comes.

    vLLM drops them (`strip_covered_mm_data`, vllm/multimodal/utils.py of 0.32), as if they were never needed. Where the request
    is computed again later, after new weights or since the memory for keys and values is used up, the image is encoded again
    without pixels, which ends the engine and all requests with it.
    """
    from vllm.v1.core.sched import output

    output.strip_covered_mm_data = lambda mm_features, *_, **__: mm_features


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
    keep_images()
    if current_platform.is_cpu():
        _adapt_to_cpu()
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


if __name__ == "__mp_main__":  # the engine's process, where it is started anew (`spawn`) and not forked
    keep_images()
if __name__ == "__main__":
    main()
