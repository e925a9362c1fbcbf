"""What runs inside the server's own process: vLLM's OpenAI server, ended when its owner is gone, started fast on CPU.

`python -m diagcot.serving.server.engine MODEL_DIR --uds SOCKET ...` takes the arguments of `vllm serve`.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path

OWNER = "DIAGCOT_SERVER_OWNER"
"""Environment variable: `<pid>:<start>` of the process without which the server has no reason to live (see `mark`)."""


def mark(pid: int) -> str:
    """`<pid>:<start time in clock ticks since boot>`: tells a process from a later one of the same number (proc(5))."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return f"{pid}:gone"
    return f"{pid}:{'gone' if fields[0] in 'ZX' else fields[19]}"


def _follow(owner: str, every_s: float = 2.0) -> None:
    pid = int(owner.split(":")[0])
    while mark(pid) == owner:
        time.sleep(every_s)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(20)
    os.killpg(os.getpgid(0), signal.SIGKILL)


def _fork_engine() -> None:
    """Let vLLM fork its engine process on CPU, where it would start a fresh interpreter and import everything again.

    Fork is safe here since the parent has run no parallel region: it has one OpenMP thread, and no device is open.
    It halves the time to a ready server (docs/serving.md).
    """
    from vllm.platforms.cpu import CpuPlatform

    update = CpuPlatform.check_and_update_config.__func__  # type: ignore[attr-defined]

    def check_and_update_config(cls, vllm_config):  # type: ignore[no-untyped-def]
        update(cls, vllm_config)
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"

    CpuPlatform.check_and_update_config = classmethod(check_and_update_config)  # type: ignore[method-assign, assignment]


def main() -> None:
    owner = os.environ.get(OWNER)
    if owner:
        threading.Thread(target=_follow, args=(owner,), daemon=True).start()
    import uvloop
    from vllm.entrypoints.launchers.api_server.entry import run_server
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
    from vllm.platforms import current_platform
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    cli_env_setup()  # type: ignore[no-untyped-call]
    if current_platform.is_cpu():
        _fork_engine()
    parser = make_arg_parser(FlexibleArgumentParser())  # type: ignore[no-untyped-call]
    args = parser.parse_args(sys.argv[1:])
    if args.model_tag:
        args.model = args.model_tag
    validate_parsed_serve_args(args)
    if args.headless:  # another node's part of a server on several nodes
        from vllm.entrypoints.cli.serve import run_headless

        args.api_server_count = 0
        run_headless(args)
        return
    uvloop.run(run_server(args))


if __name__ == "__main__":
    main()
