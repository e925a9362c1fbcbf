"""devcluster.py VERB: a real Slurm on one machine, for trials and tests.

up            start it (again): partitions gpu, cpu, spot (preemptable), urgent
down | wipe   stop it | stop it and delete its directory
status        daemons and nodes                env      print what to evaluate in a shell that is to use it
exec CMD...   run a client command (needed with --isolation net)
kill-node N [--silent]   kill slurmd and all jobs of a node; silent: slurmctld has to notice by itself
hang-node N              freeze slurmd: jobs live on while Slurm declares the node dead
cut-node N               unplug its network (--isolation net)     restore-node N   undo any of these
kill-ctld | kill-dbd     SIGKILL slurmctld | slurmdbd
restart | restart-dbd    slurmctld | slurmdbd comes (back) up

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
from pathlib import Path

from cluster import PLUGINS, Cluster, missing
from process import DaemonError
from settings import ISOLATIONS, Settings, default_directory, load, require_own

FAULTS = ("kill-node", "hang-node", "cut-node", "restore-node")
VERBS = ("up", "down", "wipe", "status", "env", "exec", "kill-ctld", "kill-dbd", "restart", "restart-dbd", *FAULTS)
SOCKET_ROOM = 107 - len("/spool/gpu000/gpu000_4294967294.4294967294")


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "devcluster", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("verb", choices=VERBS)
    parser.add_argument("rest", nargs="*", metavar="ARG")
    parser.add_argument("--directory", default=None, help="where it lives (default /tmp/devcluster-USER)")
    parser.add_argument("--silent", action="store_true")
    kinds = {f.name: f for f in dataclasses.fields(Settings)}
    parser.add_argument("--port", help=f"first of a range of ports (default {kinds['port'].default})")
    parser.add_argument("--isolation", choices=ISOLATIONS, help="default: ns where the kernel allows it, else none")
    parser.add_argument("--accounting", choices=("yes", "no"), help="slurmdbd and MariaDB (default yes)")
    parser.add_argument("--enforce", choices=("yes", "no"), help="hold jobs to sacctmgr's limits (default no)")
    parser.add_argument("--cgroup", choices=("yes", "no"), help="real memory limits; root and cgroup v1 (default no)")
    for name in ("gpu_nodes", "cpu_nodes", "gpus", "cpus", "memory_mb"):
        parser.add_argument(f"--{name.replace('_', '-')}", help=f"default {kinds[name].default}")
    parser.add_argument("--extra", help="slurm.conf lines, by semicolons: Key=value replaces, Key+=value adds")
    if "exec" in arguments:  # all that follows belongs to the client's command
        cut = arguments.index("exec")
        known = parser.parse_args(arguments[: cut + 1])
        known.rest = arguments[cut + 1 :]
        return known
    return parser.parse_args(arguments)


def settings(options: argparse.Namespace, directory: Path, kept: Settings | None) -> Settings:
    """From flags, then variables, then the cluster as it was, then defaults; a ValueError says which value is wrong."""
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
    """Whether this user may make the namespaces of isolation `ns`."""
    own = [] if os.getuid() == 0 else ["--user", "--map-current-user", "--keep-caps"]
    probe = ["unshare", *own, "--uts", "--pid", "--mount", "--fork", "--mount-proc", "hostname", "probe"]
    return subprocess.run(probe, capture_output=True).returncode == 0


def check(s: Settings) -> None:
    if absent := missing(s.accounting):
        packages = " ".join(dict.fromkeys([*absent, *PLUGINS]))
        install = f"apt-get install -y --no-install-recommends {packages}"
        raise ValueError(f"Slurm's daemons are not all here. On Debian or Ubuntu, as root:\n  {install}")
    if len(s.directory) > SOCKET_ROOM:
        raise ValueError(
            f"{s.directory} is too long for Unix sockets: choose a --directory of up to {SOCKET_ROOM} characters"
        )
    if os.getuid() != 0 and (s.isolation == "net" or s.cgroup):
        raise ValueError("--isolation net and --cgroup need root")
    if s.enforce and not s.accounting:
        raise ValueError("--enforce needs --accounting yes: slurmdbd keeps the limits")


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    # Daemons of Debian lie in sbin, which is not on every user's PATH.
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    os.umask(os.umask(0o077) | 0o022)  # nothing of it is for others to write to
    given = Path(options.directory) if options.directory else default_directory()
    require_own(given)
    directory = given.resolve()
    kept = load(directory)
    if options.verb == "up":
        wanted = settings(options, directory, kept)
        if kept and wanted != kept and Cluster(kept).lives():
            raise ValueError(f"the cluster in {directory} is up with other settings: `down` first")
        check(wanted)
        cluster = Cluster(wanted)
        began = time.monotonic()
        cluster.up()
        s, took = cluster.settings, time.monotonic() - began
        print(
            f"devcluster is up in {took:.1f} s: {len(s.nodes)} nodes, isolation {s.isolation}. To use it in this shell:"
        )
        print(f"  export SLURM_CONF={s.conf}")
        return 0
    if kept is None:
        raise ValueError(f"no cluster in {directory}: start one with `up`")
    cluster = Cluster(kept)
    if options.verb in FAULTS:
        if len(options.rest) != 1:
            raise ValueError(f"{options.verb} takes one node: {' '.join(kept.nodes)}")
        kept.number(options.rest[0])
    match options.verb, options.rest:
        case "down", _:
            cluster.down()
        case "wipe", _:
            cluster.wipe()
        case "status", _:
            print(cluster.status())
        case "env", _:
            print(f"export SLURM_CONF={shlex.quote(str(kept.conf))}")
        case "exec", command:
            return cluster.execute(command)
        case "kill-node", [node]:
            cluster.kill_node(node, options.silent)
        case "hang-node", [node]:
            cluster.nodes.hang(node)
        case "cut-node", [node]:
            cluster.nodes.cut(node)
        case "restore-node", [node]:
            cluster.restore_node(node)
        case "kill-ctld", _:
            cluster.kill_daemon("slurmctld")
        case "kill-dbd", _:
            cluster.kill_daemon("slurmdbd")
        case "restart", _:
            cluster.restart("slurmctld")
        case "restart-dbd", _:
            cluster.restart("slurmdbd")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (DaemonError, ValueError, OSError) as error:
        sys.exit(f"devcluster: {error}")
