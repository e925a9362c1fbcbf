"""The virtual nodes: one slurmd each, and the faults that can be injected."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from process import DaemonError, Daemons, kill, offspring
from settings import Settings

HERE = Path(__file__).resolve().parent


class Nodes:
    """Starts, ends and breaks the nodes of a cluster."""

    def __init__(self, settings: Settings, daemons: Daemons) -> None:
        self.settings, self.daemons = settings, daemons

    def up(self, node: str) -> None:
        """Start the node's slurmd in the namespaces that the isolation asks for."""
        s, name = self.settings, f"slurmd-{node}"
        if self.daemons.pid(name) is not None:
            return
        (s.root / "spool" / node).mkdir(parents=True, exist_ok=True)
        if s.isolation == "none":
            self.daemons.start(name, ["slurmd", "-D", "-N", node])
            return
        own = ["--net"] if s.isolation == "net" else []
        if os.getuid() != 0:
            own += ["--user", "--map-current-user", "--keep-caps"]
        address = s.address(node) if s.isolation == "net" else "-"
        init = ["--uts", "--pid", "--mount", "--fork", "--kill-child=SIGKILL", "--mount-proc", "--"]
        init += ["bash", str(HERE / "node.sh"), node, address, str(s.root / "etc" / "hosts")]
        self.daemons.start(name, ["unshare", *own, *init])
        if s.isolation == "net":
            self._plug(node)

    def down(self, nodes: Sequence[str], number: int = signal.SIGKILL) -> None:
        """End slurmd and everything that runs on the nodes. `number` is slurmd's signal where nodes have no namespace."""
        if self.settings.isolation != "none":
            number = signal.SIGKILL  # the pid namespace dies with its init
        with ThreadPoolExecutor(32) as pool:
            list(pool.map(lambda node: self.daemons.stop(f"slurmd-{node}", number), nodes))
        if self.settings.isolation == "none":
            for pid in self._stepds(nodes):
                kill([*offspring(pid), pid])

    def hang(self, node: str) -> None:
        """Freeze slurmd only: jobs on the node run on while Slurm declares it dead."""
        kill([self._slurmd(node)], signal.SIGSTOP)

    def cut(self, node: str) -> None:
        """Pull the node's network cable (isolation `net`)."""
        if self.settings.isolation != "net":
            raise DaemonError("cut-node needs a cluster that came up with --isolation net")
        self._fabric("ip", "link", "set", f"v-{node}", "down")

    def restore(self, node: str) -> None:
        """Undo any of the faults."""
        if self.daemons.pid(f"slurmd-{node}") is not None:
            kill([self._slurmd(node)], signal.SIGCONT)
            if self.settings.isolation == "net":
                self._fabric("ip", "link", "set", f"v-{node}", "up")
        self.up(node)

    def _slurmd(self, node: str) -> int:
        pid = self.daemons.pid(f"slurmd-{node}")
        family = [] if pid is None else [pid, *offspring(pid)]
        for member in family:
            if Path(f"/proc/{member}/comm").read_text().strip() == "slurmd":
                return member
        raise DaemonError(f"{node} has no slurmd to signal: bring it back with `restore-node {node}`")

    def _stepds(self, nodes: Sequence[str]) -> list[int]:
        """Without a pid namespace, each slurmstepd is found by the Unix socket it holds in the node's spool folder."""
        sockets = subprocess.run(["ss", "-xlpH"], capture_output=True, text=True, check=False).stdout
        held = re.compile(rf"{re.escape(str(self.settings.root))}/spool/([^/]+)/.*")
        lines = [line for line in held.finditer(sockets) if line[1] in set(nodes)]
        return [int(pid) for line in lines for pid in re.findall(r"pid=(\d+)", line[0])]

    def _plug(self, node: str) -> None:
        """Connect the node's network namespace to the bridge, once it is separate from ours."""
        pid = self.daemons.pid(f"slurmd-{node}")
        here, end = Path("/proc/self/ns/net").readlink(), time.monotonic() + 5
        while pid is None or Path(f"/proc/{pid}/ns/net").readlink() == here:
            if pid is None or time.monotonic() > end:
                raise DaemonError(f"{node} did not start\n{self.daemons.tail(f'slurmd-{node}')}")
            time.sleep(0.01)
        link = f"v-{node}"
        subprocess.run([*fabric(self.daemons), "ip", "link", "del", link], capture_output=True, check=False)
        self._fabric("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
        self._fabric("ip", "link", "set", link, "master", "br0", "up")

    def _fabric(self, *command: str) -> None:
        done = subprocess.run([*fabric(self.daemons), *command], capture_output=True, text=True, check=False)
        if done.returncode:
            raise DaemonError(f"`{' '.join(command)}`: {done.stderr.strip()}")


def fabric(daemons: Daemons) -> list[str]:
    """Prefix of a command that is to run in the cluster's own network; empty where it shares the host's."""
    pid = daemons.pid("fabric")
    return [] if pid is None else ["nsenter", "-t", str(pid), "-n", "--"]
