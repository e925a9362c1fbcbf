"""Renders the development cluster's files: slurm.conf(5), gres.conf(5), cgroup.conf(5), slurmdbd.conf(5)."""

import os
from pathlib import Path

from settings import Settings

HERE = Path(__file__).resolve().parent
# Keys of which slurm.conf has a line for each name.
NAMED = ("nodename", "partitionname", "nodeset", "downnodes")


def write(s: Settings) -> None:
    """Write all files under `etc/`, with the folders and fake devices they name. Existing secrets are kept."""
    for name in ("etc", "run", "log", "ctld", "spool", "dev", "db"):
        (s.root / name).mkdir(parents=True, exist_ok=True)
    for name in (".", "run"):
        (s.root / name).chmod(0o755)  # munged refuses a socket folder that others could write, clients must reach it
    key = s.root / "etc" / "munge.key"
    if not key.exists():
        _private(key, os.urandom(1024))
    for i in range(s.gpus):
        _device(s.root / "dev" / f"nvidia{i}", i, real=s.cgroup)
    etc = s.root / "etc"
    (etc / "slurm.conf").write_text(slurm_conf(s))
    (etc / "gres.conf").write_text(
        f"NodeName={_range('gpu', s.gpu_nodes)} Name=gpu Type=h100 File={s.root}/dev/nvidia[0-{s.gpus - 1}]\n"
        if s.gpus and s.gpu_nodes
        else ""
    )
    limit = "yes" if s.cgroup else "no"
    (etc / "cgroup.conf").write_text(
        f"CgroupPlugin=cgroup/v1\nCgroupMountpoint=/sys/fs/cgroup\nConstrainCores=no\nConstrainRAMSpace={limit}\nConstrainDevices={limit}\n"
    )
    names = [f"127.0.0.1 localhost\n{s.controller} {s.host}"] + [f"{s.address(node)} {node}" for node in s.nodes]
    (etc / "hosts").write_text("\n".join(names) + "\n")
    if s.accounting:
        _private(etc / "slurmdbd.conf", (HERE / "slurmdbd.conf").read_text().format(**_values(s)).encode())


def slurm_conf(s: Settings) -> str:
    """slurm.conf: the template's constant part, then accounting, tracking, nodes and partitions; `extra` overrides."""
    lines = (HERE / "slurm.conf").read_text().format(**_values(s)).splitlines()
    if s.accounting:
        lines += [
            "AccountingStorageType=accounting_storage/slurmdbd",
            f"AccountingStorageHost={s.controller}",
            f"AccountingStoragePort={s.port + 2}",
            f"AccountingStoragePass={s.munge}",  # clients of slurmdbd look for a private munge socket here only
            "AccountingStorageTRES=gres/gpu",
            "AccountingStoreFlags=job_comment",
        ]
        if s.enforce:
            lines.append("AccountingStorageEnforce=associations,limits,qos")
    else:
        lines.append("AccountingStorageType=accounting_storage/none")
    if s.cgroup:
        lines += ["ProctrackType=proctrack/cgroup", "TaskPlugin=task/cgroup", "JobAcctGatherType=jobacct_gather/cgroup"]
    else:
        lines += ["ProctrackType=proctrack/linuxproc", "TaskPlugin=task/none", "JobAcctGatherType=jobacct_gather/linux"]
        lines.append("JobAcctGatherParams=OverMemoryKill")
    lines += _nodes(s, "gpu", s.gpu_names) + _nodes(s, "cpu", s.nodes[s.gpu_nodes :])
    gpu, cpu = _range("gpu", s.gpu_nodes), _range("cpu", s.cpu_nodes)
    limits = "DefaultTime=10 MaxTime=1-0"
    if s.gpu_nodes:
        lines += [
            f"PartitionName=gpu Nodes={gpu} Default=YES {limits} PriorityTier=10 PreemptMode=OFF",
            f"PartitionName=spot Nodes={gpu} {limits} PriorityTier=1 PreemptMode=REQUEUE GraceTime=10",
            f"PartitionName=urgent Nodes={gpu} {limits} PriorityTier=100 PreemptMode=OFF",
        ]
    if s.cpu_nodes:
        lines.append(f"PartitionName=cpu Nodes={cpu} {limits} PriorityTier=10 PreemptMode=OFF")
    return "\n".join(overridden(lines, s.extra)) + "\n"


def overridden(lines: list[str], extra: list[str]) -> list[str]:
    """slurm.conf with the lines of `extra`: `Key=value` replaces the line of that key, `Key+=value` adds to its list.

    Slurm itself takes the last of two lines of a key only for some keys, and complains for others.
    """
    current = {_key(line): line for line in lines}
    new: dict[str, str] = {}
    for item in extra:
        key, plus, value = item.partition("+=")
        line = item
        if plus and " " not in key:
            before = current.get(key.lower(), new.get(key.lower()))
            line = f"{before},{value}" if before else f"{key}={value}"
        (current if _key(line) in current else new)[_key(line)] = line
    return [*new.values(), *current.values()]


def _key(line: str) -> str:
    """What identifies a line: its key, or its key with a name; a comment is its own key."""
    key = line.partition("=")[0].strip().lower()
    return line.split(maxsplit=1)[0].lower() if key in NAMED else key


def _nodes(s: Settings, prefix: str, names: list[str]) -> list[str]:
    """As few lines as the addresses allow: every slurmstepd parses them, and one line per node halves the throughput."""
    gres = f" Gres=gpu:h100:{s.gpus} Feature=h100" if prefix == "gpu" and s.gpus else ""
    host = f" NodeHostname={s.host}" if s.isolation == "none" else ""
    blocks: dict[str, list[tuple[int, int, int]]] = {}
    for i, name in enumerate(names, 1):
        net, _, low = s.address(name).rpartition(".")
        blocks.setdefault(net, []).append((i, int(low), s.port + 10 + s.number(name)))
    lines = []
    for net, nodes in blocks.items():
        name, low, port = (f"[{first}-{last}]" for first, last in zip(nodes[0], nodes[-1], strict=True))
        lines.append(
            f"NodeName={prefix}{name}{host} NodeAddr={net}.{low} Port={port}"
            f" CPUs={s.cpus} RealMemory={s.memory_mb}{gres} State=UNKNOWN"
        )
    return lines


def _range(prefix: str, count: int) -> str:
    return f"{prefix}[1-{count}]"


def _values(s: Settings) -> dict[str, str | int]:
    return {
        "root": str(s.root),
        "host": s.host,
        "controller": s.controller,
        "port": s.port,
        "user": s.user,
        "munge": str(s.munge),
        "dbd_port": s.port + 2,
        "sql_port": s.port + 3,
    }


def _private(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def _device(path: Path, minor: int, real: bool) -> None:
    """gres.conf's File= asks for a character device; a link to /dev/null is one. Device limits need a real one."""
    if path.is_symlink() or path.exists():
        return
    if real:
        os.mknod(path, 0o20666, os.makedev(195, minor))
    else:
        path.symlink_to("/dev/null")
