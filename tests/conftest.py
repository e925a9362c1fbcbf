"""Which tests share a worker, and real Slurms for tests: each in its own folder, on its own ports, wiped at the end."""

import atexit
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

TOOL = Path(__file__).parents[1] / "slurm" / "devcluster" / "devcluster.py"
SBIN = f"{os.environ['PATH']}:/usr/sbin:/sbin"
DAEMONS = ("slurmctld", "slurmd", "sbatch", "munged", "slurmdbd", "mariadbd")
# Settings of `extra`: a silent node is declared down within 10 s and its jobs start elsewhere within 25 s, not 55.
QUICK_TO_NOTICE = "SlurmdTimeout=4;MessageTimeout=5"
# Half of what a task of no work costs is looking through /proc for the memory and the processes of all jobs.
THROUGHPUT = "JobAcctGatherType=jobacct_gather/none;ProctrackType=proctrack/pgid"

# Files whose tests take minutes, the longest first: workers begin with them, so that none is left at the end.
LONG = (
    *("faults/test_chaos.py", "e2e/test_chain.py", "slurm/test_scripts.py", "slurm/test_rehearse.py"),
    *("training/test_grpo.py", "slurm/test_devcluster.py", "slurm/test_chain.py", "faults/test_slurm_controller.py"),
)
# Folders of unit tests that load the same library; a worker of pytest-xdist runs all of them. Elsewhere it runs a file.
LOADS = {"training": "torch", "shards": "torch", "evaluation": "METEOR", "metrics": "METEOR", "rewards": "METEOR"}


def pytest_configure() -> None:
    """Processes that tests start obey Ctrl-C, even if this one was started by `nohup` or in the background.

    They also keep the variables by which a worker of pytest-xdist finds its own processes, and those of coverage.
    """
    os.environ["DIAGCOT_PASS"] = "PYTEST_XDIST_WORKER COVERAGE_*"
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # nohup
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    # The index of runs is the tests' own.
    state = tempfile.TemporaryDirectory(prefix="dc-state-")
    atexit.register(state.cleanup)
    os.environ["XDG_STATE_HOME"] = state.name


@pytest.fixture(autouse=True)
def _no_runs_of_earlier_tests() -> None:
    shutil.rmtree(Path(os.environ["XDG_STATE_HOME"]) / "diagcot", ignore_errors=True)


@pytest.fixture(autouse=True)
def _own_environment() -> Iterator[None]:
    """What a test does to the variables of this process, such as running a task in it, ends with the test."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update({name: value for name, value in before.items() if os.environ.get(name) != value})


_HANDLERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT)
_own_handlers: dict[int, Any] = {}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """A task that runs in this process takes its signals; the next test begins without that.

    Else a child that it forks would survive SIGTERM, for whose end `multiprocessing` waits for ever.
    """
    for number in _HANDLERS:
        signal.signal(number, _own_handlers.setdefault(number, signal.getsignal(number)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path, len(LONG)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each worker whole files, or groups of LOADS (marks of xdist_group do nothing in xdist 3.8 under pytest 9.2)."""
    from xdist.scheduler import LoadScopeScheduling

    config.option.loadscopereorder = False  # it puts files of few tests last, and those are the longest

    class Grouped(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.split("::")[0]
            folders = path.split("/")
            return LOADS.get(folders[2], path) if folders[:2] == ["tests", "unit"] else path

    return Grouped(config, log)


@dataclass(frozen=True)
class DevCluster:
    """A cluster in `directory`; Slurm's commands reach the one that SLURM_CONF points at."""

    directory: Path

    @property
    def conf(self) -> Path:
        return self.directory / "etc" / "slurm.conf"

    def __call__(self, *arguments: str, seconds: float = 90) -> str:
        """Run a verb of the tool, such as `cluster("kill-node", "gpu1")`; its output."""
        command = [sys.executable, str(TOOL), "--directory", str(self.directory), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        return done.stdout

    def saved(self, text: str) -> bool:
        """Whether slurmctld's saved jobs contain this text. It writes them every five seconds, and forgets what is
        younger when it is killed; it removes the old file before the new one is in its place.
        """
        try:
            return text.encode() in (self.directory / "ctld" / "job_state").read_bytes()
        except FileNotFoundError:
            return False

    def limit(self, **limits: int | str) -> None:
        """Limit the association of the user who runs the tests (`enforce=True`); -1 lifts: `limit(MaxSubmitJobs=3)`."""
        user = [f"user={getpass.getuser()}", "cluster=dev"]
        self._sacctmgr("modify", "user", "where", *user, "set", *(f"{key}={value}" for key, value in limits.items()))

    def qos(self, name: str, **limits: int | str) -> None:
        """A new QOS that the user may ask for, such as `qos("narrow", MaxJobsPerUser=1, GrpTRES="cpu=2")`."""
        self._sacctmgr("add", "qos", name, *(f"{key}={value}" for key, value in limits.items()))
        self.limit(**{"qos+": name})

    def wckey(self, name: str) -> None:
        """Give the user a wckey, which becomes the default one."""
        self._sacctmgr("add", "user", getpass.getuser(), "cluster=dev", f"wckey={name}")
        self.limit(DefaultWCKey=name)

    def _sacctmgr(self, *words: str) -> None:
        env = {**os.environ, "SLURM_CONF": str(self.conf)}
        done = subprocess.run(["sacctmgr", "-i", *words], capture_output=True, text=True, env=env, timeout=60)
        assert done.returncode == 0, f"sacctmgr {' '.join(words)}: {done.stderr or done.stdout}"


def start(**settings: str | int | bool) -> DevCluster:
    """A new cluster, of settings named as the tool's flags, such as `start(accounting=False, cpu_nodes=300)`."""
    absent = [name for name in DAEMONS if shutil.which(name, path=SBIN) is None]
    if absent:
        pytest.skip(f"no Slurm here ({', '.join(absent)} not installed); .ci/run installs it")
    cluster = DevCluster(Path(tempfile.mkdtemp(prefix="dc-", dir="/tmp")))
    flags = ["--port", str(free_ports(20 + sum(int(settings.get(name, 8)) for name in ("gpu_nodes", "cpu_nodes"))))]
    for name, value in settings.items():
        text = {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
        flags += [f"--{name.replace('_', '-')}", text]
    try:
        cluster("up", *flags)
    except BaseException:
        cluster("wipe")
        raise
    return cluster


@pytest.fixture(scope="session")
def devcluster() -> Iterator[DevCluster]:
    """The standard cluster, one for all tests; SLURM_CONF points at it."""
    cluster = start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(cluster.conf))
        yield cluster
    cluster("wipe")


@pytest.fixture(scope="module")
def _devclusters() -> Iterator[dict[str, DevCluster]]:
    clusters: dict[str, DevCluster] = {}
    yield clusters
    for cluster in clusters.values():
        if cluster.directory.exists():  # else a test has wiped it itself
            cluster("wipe")


@pytest.fixture
def devcluster_with(_devclusters: dict[str, DevCluster], monkeypatch: pytest.MonkeyPatch) -> Callable[..., DevCluster]:
    """A cluster of other settings, which SLURM_CONF points at until the test ends: `devcluster_with(extra="…")`.

    Settings are the tool's flags; without `accounting` or `enforce` there is no slurmdbd, which makes it quick. Tests
    of a module that ask for the same settings share a cluster, and should leave it as they found it.
    """

    def find_or_start(**settings: str | int | bool) -> DevCluster:
        settings.setdefault("accounting", bool(settings.get("enforce")))
        key = repr(sorted(settings.items()))
        if key not in _devclusters:
            _devclusters[key] = start(**settings)
        monkeypatch.setenv("SLURM_CONF", str(_devclusters[key].conf))
        return _devclusters[key]

    return find_or_start


@pytest.fixture
def shared_path(tmp_path: Path) -> Path:
    """A folder that all nodes see."""
    return tmp_path


def free_ports(count: int = 20) -> int:
    """The first of `count` ports, at most 520, that nobody listens on, below those of ranks and those that are ephemeral.

    Each worker looks in a range of its own: some seconds pass before the daemons of another one listen.
    """
    begin = 9000 + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 4 * 1500
    for first in range(begin, begin + 1000, 50):
        if all(_free(port) for port in range(first, first + count)):
            return first
    raise AssertionError("no free ports")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
