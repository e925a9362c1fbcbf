"""The environment variables of everything that a run starts: tasks, ranks, model servers, Ray, Java, pip and uv.

A shell and a site export variables for other purposes, and many libraries read some: a key, a cluster's address, an option
of a JVM. So what passes is a list, what decides results is set, and everything else is dropped. A cluster file passes more
by name (`pass_environment`, `environment`, `export` in a line of `setup`), and a setting whose name ends in `_env` passes
the variable that it names.

Only the standard library is imported: the installer reads this module too.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

PASSED = (
    # the user, folders and tools
    *("HOME", "USER", "LOGNAME", "SHELL", "PATH", "TMPDIR", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR", "TZ"),
    # the private place of the run (diagcot.jobs.execution.place)
    *("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "VLLM_RPC_BASE_PATH"),
    # the terminal
    *("TERM", "COLORTERM", "NO_COLOR", "COLUMNS", "LINES"),
    # compilers and libraries of the site
    *("LD_LIBRARY_PATH", "CC", "CXX", "CPATH", "LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH"),
    # which devices and networks there are
    *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUDA_MPS_*", "NVIDIA_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"),
    *("NCCL_SOCKET_*", "NCCL_IB_*", "NCCL_NET*", "NCCL_DEBUG*", "GLOO_SOCKET_IFNAME", "TP_SOCKET_IFNAME"),
    *("UCX_*", "FI_*"),
    # the job and its tasks
    *("SLURM_*", "SLURMD_*", "SUBMITIT_*", "DIAGCOT_*"),
)
"""Names and patterns of the variables that pass. None of them changes what is computed."""

INSTALLERS = (
    *("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_TRUSTED_HOST", "PIP_CERT", "PIP_CONFIG_FILE"),
    *("PIP_CACHE_DIR", "PIP_PROXY", "PIP_TIMEOUT", "PIP_DEFAULT_TIMEOUT", "PIP_RETRIES", "PIP_CLIENT_CERT"),
    *("UV_INDEX", "UV_INDEX_URL", "UV_DEFAULT_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_INSECURE_HOST"),
    *("UV_INDEX_*_USERNAME", "UV_INDEX_*_PASSWORD", "UV_CACHE_DIR", "UV_HTTP_TIMEOUT", "UV_NATIVE_TLS"),
    *("XDG_CONFIG_HOME", "XDG_CONFIG_DIRS"),  # where their configuration files are
    *("UV_LINK_MODE", "UV_CONCURRENT_*", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "NETRC"),
    *("http_proxy", "https_proxy", "no_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"),
)
"""What pip and uv may read besides: where packages come from and how they are fetched, not what is installed or where."""

SET: dict[str, str] = {
    "LC_ALL": "C.UTF-8",
    "PYTHONUTF8": "1",
    "PYTHONSAFEPATH": "1",
    "PYTHONNOUSERSITE": "1",
    # nothing is downloaded or reported by a run
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Variables that decide what is read and computed, the same in every process."""

OWN_CODE: dict[str, str] = {"PYTHONPATH": str(Path(__file__).resolve().parents[3])}
"""For a Python process that imports this project: the code of the process that starts it."""

DROPPED = "variables that are not used"  # a line of logs that begins so names them

MORE = "DIAGCOT_PASS"
"""Names and patterns that pass besides, for the processes below this one."""

CLUSTERS = ("SLURM_CLUSTERS", "SBATCH_CLUSTERS")
"""Variables that name the cluster that Slurm's commands speak to, where a login node serves several."""

_selected: set[str] = set()  # the cluster that this process has selected

_OF_A_JOB = ("SLURM_", "SLURMD_", "SRUN_", "SBATCH_", "SALLOC_", "SQUEUE_", "SINFO_", "SACCT_", "SCANCEL_", "SUBMITIT_")
_VARIABLE = re.compile(r"\$\{?([A-Za-z_]\w*)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_IMPOSSIBLE = re.compile("[\0\ud800-\udfff]")
_EXPORT = re.compile(r"\bexport\s+([A-Za-z_]\w*)=")


def fault(environment: Mapping[str, str]) -> str:
    """What in names and values of variables no process can be given; empty if all can. Values are not shown."""
    for name, value in environment.items():
        if not _NAME.fullmatch(name):
            return f"environment: {name!r} cannot name a variable: use letters, digits and _, the first no digit"
        if _IMPOSSIBLE.search(value):
            return f"environment.{name}: the value holds a character that no variable can hold"
    return ""


def child(*more: str, **values: str) -> dict[str, str]:
    """The environment of a program that we start.

    more: names and patterns that pass besides, there and in whatever it starts. values: set last.
    """
    named_ones = dict.fromkeys([*os.environ.get(MORE, "").split(), *more])
    passed = {name: value for name, value in os.environ.items() if _passes(name, named_ones)}
    return passed | SET | ({MORE: " ".join(named_ones)} if named_ones else {}) | values


def enter(more: Iterable[str] = ()) -> list[str]:
    """Give this process, at its start, the environment of a run. Returns the names that were dropped, sorted."""
    kept = child(*more, **{name: os.environ[name] for name in OWN_CODE if name in os.environ})
    dropped = sorted(set(os.environ) - set(kept))
    for name in dropped:
        del os.environ[name]
    os.environ.update(kept)
    return dropped


def outside_job(environment: Mapping[str, str]) -> dict[str, str]:
    """Without the variables of the job that this process may run in, which would shape a query or another job.

    A shell's defaults for sbatch go with them (`ignored_defaults` names these). What says which Slurm is meant stays.
    """
    kept = {k: v for k, v in environment.items() if not k.startswith(_OF_A_JOB) or k in ("SLURM_CONF", CLUSTERS[0])}
    if kept.get(CLUSTERS[0]) == environment.get("SLURM_CLUSTER_NAME"):  # a job of that very cluster
        kept.pop(CLUSTERS[0], None)
    return kept


def ignored_defaults(environment: Mapping[str, str]) -> list[str]:
    """Names of the variables by which a shell gives sbatch defaults, and which `outside_job` drops."""
    return sorted(name for name in environment if name.startswith("SBATCH_") and name not in CLUSTERS)


def select_cluster(name: str | None) -> None:
    """Let Slurm's commands speak to the cluster of this name; None: to the one of their slurm.conf."""
    for variable in CLUSTERS:
        os.environ.pop(variable, None)
    _selected.clear()
    if name:
        os.environ[CLUSTERS[0]] = name
        _selected.add(name)


def clusters_of_shell() -> dict[str, str]:
    """The variables by which the user's shell, and not `select_cluster`, names a cluster."""
    named = {variable: os.environ.get(variable, "") for variable in CLUSTERS}
    return {variable: name for variable, name in named.items() if name and name not in _selected}


def named(cluster: Mapping[str, Any], settings: Iterable[Any] = ()) -> list[str]:
    """The names that a cluster file (its content) and settings of stages pass."""
    exported = [name for line in cluster.get("setup", ()) for name in _EXPORT.findall(line)]
    from_settings = [name for value in settings for name in _names_in(value)]
    places = _VARIABLE.findall(cluster.get("scratch") or "")
    names = [*cluster.get("pass_environment", ()), *cluster.get("environment", {}), *exported, *places, *from_settings]
    return list(dict.fromkeys(names))


def sentence(dropped: Iterable[str]) -> str:
    """One line for a log; empty if nothing was dropped. Names only: a value may be a password."""
    names = " ".join(dropped)
    return f"{DROPPED} (`pass_environment` of the cluster file passes more): {names}" if names else ""


def _passes(name: str, more: Iterable[str]) -> bool:
    if name.startswith("PYTHON") or name in ("LD_PRELOAD", "LD_AUDIT"):  # they change every program; never passed
        return False
    return any(fnmatchcase(name, pattern) for pattern in (*PASSED, *more))


def _names_in(value: Any) -> Iterator[str]:
    """Values of the settings whose names end in `_env`, at any depth."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if str(key).endswith("_env") and isinstance(item, str):
                yield item
            else:
                yield from _names_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _names_in(item)


def filled_in(path: Path) -> Path:
    """A path with a leading `~` and variables of the environment filled in. Raises ValueError for one that is not set."""
    filled = os.path.expandvars(path)
    if "$" in filled:
        raise ValueError(f"{path}: a variable in it is not set; set it, or write the folder itself")
    try:
        return Path(filled).expanduser()
    except RuntimeError:
        raise ValueError(f"{path}: there is no such home folder; write the folder itself") from None
