"""A real Slurm on one machine: munge, MariaDB, slurmdbd, slurmctld and several slurmd, started in that order."""

import errno
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import conf
from node import Nodes, fabric
from process import DaemonError, Daemons
from settings import Settings

PACKAGES = {
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
    "munged": "munge",
    "slurmdbd": "slurmdbd",
    "mariadbd": "mariadb-server",
    "unshare": "util-linux",
    "ss": "iproute2",
}
# Plugins have no program of their own to look for.
PLUGINS = ["slurm-wlm-basic-plugins", "slurm-wlm-mysql-plugin"]
ACCOUNTING = ("slurmdbd", "mariadbd")
READY_STATES = {"idle", "mix", "alloc", "comp", "resv"}


def missing(accounting: bool) -> list[str]:
    """Debian packages whose programs are not on PATH."""
    programs = [p for p in PACKAGES if accounting or p not in ACCOUNTING]
    return [PACKAGES[p] for p in programs if shutil.which(p) is None]


class Cluster:
    """Starts, stops and queries the cluster. Everything that it writes is under `settings.root`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.daemons = Daemons(settings.root)
        self.nodes = Nodes(settings, self.daemons)
        os.environ["SLURM_CONF"] = str(settings.conf)

    # -- the whole ---------------------------------------------------------------------------------------------------
    def up(self, patience: float = 60) -> None:
        """Start what is not running and wait until every node takes jobs; safe to call again."""
        conf.write(self.settings)
        self.settings.save()
        if self.settings.isolation == "net":
            self._fabric()
        self._munge()
        if self.settings.accounting:
            self._database()
            self._slurmdbd()
        self._slurmctld()
        for node in self.settings.nodes:
            self.nodes.up(node)
        patience = max(patience, len(self.settings.nodes) / 2)  # hundreds of daemons start one after the other
        end = time.monotonic() + patience
        while late := self.not_ready():
            if time.monotonic() > end:
                tail = self.daemons.tail(f"slurmd-{late[0]}")
                raise DaemonError(f"nodes not ready after {patience:.0f} s: {' '.join(late)}\n{tail}")
            time.sleep(0.1)

    def down(self, number: int = signal.SIGTERM) -> None:
        """Stop everything, jobs included. Accounting and the queue are kept for the next `up`."""
        self.nodes.down(self.settings.nodes, number)
        for name in ("slurmctld", "slurmdbd", "mariadbd", "munged"):
            self.daemons.stop(name, number)
        self.daemons.stop("fabric", signal.SIGKILL)  # unshare --fork ignores SIGTERM
        for node in self.settings.nodes if self.settings.cgroup else []:
            for folder in sorted(Path("/sys/fs/cgroup").glob(f"*/slurm_{node}/**/"), reverse=True):
                _remove_when_empty(folder)

    def wipe(self) -> None:
        """Down, and forget everything."""
        self.down(signal.SIGKILL)  # there is no state to save
        shutil.rmtree(self.settings.root)

    def status(self) -> str:
        """One line for each daemon, then Slurm's own view of the nodes."""
        lines = [f"{name:16} {self.daemons.pid(name) or 'down'}" for name in self.names()]
        if self.alive():  # without it sinfo would wait long for an answer
            lines.append(self._ask("sinfo", "-N", "-o", "%8N %10P %6t %14G %E").stdout.rstrip())
        return "\n".join(lines)

    def names(self) -> list[str]:
        """All its daemons, in the order in which they start."""
        names = ["munged", *(reversed(ACCOUNTING) if self.settings.accounting else []), "slurmctld"]
        return names + [f"slurmd-{node}" for node in self.settings.nodes]

    def alive(self) -> bool:
        """Whether slurmctld is running."""
        return self.daemons.pid("slurmctld") is not None

    def any_running(self) -> bool:
        """Whether any of its daemons is running."""
        return any(self.daemons.pid(name) for name in self.names())

    def not_ready(self) -> list[str]:
        """Nodes that do not accept jobs yet."""
        rows = (line.split() for line in self._ask("sinfo", "-N", "-h", "-o", "%N %t").stdout.splitlines())
        ready = {row[0] for row in rows if row[1] in READY_STATES}
        return [node for node in self.settings.nodes if node not in ready]

    # -- faults ------------------------------------------------------------------------------------------------------
    def kill_node(self, node: str, silent: bool) -> None:
        """Kill slurmd and all jobs of the node. slurmctld is informed, unless `silent`: then it has to notice."""
        self.nodes.down([node])
        if not silent:
            self._must("scontrol", "update", f"nodename={node}", "state=down", "reason=killed")

    def restore_node(self, node: str) -> None:
        """Undo any fault of the node."""
        self.nodes.restore(node)
        self._ask("scontrol", "update", f"nodename={node}", "state=resume")
        # All nodes register again; otherwise a job lost in an unnoticed reboot would stay RUNNING.
        self._must("scontrol", "reconfigure")

    def kill_daemon(self, name: str) -> None:
        """SIGKILL slurmctld or slurmdbd, if it runs; `restart`, `restart-dbd` or `up` starts it again."""
        self._accounts(name)
        self.daemons.stop(name, signal.SIGKILL)

    def restart(self, name: str) -> None:
        """Stop slurmctld or slurmdbd, if it runs, and start it with its saved state; returns when it answers."""
        self._accounts(name)
        self.daemons.stop(name)
        if name == "slurmdbd":
            self._database()
            self._slurmdbd()
        else:
            self._slurmctld()

    def _accounts(self, name: str) -> None:
        if name == "slurmdbd" and not self.settings.accounting:
            raise DaemonError("this cluster came up with --accounting no: it has no slurmdbd")

    def execute(self, command: Sequence[str]) -> int:
        """Run a command as a client of the cluster (isolation `net` can be reached in no other way)."""
        return subprocess.run([*fabric(self.daemons), *command], check=False).returncode

    # -- daemons -----------------------------------------------------------------------------------------------------
    def _start(self, name: str, command: Sequence[str | Path], ready: Callable[[], bool], seconds: float) -> None:
        if self.daemons.pid(name) is None:
            self.daemons.start(name, [*fabric(self.daemons), *command] if name != "fabric" else command)
            self.daemons.wait(name, ready, seconds)

    def _fabric(self) -> None:
        flag = self.settings.root / "run" / "fabric.ready"
        flag.unlink(missing_ok=True)
        address = f"ip addr add {self.settings.controller}/16 dev br0"
        bridge = f"ip link set lo up && ip link add br0 type bridge && {address} && ip link set br0 up"
        script = f"{bridge} && : > '{flag}' && exec sleep infinity"
        self._start("fabric", ["unshare", "--net", "--", "bash", "-c", script], flag.exists, 10)

    def _munge(self) -> None:
        etc, run, socket = self.settings.root / "etc", self.settings.root / "run", self.settings.munge
        if self.daemons.pid("munged") is None:
            for stale in run.glob("munge.socket*"):
                stale.unlink()
        command = ["munged", "--foreground", "--force", "--num-threads=10", f"--key-file={etc / 'munge.key'}"]
        command += [f"--socket={socket}", f"--pid-file={run / 'munged.pid'}", f"--seed-file={run / 'munge.seed'}"]
        command += [f"--log-file={self.daemons.log / 'munged.log'}"]
        self._start("munged", command, lambda: self._ok("munge", "-S", str(socket), "-n"), 10)

    def _database(self) -> None:
        run = self.settings.root / "run"
        data, socket = self.settings.root / "db", run / "mariadb.sock"
        if not (data / "mysql").is_dir():
            # In /tmp the temporary tables of clusters that start at once can have equal names.
            install = [
                "env",
                f"TMPDIR={run}",
                "mariadb-install-db",
                "--no-defaults",
                "--skip-test-db",
                f"--user={self.settings.user}",
            ]
            self._must(*install, "--auth-root-authentication-method=normal", f"--datadir={data}")
        command = ["mariadbd", "--no-defaults", f"--user={self.settings.user}", f"--datadir={data}"]
        command += [
            f"--socket={socket}",
            f"--pid-file={run / 'mariadbd.pid'}",
            f"--tmpdir={run}",
            "--bind-address=127.0.0.1",
        ]
        command += [f"--port={self.settings.port + 3}", "--performance-schema=OFF", "--innodb-buffer-pool-size=64M"]
        command += ["--innodb-log-file-size=32M", "--innodb-lock-wait-timeout=900"]
        command += ["--innodb-flush-log-at-trx-commit=0"]
        client = ["--no-defaults", "-S", str(socket), "-u", "root"]
        self._start("mariadbd", command, lambda: self._ok("mariadb-admin", *client, "ping"), 30)
        users = ("slurm@'%'", "slurm@localhost")
        sql = ["CREATE DATABASE IF NOT EXISTS slurm_acct_db"]
        sql += [f"CREATE USER IF NOT EXISTS {user} IDENTIFIED BY 'slurm'" for user in users]
        sql += [f"GRANT ALL ON slurm_acct_db.* TO {user}" for user in users]
        self._must("mariadb", *client, "-e", ";".join(sql))

    def _slurmdbd(self) -> None:
        if self.daemons.pid("slurmdbd") is None:
            self._start("slurmdbd", ["slurmdbd", "-D"], lambda: self._ok("sacctmgr", "-n", "-i", "show", "cluster"), 60)
            self._ask("sacctmgr", "-i", "add", "cluster", "dev")  # fails if it exists already, as do the following
            if self.settings.enforce:  # a user without an association could submit nothing
                user = f"name={self.settings.user}"
                self._ask("sacctmgr", "-i", "add", "account", "name=dev", "cluster=dev")
                self._ask("sacctmgr", "-i", "add", "user", user, "account=dev", "cluster=dev", "defaultaccount=dev")

    def _slurmctld(self) -> None:
        self._start("slurmctld", ["slurmctld", "-D"], lambda: self._ok("scontrol", "ping"), 30)

    def _ask(self, *command: str, seconds: float = 30) -> subprocess.CompletedProcess[str]:
        try:
            words = [*fabric(self.daemons), *command]
            return subprocess.run(words, capture_output=True, text=True, timeout=seconds, check=False)
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(command, 124, "", f"no answer in {seconds:.0f} s")

    def _ok(self, *command: str) -> bool:
        return self._ask(*command, seconds=10).returncode == 0

    def _must(self, *command: str) -> None:
        done = self._ask(*command, seconds=120)
        if done.returncode:
            raise DaemonError(f"`{command[0]}` failed: {(done.stderr or done.stdout).strip()}")


def _remove_when_empty(cgroup: Path, patience: float = 10) -> None:
    """Remove a control group, which killed processes leave a moment later. Raises OSError after `patience` seconds."""
    end = time.monotonic() + patience
    while True:
        try:
            return cgroup.rmdir()
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > end:
                raise
        time.sleep(0.1)
