"""A cluster file for a site, from what its Slurm says, with a comment on each choice for a person to check."""

from collections.abc import Iterator
from dataclasses import dataclass

from diagcot.jobs.slurm.capacity import NodeGroup
from diagcot.preflight.site.facts import Facts

SHARE = 0.95  # of a node's memory that a job asks for; the rest is the system's
MINUTES = {"cpu": 240, "small": 60, "server": 720, "train": 1440, "grpo": 2880}  # unless the partition allows less


@dataclass(frozen=True)
class Choice:
    """The partition for some profiles, its usual node, and its longest time limit."""

    partition: str
    node: NodeGroup
    minutes: int | None
    others: tuple[str, ...]

    def time(self, profile: str) -> int:
        """Minutes of a profile: the usual ones, or as many as the partition allows."""
        return min(MINUTES[profile], self.minutes or MINUTES[profile])


def draft(name: str, facts: Facts) -> str:
    """The text of the file. name: of the cluster."""
    gpu, cpu = _choose(facts, gpus=True), _choose(facts, gpus=False)
    lines = [
        f"# {name}: written by `diagcot cluster init` from what {facts.version} says of this site. Check what is marked with <>,",
        "# and each choice. Then: make doctor, make rehearse (docs/cluster.md explains each key).",
        f"name: {name}",
        "executor: slurm",
        "",
        "# Shell lines at the start of each job: modules, if your site provides CUDA by them.",
        "setup: []",
        *_warning(facts, gpu or cpu),
        *_scratch(facts),
        "",
        "# Folders on storage that all nodes share, closed to other users.",
        "roots: {logs: logs, shards: shards, models: models}",
        "",
        "slurm:",
        *(f"  {line}" for line in _general(facts, gpu or cpu, gpu)),
        "",
        *_site_comments(facts),
        "resource_profiles: # cpus and gpus are per rank, memory is per node",
        *(f"  {line}" for line in _profiles(facts, gpu, cpu)),
    ]
    return "\n".join(lines) + "\n"


def _choose(facts: Facts, gpus: bool) -> Choice | None:
    names = facts.usable(gpus)
    if not names:
        return None
    return Choice(names[0], facts.nodes(names[0], gpus), facts.partitions[names[0]].minutes, tuple(names[1:]))


def _warning(facts: Facts, choice: Choice | None) -> Iterator[str]:
    grace = facts.settings.get(choice.partition, {}).get("GraceTime", "0") if choice else "0"
    yield ""
    yield "# Seconds before the time limit at which Slurm warns a job: enough to write one checkpoint."
    if choice and facts.preemptible(choice.partition):
        yield f"# Jobs in {choice.partition} are preempted; they then have {grace} s (GraceTime)."
    yield "warning_seconds: 300"


def _scratch(facts: Facts) -> Iterator[str]:
    place = facts.config.get("TmpFS", "/tmp").split()[0]
    if place not in ("/tmp", "(null)"):
        yield ""
        yield "# TmpFS of this site: the nodes' own disk, for temporary files where TMPDIR names none."
        yield "# With `local_shards: true` in a profile its tasks read shards from copies there."
        yield f"scratch: {place}"


def _general(facts: Facts, first: Choice | None, gpu: Choice | None) -> Iterator[str]:
    if first:
        others = f" # or {', '.join(first.others)}" if first.others else ""
        yield f"partition: {first.partition}{others}"
    if len(facts.accounts) == 1:
        yield f"account: {facts.accounts[0]} # your only one"
    elif facts.accounts:
        yield f"account: <{facts.accounts[0]}> # one of {', '.join(facts.accounts)}"
    if len(facts.qos) > 1:
        yield f"qos: null # your default; you may use {', '.join(facts.qos)}"
    if "wckeys" in facts.config.get("AccountingStorageEnforce", ""):
        yield "wckey: null # this site checks wckeys: write yours, unless you have a default"
    if gpu:
        types = sorted({kind for group in facts.partitions[gpu.partition].groups for kind in group.gpu_types if kind})
        if types:
            more = (
                f" # {gpu.partition} also has {', '.join(types[1:])}"
                if types[1:]
                else f" # the only type of {gpu.partition}"
            )
            yield f"gpu_type: {next(iter(gpu.node.gpu_types), types[0]) or types[0]}{more}"
        yield "gpu_request: gpus-per-node # or gres, gpus-per-task, if your site's documentation says so"
    yield "extra: {} # any other option of sbatch by its long name"


def _site_comments(facts: Facts) -> Iterator[str]:
    """What is worth knowing of the site."""
    yield f"# Arrays have at most {facts.array_size} tasks here (MaxArraySize)."
    for bound in facts.bounds:
        yield f"# At most {bound.most} jobs in the queue: {bound.name}. More tasks are submitted in waves."
    for name, row in facts.settings.items():
        if row.get("AllocNodes", "ALL") != "ALL":
            yield f"# Only {row['AllocNodes']} may submit to {name}: retries are typed there, as `make status` says."
        if facts.preemptible(name):
            mode, grace = row.get("PreemptMode"), row.get("GraceTime", "0")
            yield f"# Jobs in {name} are preempted (PreemptMode {mode}, GraceTime {grace} s)."
    for key, meaning in (
        ("JobSubmitPlugins", "a plugin changes or refuses jobs; `make rehearse` shows what it says"),
        ("PrologFlags", "the prolog prepares a node before a job, which may take a while"),
    ):
        if facts.config.get(key, "(null)") not in ("(null)", ""):
            yield f"# {key}={facts.config[key]}: {meaning}."
    for line in facts.unknown:
        yield f"# Not known: {line}"
    if not facts.memory_is_scheduled:
        yield "# Slurm does not schedule memory here (SelectTypeParameters), so the profiles ask for none."
    if (form := facts.config.get("DefMemPerCPU", "UNLIMITED")) not in ("UNLIMITED", "0"):
        yield f"# A job that asks for no memory gets {form} MB for each CPU. `mem_per_cpu_gb` is the other form."


def _profiles(facts: Facts, gpu: Choice | None, cpu: Choice | None) -> Iterator[str]:
    plain = cpu or gpu
    if plain is None:
        yield "# no partition accepts jobs now: fill in partition, cpus, mem_gb, gpus and minutes of each profile"
        yield from (f"{name}: {{}}" for name in MINUTES)
        return
    at = "" if plain is (gpu or cpu) else f", partition: {plain.partition}"
    cores = min(8, plain.node.cpus)
    yield f"# {_described(plain)}"
    yield f"cpu: {{cpus: {cores}{_memory(facts, plain, min(32, plain.node.mem_gb))}, minutes: {plain.time('cpu')}{at}}}"
    small = _memory(facts, plain, min(8, plain.node.mem_gb))
    yield f"small: {{extends: cpu, cpus: {min(2, cores)}{small}, minutes: {plain.time('small')}}}"
    own = gpu or plain
    node, count = own.node, max(1, own.node.gpus)
    cores, memory, gpus = max(1, node.cpus // count), node.mem_gb / count, ", gpus: 1" if gpu else ""
    nodes = f"nodes: {min(2, node.nodes)}, " if node.nodes > 1 else ""
    if gpu:
        yield f"# {_described(gpu)}; one rank for each GPU, with its share of the cores"
    yield f"server: {{cpus: {cores}{gpus}{_memory(facts, own, memory)}, minutes: {own.time('server')}}}"
    yield (
        f"train: {{{nodes}tasks_per_node: {count}, cpus: {cores}{gpus}{_memory(facts, own, node.mem_gb)},"
        f" minutes: {own.time('train')}}}"
    )
    yield f"grpo: {{extends: train, minutes: {own.time('grpo')}}}"


def _described(choice: Choice) -> str:
    node = choice.node
    gpus = f", {node.gpus} GPUs" if node.gpus else ""
    limit = f"at most {choice.minutes} minutes" if choice.minutes else "no time limit"
    return f"{choice.partition}: {node.nodes} nodes of {node.cpus} CPUs, {node.mem_gb:.0f} GB{gpus}; {limit}"


def _memory(facts: Facts, choice: Choice, node_gb: float) -> str:
    if not facts.memory_is_scheduled:
        return ""
    most = SHARE * choice.node.mem_gb
    return f", mem_gb: {max(1, int(min(SHARE * node_gb if node_gb > 32 else node_gb, most)))}"
