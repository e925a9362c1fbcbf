"""Checks of files: folders shared and writable, space, private permissions, models and collections on disk."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from diagcot.jobs import Context, UserError
from diagcot.jobs.state.files import remove
from diagcot.jobs.summary import LAG_S
from diagcot.preflight.finding import Finding, bad, good, note
from diagcot.preflight.rehearsal.stage import RehearsedStage

HOST = "host"  # the probe file of the submitting host
PROBE_BYTES = 1 << 20  # large enough to fail where a quota is used up
SLOW_S = 5  # a file of another node that becomes visible later than this is reported
SKEW_S = 5
SMALLEST_GB = 1
STATE_RATIO = 7  # a checkpoint holds 14 bytes a parameter (bf16 weights, fp32 copy, two moments), the model 2
FILES = 10_000
SHARED = "`roots` of the cluster file have to lie on storage that all nodes and this host share, writable for you"


def folders(stage: RehearsedStage, ctx: Context, lag_s: float = LAG_S) -> Iterator[Finding]:
    """Whether logs, shards and models are writable here, and files of other nodes and the host become visible in time."""
    problems = False
    expected: list[Path] = []
    for name, root in stage.roots.items():
        try:
            skew = _write(root / stage.probe, f"{ctx.stage}.{ctx.node_rank}")
        except OSError as error:
            problems = True
            yield bad("folders", f"{name}: {_why(root, error)}", SHARED)
            continue
        if abs(skew) > SKEW_S:
            text = f"this node's clock and that of the file system of {root} differ by {skew:+.0f} s"
            yield note("clock", text, "ask the administrators; times in logs will not agree")
        expected += [root / stage.probe / HOST] if name in stage.written else []
        expected += [root / stage.probe / f"{ctx.stage}.{node}" for node in range(ctx.nodes)]
    waited, unseen = _wait(expected, lag_s)
    yield from _not_visible(stage, unseen, lag_s)
    target = _closed_target(stage)
    if target and not problems and not unseen:
        yield target
    elif not problems and not unseen:
        summary = f"{', '.join(stage.roots)}: shared and writable"
        if waited > SLOW_S:
            yield note("folders", f"{summary}, but files of other nodes become visible only after {waited:.0f} s")
        else:
            yield good("folders", summary)


def _not_visible(stage: RehearsedStage, paths: list[Path], lag_s: float) -> Iterator[Finding]:
    """One finding for each host whose probe files were not visible in time."""
    for name in dict.fromkeys(path.name for path in paths):
        places = ", ".join(str(path.parent.parent) for path in paths if path.name == name)
        whose = "the submitting host" if name == HOST else f"node {name.rpartition('.')[2]} of this job"
        yield bad("folders", f"a file of {whose} was not visible here within {lag_s:.0f} s: {places}", SHARED)
    for root in stage.roots.values():
        if root / stage.probe / HOST in paths:
            remove(root / stage.probe, root)  # a folder of this node alone, which nobody else removes


def _closed_target(stage: RehearsedStage) -> Finding | None:
    """The finding for a product or workspace that cannot be written here, if there is one."""
    for target in (stage.output, stage.workspace):
        nearest = next(path for path in (target, *target.parents) if path.exists())
        if not os.access(nearest, os.W_OK | os.X_OK):
            return bad("folders", f"{nearest} is not writable here, where {target} belongs", SHARED)
    return None


def _write(folder: Path, name: str) -> float:
    """Write a probe file; how far this node's clock is ahead of the file system's, in seconds."""
    folder.parent.stat()  # a root that is missing here must not be created: it would be visible on this node alone
    folder.mkdir(exist_ok=True)
    path = folder / name
    with path.open("wb") as out:
        out.write(os.urandom(PROBE_BYTES))
        out.flush()
        os.fsync(out.fileno())
    return time.time() - path.stat().st_mtime


def _why(root: Path, error: OSError) -> str:
    if not root.exists():
        return f"{root} does not exist on this node"
    return f"cannot write to {root}: {error.strerror or error}"


def _wait(paths: list[Path], lag_s: float) -> tuple[float, list[Path]]:
    """Seconds until all are there, and those that were not in time."""
    began = time.monotonic()
    while unseen := [path for path in paths if not path.exists()]:
        if time.monotonic() - began > lag_s:
            break
        time.sleep(0.2)
    return time.monotonic() - began, unseen


def space(stage: RehearsedStage, ctx: Context) -> Iterator[Finding]:
    """Free space where the stage writes, compared with what it will write as far as that is known beforehand."""
    place = next(path for path in (stage.output, *stage.output.parents) if path.exists())
    free = shutil.disk_usage(place).free / 1e9
    least, wanted = SMALLEST_GB + stage.weights_gb, SMALLEST_GB + stage.weights_gb
    training = stage.settings.get("deepspeed")
    if training:
        # While the newest checkpoint is written, the ones that are kept are still there.
        wanted += stage.weights_gb * STATE_RATIO * (int(training.get("keep", 0)) + 1)
    if free < least:
        yield bad(
            "space",
            f"{free:.1f} GB free at {place}, at least {least:.1f} are needed",
            "remove old runs, or ask for more",
        )
    elif free < wanted:
        text = f"{free:.0f} GB free at {place}; with all weights trained, model and checkpoints take {wanted:.0f}"
        yield note("space", text, "lower `keep` of its deepspeed settings, or free space")
    elif 0 < os.statvfs(place).f_favail < FILES:
        yield note("space", f"only {os.statvfs(place).f_favail} more files fit at {place}", "remove old runs")
    else:
        yield good("space", f"{free:.0f} GB free at {place}")


def privacy(stage: RehearsedStage, ctx: Context) -> Iterator[Finding]:
    """Whether files that a worker writes are closed to others; some file systems add rights by default ACLs."""
    open_to = []
    for name, root in stage.roots.items():
        path = root / stage.probe / f"{ctx.stage}.{ctx.node_rank}"
        if path.exists() and path.stat().st_mode & 0o077:
            open_to.append(f"{name} ({root})")
    if open_to:
        text = f"files are readable by others in {', '.join(open_to)} despite umask 077"
        yield note("privacy", text, "with credentialed data: remove the default ACL (`getfacl`), or use another folder")
    else:
        yield good("privacy", "files are closed to others")


def model(stage: RehearsedStage, ctx: Context) -> Iterator[Finding]:
    """The pretrained model that the settings name, as this node sees it."""
    from diagcot.training.models.pretrained import weight_paths

    place = stage.settings.get("pretrained")
    if place is None:
        yield good("model", "built by the chain")
        return
    try:
        adapter = stage.settings.get("adapter")
        names = weight_paths(
            Path(place), Path(adapter) if adapter else None
        )  # reads in each file: it may be listed and yet not be readable here
    except (UserError, OSError) as error:
        yield bad("model", str(error), "the folder has to be readable on the compute nodes")
        return
    yield good("model", f"{len(names)} weight file{'s' * (len(names) > 1)} in {place}")


def data(stage: RehearsedStage, ctx: Context) -> Iterator[Finding]:
    """The collections that the settings name, as this node sees them."""
    from diagcot.shards import settings as shards

    try:
        shards.check(shards.BuildSettings.model_validate(stage.settings))
    except (UserError, OSError) as error:
        yield bad("data", " ".join(str(error).split()), "the folders have to be readable on the compute nodes")
        return
    yield good("data", "every collection is complete")
