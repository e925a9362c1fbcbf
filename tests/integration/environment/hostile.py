"""Hostile values for every variable that the installed packages read.

`names.txt` holds the names: those that the sources of vLLM, Ray, torch, transformers, DeepSpeed, huggingface_hub, accelerate
and peft look up in the environment, those of pip and uv, and those of Python, Java, OpenMP, BLAS and the C library.
"""

from pathlib import Path

from diagcot.jobs.environment import variables

NAMES = tuple(Path(__file__).with_name("names.txt").read_text().split())
SHAPED = {
    "RAY_ADDRESS": "10.0.0.9:6379", "JAVA_TOOL_OPTIONS": "-XX:+UseParallelGC", "_JAVA_OPTIONS": "-Xmx1m",
    "JDK_JAVA_OPTIONS": "-Dfile.encoding=UTF-16", "OMP_NUM_THREADS": "64", "VLLM_USE_MODELSCOPE": "true", "WORLD_SIZE": "4",
    "RANK": "3", "MASTER_ADDR": "10.0.0.9", "MASTER_PORT": "1", "HF_HUB_OFFLINE": "0", "http_proxy": "http://10.0.0.9:1",
    "https_proxy": "http://10.0.0.9:1", "all_proxy": "http://10.0.0.9:1", "PYTHONHASHSEED": "7", "PYTHONOPTIMIZE": "2",
    "VLLM_ATTENTION_BACKEND": "NONE", "TORCH_LOGS": "+all", "LC_ALL": "tr_TR.ISO-8859-9", "LD_PRELOAD": "",
}  # fmt: skip
"""Values that a program would accept, where `hostile` would only be refused."""
PASSING = frozenset(
    (
        *("CPATH", "CUDA_DEVICE_ORDER", "CUDA_HOME", "CUDA_PATH", "CUDA_VISIBLE_DEVICES", "HOME", "LD_LIBRARY_PATH"),
        *("LIBRARY_PATH", "NCCL_SOCKET_IFNAME", "NO_COLOR", "PATH", "SHELL", "TMPDIR", "USER", "XDG_CACHE_HOME"),
        *("FI_EFA_FORK_SAFE", "FI_EFA_USE_DEVICE_RDMA", "FI_PROVIDER", "UCX_MEMTYPE_CACHE"),
        *("UCX_RCACHE_MAX_UNRELEASED", "ZE_AFFINITY_MASK"),
        *("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "VLLM_RPC_BASE_PATH"),  # a task sets them to its own place
    )
)
"""The names that pass: where the user, the tools, the devices and the network are."""


def environment() -> dict[str, str]:
    """A value for each name that does not pass."""
    return {name: SHAPED.get(name, "hostile") for name in NAMES if name not in PASSING and name != variables.MORE}
