"""Settings of the development cluster: given to `up`, kept in its directory for every later verb."""

import dataclasses
import getpass
import json
import os
import socket
import stat
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

ISOLATIONS = ("none", "ns", "net")


@dataclass(frozen=True)
class Settings:
    """The parts of a cluster.

    `port` is the first of a range: slurmctld takes it, slurmdbd +2, MariaDB +3, node k +10+k.
    `isolation`: `none` (plain processes that share the host's name), `ns` (each node in its own uts, pid and mount
    namespaces, with its own host name and address 127.0.x.y) or `net` (also its own network; root only).
    `enforce`: slurmctld holds jobs to the limits that sacctmgr sets for associations and QOS.
    `extra` holds lines of slurm.conf: `Key=value` replaces the cluster's own, `Key+=value` adds to a list.
    """

    directory: str
    port: int = 17800
    isolation: str = "ns"
    accounting: bool = True
    enforce: bool = False
    gpu_nodes: int = 4
    cpu_nodes: int = 2
    gpus: int = 4
    cpus: int = 16
    memory_mb: int = 64000
    cgroup: bool = False
    extra: list[str] = field(default_factory=list)

    @property
    def root(self) -> Path:
        """The directory that holds everything."""
        return Path(self.directory)

    @property
    def conf(self) -> Path:
        """slurm.conf."""
        return self.root / "etc" / "slurm.conf"

    @property
    def munge(self) -> Path:
        """The socket of munged."""
        return self.root / "run" / "munge.socket"

    @property
    def controller(self) -> str:
        """The address of slurmctld."""
        return "10.77.255.254" if self.isolation == "net" else "127.0.0.1"

    @property
    def user(self) -> str:
        """The user who runs the daemons."""
        return getpass.getuser()

    @property
    def host(self) -> str:
        """The short name of this machine."""
        return socket.gethostname().split(".")[0]

    @property
    def gpu_names(self) -> list[str]:
        """Names of the nodes with simulated GPUs."""
        return [f"gpu{i}" for i in range(1, self.gpu_nodes + 1)]

    @cached_property
    def nodes(self) -> list[str]:
        """Names of all nodes."""
        return self.gpu_names + [f"cpu{i}" for i in range(1, self.cpu_nodes + 1)]

    def number(self, node: str) -> int:
        """Position of `node` in the cluster, from 1. Raises ValueError with the names of the nodes."""
        if node not in self.nodes:
            raise ValueError(f"no node {node!r}: this cluster has {' '.join(self.nodes)}")
        return self.nodes.index(node) + 1

    def address(self, node: str) -> str:
        """The IPv4 address of a node."""
        high, low = divmod(self.number(node) - 1, 250)
        return f"{'10.77' if self.isolation == 'net' else '127.0'}.{high + 1}.{low + 1}"

    def save(self) -> None:
        """Write the settings to the cluster's directory."""
        path = self.root / "etc" / "settings.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")


def default_directory() -> Path:
    """The directory of a cluster that names none: short, because paths of Unix sockets have at most 107 bytes."""
    return Path(os.environ.get("DEVCLUSTER_DIR") or f"/tmp/devcluster-{getpass.getuser()}")


def require_own(directory: Path) -> None:
    """Raise ValueError if `directory` belongs to another user, or others may write to it: its files are executed."""
    for look in (directory.lstat, directory.stat):  # the owner of a link, and of what it names
        try:
            status = look()
        except FileNotFoundError:
            return
        if status.st_uid != os.getuid():
            raise ValueError(f"{directory} belongs to another user: choose another --directory")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ValueError(f"other users may write to {directory}: chmod go-w it, or choose another --directory")


def load(directory: Path) -> Settings | None:
    """Settings of the cluster that lives in `directory`, or None where there is none."""
    path = directory / "etc" / "settings.json"
    return Settings(**json.loads(path.read_text())) if path.exists() else None
