"""Declares and submits a rehearsal: a second pipeline of the same chain, whose jobs only check."""

import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diagcot.jobs import Cluster, Pipeline, Plan
from diagcot.jobs.cluster import Roots
from diagcot.jobs.environment.python import interpreter
from diagcot.jobs.execution import local
from diagcot.jobs.slurm import capacity, submit
from diagcot.jobs.slurm import commands as slurm
from diagcot.jobs.state.attempts import Array
from diagcot.jobs.state.files import remove
from diagcot.preflight import checks
from diagcot.preflight.doctor.slurm import site
from diagcot.preflight.finding import bad
from diagcot.preflight.rehearsal.machine import refused
from diagcot.preflight.rehearsal.rows import Row
from diagcot.preflight.rehearsal.stage import RehearsedStage
from diagcot.preflight.rehearsal.storage import HOST

if TYPE_CHECKING:
    from launchers.chain import Chain

KIND = "diagcot.preflight.rehearsal.node"
MINUTES = 2
SINFO_S = 30
NOT_NOW = {"begin": None, "dependency": None, "mail_type": None}  # a rehearsal waits for nothing, and mails nobody
WARNING_SECONDS = 5  # the warning of a real job would come as soon as one of two minutes begins
FOLDER = "rehearsals"  # in the folder of logs, one level below the runs, so that no verb takes one for a run
FINALISER = "finaliser"  # one stands for those of all stages: they are alike
RESULT = "findings.json"


@dataclass
class Rehearsal:
    """A rehearsal of a chain: its pipeline, the jobs that Slurm accepted, and the findings so far."""

    chain: "Chain"
    pipeline: Pipeline
    probe: str
    written: tuple[str, ...]  # roots that hold this host's probe file
    created: list[Path]  # folders that had to be created for that
    plans: list[Plan] = field(default_factory=list)
    jobs: dict[str, str] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    @property
    def run_dir(self) -> Path:
        """The folder of the rehearsal."""
        return self.pipeline.run_dir

    def clean(self) -> None:
        """Remove the probe files, and the roots that were created for them."""
        for root in roots(self.chain).values():
            remove(root / self.probe, root)
        for folder in reversed(self.created):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def roots(chain: "Chain") -> dict[str, Path]:
    """The folders of logs, shards and models of the real chain."""
    given = chain.cluster.roots
    return {name: chain.folder / getattr(given, name) for name in ("logs", "shards", "models")}


def rehearsed(cluster: Cluster) -> Cluster:
    """The same cluster, where jobs last two minutes, are not retried, and write to the folder of rehearsals alone."""
    folder = cluster.roots.logs / FOLDER
    return cluster.model_copy(
        update={
            "warning_seconds": WARNING_SECONDS,
            "max_attempts": 1,
            "roots": Roots(logs=folder, shards=folder, models=folder),
            "slurm": cluster.slurm.model_copy(update=NOT_NOW),
            "resource_profiles": {
                name: size.model_copy(update={"minutes": MINUTES, **NOT_NOW})
                for name, size in cluster.resource_profiles.items()
            },
            "stages": {name: parts | {"minutes": MINUTES} for name, parts in cluster.stages.items()},
        }
    )


def prepare(chain: "Chain") -> Rehearsal:
    """Prepare the submission: declare the pipeline, write probe files, and make the checks of this host.

    Raises UserError where the chain itself is wrong or Slurm gives no answer; then nothing has been written.
    """
    chain.plans  # noqa: B018 (raises UserError before anything is written)
    run = f"{chain.run}.rehearsal{_number(chain)}"
    cluster = rehearsed(chain.cluster)
    code = chain.code
    about = {"recipe": chain.recipe.name, "rehearsal_of": chain.run}
    pipeline = Pipeline(run, cluster, chain.folder, code=code, seed=chain.recipe.seed, about=about)
    pipeline.reachable()
    os.umask(0o077)
    probe = f".{run}.{os.getpid()}"
    written, created, rows = _probe(roots(chain), probe)
    rehearsal = Rehearsal(chain, pipeline, probe, written, created, rows=rows)
    try:
        _declare(rehearsal)
        _check_here(rehearsal)
    except BaseException:
        rehearsal.clean()
        raise
    return rehearsal


def _number(chain: "Chain") -> int:
    """One more than the newest rehearsal of this run; those that have ended are removed."""
    newest = 0
    for path in (roots(chain)["logs"] / FOLDER).glob(f"{chain.run}.rehearsal*"):
        tail = path.name.removeprefix(f"{chain.run}.rehearsal")
        if tail.isdigit():
            newest = max(newest, int(tail))
            if (path / RESULT).exists():
                remove(path, roots(chain)["logs"] / FOLDER, strict=True)
    return newest + 1


def _probe(folders: dict[str, Path], probe: str) -> tuple[tuple[str, ...], list[Path], list[Row]]:
    """Put this host's probe file into each root; (roots that accepted it, folders created, problems)."""
    written: list[str] = []
    created: list[Path] = []
    rows = []
    for name, root in folders.items():
        missing = [path for path in (root, *root.parents) if not path.exists()]
        try:
            (root / probe).mkdir(parents=True)
            created += reversed(missing)
            (root / probe / HOST).write_text(socket.gethostname())
            written.append(name)
        except OSError as error:
            text = f"{name}: cannot write to {root} on this host: {error.strerror or error}"
            rows.append(Row("(this host)", bad("folders", text, "correct `roots` in the cluster file")))
    return tuple(written), created, rows


def _declare(rehearsal: Rehearsal) -> None:
    chain, pipeline = rehearsal.chain, rehearsal.pipeline
    common: dict[str, Any] = {
        "roots": roots(chain),
        "probe": rehearsal.probe,
        "written": rehearsal.written,
        "python": interpreter(),
        "lock": checks.lock_stamp(),
    }
    weights = _weights_gb(chain)
    for plan in chain.plans:
        spec = chain.spec(plan.stage)
        kind = chain.kind(spec)
        rehearsed_stage = RehearsedStage(
            kind=kind.work,
            needs=kind.needs,
            settings=plan.settings,
            nodes=plan.resources.nodes,
            ranks=plan.resources.ranks,
            output=plan.output,
            workspace=plan.workspace,
            weights_gb=weights if kind.product == "weights" else 0,
            shards_copied_to=chain.cluster.shards_copied_to(plan.resources),
            **common,
        )
        settings = rehearsed_stage.model_dump(mode="json")
        pipeline.stage(spec.name, KIND, ["check"], kind.resource_profile, settings=settings, number=spec.number)
    if chain.cluster.executor == "slurm" and FINALISER not in [plan.stage for plan in chain.plans]:
        size = chain.cluster.resources("small", FINALISER)
        rehearsed_stage = RehearsedStage(
            needs=("submit",),
            nodes=size.nodes,
            ranks=size.ranks,
            output=chain.run_dir,
            workspace=chain.run_dir,
            asks=_asks(chain),
            **common,
        )
        pipeline.stage(FINALISER, KIND, ["check"], "small", settings=rehearsed_stage.model_dump(mode="json"))


def _weights_gb(chain: "Chain") -> float:
    """Size of the pretrained models that the chain begins with; 0 where it builds its own."""
    places = [Path(given) for plan in chain.plans if (given := plan.settings.get("pretrained"))]
    return (
        sum(path.stat().st_size for place in places for kind in ("*.safetensors", "*.pt") for path in place.glob(kind))
        / 1e9
    )


def _asks(chain: "Chain") -> tuple[dict[str, str], ...]:
    """The distinct sbatch options of the chain's jobs that decide whether Slurm accepts a job.

    Options that this host is refused are left out: sbatch will refuse the stages themselves.
    """
    distinct: list[dict[str, str]] = []
    for plan in chain.plans:
        options = chain.cluster.options(plan.resources)
        names = ("partition", "account", "qos", "constraint", "reservation", "wckey")
        given = {name: str(value) for name in names if (value := getattr(options, name))}
        distinct += [given] if given not in distinct else []
    return tuple(options for options in distinct if not refused(options))


def _check_here(rehearsal: Rehearsal) -> None:
    """The checks of this host: those of each stage, and whether its real size could ever start."""
    chain = rehearsal.chain
    for message, names in checks.stage_faults(chain).items():
        rehearsal.rows += [Row(name, bad("settings", " ".join(message.split()))) for name in names]
    if chain.cluster.executor != "slurm":
        return
    rehearsal.rows += [Row("(this host)", finding) for finding in site(chain.cluster) if finding.level != "good"]
    known = capacity.partitions(SINFO_S)
    for plan in chain.plans:
        partition = plan.resources.partition or chain.cluster.slurm.partition
        if partition and not set(partition.split(",")) <= known.keys():
            continue  # sbatch refuses it, see `_refused`
        finding = checks.fits("size", plan.resources, partition, known)
        if finding.level == "bad":
            rehearsal.rows.append(Row(plan.stage, finding))


def start(rehearsal: Rehearsal) -> None:
    """Write the rehearsal's folder and submit it: to this machine's runner, or stage by stage to Slurm.

    A stage follows the jobs that its real counterpart follows, but starts however they end, so that a problem of one
    stage does not hide those of later ones. A stage that Slurm refuses is a row; later stages do not follow it.
    """
    rehearsal.plans = rehearsal.pipeline.write()
    if rehearsal.chain.cluster.executor == "local":
        local.start(rehearsal.run_dir, [plan.stage for plan in rehearsal.plans])
        return
    edges = {plan.stage: [edge.stage for edge in plan.after] for plan in rehearsal.chain.plans}
    known = capacity.partitions(SINFO_S)
    for plan in rehearsal.plans:
        before = [rehearsal.jobs[name] for name in edges.get(plan.stage, ()) if name in rehearsal.jobs]
        after = f"afterany:{':'.join(before)}" if before else ""
        arrays = [Array("", (0,), after=after, resources=plan.resources.model_dump())]
        cluster = rehearsal.pipeline.cluster
        if plan.stage == FINALISER:  # finalisers run outside the container
            cluster = cluster.model_copy(update={"container": None})
        try:
            attempt = submit.submit(plan, cluster, arrays, "rehearsal", None)
        except slurm.SlurmError as error:
            rehearsal.rows.append(_refused(rehearsal, plan, error, known))
        else:
            rehearsal.jobs[plan.stage] = attempt.jobs[0]


def _refused(rehearsal: Rehearsal, plan: Plan, error: Exception, known: Mapping[str, capacity.Partition]) -> Row:
    partition = plan.resources.partition or rehearsal.chain.cluster.slurm.partition
    message = str(error).partition(f"stage {plan.stage}: ")[2] or str(error)
    message = message.removeprefix("sbatch: error: ").removeprefix("Batch job submission failed: ")
    what = f"sbatch refused it: {message}"
    remedy = "correct partition, account, qos, constraint or the size in the cluster file"
    if (fault := capacity.misfit(plan.resources, partition, known)).startswith("partition"):
        remedy = f"{fault}; correct the cluster file"
    return Row(plan.stage, bad("submission", what, remedy))


def record(rehearsal: Rehearsal) -> None:
    """Write `findings.json`, which also marks the rehearsal as ended."""
    on_nodes = {(row.stage, row.finding.text) for row in rehearsal.rows if row.hosts}
    # What a node and this host both lack is reported once.
    rehearsal.rows = [row for row in rehearsal.rows if row.hosts or (row.stage, row.finding.text) not in on_nodes]
    rows = [row.to_json() for row in rehearsal.rows]
    path = rehearsal.run_dir / RESULT
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"time": time.time(), "rows": rows}, indent=1) + "\n")
