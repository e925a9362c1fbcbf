"""devcluster.py VERB: a real Slurm on one machine, for trials and tests.

up            start it (again): partitions gpu, cpu, spot (preemptable), urgent
down | wipe   stop it | stop it and delete its directory
status        daemons and nodes                env      print shell commands that select this cluster
exec CMD...   run a client command (needed with --isolation net)
kill-node N [--silent]   kill slurmd and all jobs of a node; silent: slurmctld has to notice by itself
hang-node N              freeze slurmd: jobs run on while Slurm declares the node dead
cut-node N               unplug its network (--isolation net)     restore-node N   undo any of these
kill-ctld | kill-dbd     SIGKILL slurmctld | slurmdbd
restart | restart-dbd    start slurmctld | slurmdbd, again if it runs

Settings are read by `up` and kept in the cluster's directory for every later verb, the next `up` included; each also
has a variable DEVCLUSTER_<NAME>.
"""

import argparse
import dataclasses
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cluster import PLUGINS, Cluster, missing
from process import DaemonError
from settings import ISOLATIONS, Settings, default_directory, load, require_own

FAULTS = ("kill-node", "hang-node", "cut-node", "restore-node")
SOCKET_ROOM = 107 - len("/spool/gpu000/gpu000_4294967294.4294967294")


def parse(arguments: list[str]) -> argparse.Namespace:
    """The verb, its arguments and the flags."""
    parser = argparse.ArgumentParser(
        "devcluster", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("verb", choices=VERBS)
    parser.add_argument("rest", nargs="*", metavar="ARG")
    parser.add_argument("--directory", default=None, help="its directory (default /tmp/devcluster-USER)")
    parser.add_argument("--silent", action="store_true")
    kinds = {f.name: f for f in dataclasses.fields(Settings)}
    parser.add_argument("--port", help=f"first of a range of ports (default {kinds['port'].default})")
    parser.add_argument("--isolation", choices=ISOLATIONS, help="default: ns where the kernel allows it, else none")
    parser.add_argument("--accounting", choices=("yes", "no"), help="slurmdbd and MariaDB (default yes)")
    parser.add_argument("--enforce", choices=("yes", "no"), help="enforce the limits that sacctmgr sets (default no)")
    parser.add_argument("--cgroup", choices=("yes", "no"), help="real memory limits; root and cgroup v1 (default no)")
    for name in ("gpu_nodes", "cpu_nodes", "gpus", "cpus", "memory_mb"):
        parser.add_argument(f"--{name.replace('_', '-')}", help=f"default {kinds[name].default}")
    parser.add_argument("--extra", help="slurm.conf lines, by semicolons: Key=value replaces, Key+=value adds")
    if "exec" in arguments:  # everything that follows belongs to the command
        cut = arguments.index("exec")
        known = parser.parse_args(arguments[: cut + 1])
        known.rest = arguments[cut + 1 :]
        return known
    return parser.parse_args(arguments)


def settings(options: argparse.Namespace, directory: Path, kept: Settings | None) -> Settings:
    """Settings from flags, else variables, else the cluster as it was, else defaults. Raises ValueError for a wrong value."""
    values: dict[str, object] = dataclasses.asdict(kept) if kept else {"directory": str(directory)}
    for item in dataclasses.fields(Settings)[1:]:
        text = getattr(options, item.name) or os.environ.get(f"DEVCLUSTER_{item.name.upper()}")
        if text is None:
            continue
        if item.type in (bool, "bool"):
            values[item.name] = text == "yes"
        elif item.type in (int, "int"):
            if not text.isdigit():
                raise ValueError(f"--{item.name.replace('_', '-')} takes a number, not {text!r}")
            values[item.name] = int(text)
        else:
            values[item.name] = (
                [line.strip() for line in text.split(";") if line.strip()] if item.name == "extra" else text
            )
    if "isolation" not in values:
        values["isolation"] = "ns" if namespaces() else "none"
    return Settings(**values)  # type: ignore[arg-type]


def namespaces() -> bool:
    """Whether this user may create the namespaces of isolation `ns`."""
    own = [] if os.getuid() == 0 else ["--user", "--map-current-user", "--keep-caps"]
    probe = ["unshare", *own, "--uts", "--pid", "--mount", "--fork", "--mount-proc", "hostname", "probe"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


def check(s: Settings) -> None:
    """Raise ValueError if a cluster with these settings cannot run here."""
    if absent := missing(s.accounting):
        packages = " ".join(dict.fromkeys([*absent, *PLUGINS]))
        install = f"apt-get install -y --no-install-recommends {packages}"
        raise ValueError(f"Some of Slurm's daemons are missing. On Debian or Ubuntu, as root:\n  {install}")
    if len(s.directory) > SOCKET_ROOM:
        raise ValueError(
            f"{s.directory} is too long for Unix sockets: choose a --directory of up to {SOCKET_ROOM} characters"
        )
    if os.getuid() != 0 and (s.isolation == "net" or s.cgroup):
        raise ValueError("--isolation net and --cgroup need root")
    if s.enforce and not s.accounting:
        raise ValueError("--enforce needs --accounting yes: slurmdbd keeps the limits")


def main(arguments: list[str]) -> int:
    """Run one verb. Returns the exit status; raises ValueError or DaemonError with a sentence for the user."""
    options = parse(arguments)
    # Debian's daemons are in sbin, which is not on every user's PATH.
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    os.umask(os.umask(0o077) | 0o022)  # other users must not be able to write to its files
    given = Path(options.directory) if options.directory else default_directory()
    require_own(given)
    directory = given.resolve()
    kept = load(directory)
    if options.verb == "up":
        up(settings(options, directory, kept), kept)
        return 0
    if kept is None:
        raise ValueError(f"no cluster in {directory}: start one with `up`")
    if options.verb == "exec":
        return Cluster(kept).execute(options.rest)
    if options.verb in FAULTS:
        break_node(Cluster(kept), options.verb, options.rest, options.silent)
    else:
        ACTIONS[options.verb](Cluster(kept))
    return 0


def up(wanted: Settings, kept: Settings | None) -> None:
    """Start the cluster, or what is down of it. Raises ValueError if it runs with other settings."""
    if kept and wanted != kept and Cluster(kept).any_running():
        raise ValueError(f"the cluster in {wanted.directory} is up with other settings: `down` first")
    check(wanted)
    began = time.monotonic()
    Cluster(wanted).up()
    seconds, nodes = time.monotonic() - began, len(wanted.nodes)
    print(f"devcluster is up in {seconds:.1f} s: {nodes} nodes, isolation {wanted.isolation}. To use it in this shell:")
    print(f"  export SLURM_CONF={wanted.conf}")


def break_node(cluster: Cluster, verb: str, names: list[str], silent: bool) -> None:
    """Inject a fault into one node, or undo it."""
    if len(names) != 1:
        raise ValueError(f"{verb} takes one node: {' '.join(cluster.settings.nodes)}")
    node = names[0]
    cluster.settings.number(node)
    match verb:
        case "kill-node":
            cluster.kill_node(node, silent)
        case "hang-node":
            cluster.nodes.hang(node)
        case "cut-node":
            cluster.nodes.cut(node)
        case "restore-node":
            cluster.restore_node(node)


ACTIONS: dict[str, Callable[[Cluster], None]] = {
    "down": Cluster.down,
    "wipe": Cluster.wipe,
    "status": lambda cluster: print(cluster.status()),
    "env": lambda cluster: print(f"export SLURM_CONF={shlex.quote(str(cluster.settings.conf))}"),
    "kill-ctld": lambda cluster: cluster.kill_daemon("slurmctld"),
    "kill-dbd": lambda cluster: cluster.kill_daemon("slurmdbd"),
    "restart": lambda cluster: cluster.restart("slurmctld"),
    "restart-dbd": lambda cluster: cluster.restart("slurmdbd"),
}
VERBS = ("up", "exec", *ACTIONS, *FAULTS)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (DaemonError, ValueError, OSError) as error:
        sys.exit(f"devcluster: {error}")
