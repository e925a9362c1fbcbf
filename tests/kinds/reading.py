"""A kind for tests: each rank reads the shards of a folder, notes which files it has open, and waits for a stop."""

import json
import os
import time
from pathlib import Path

from diagcot.jobs import Context, Result, Unit
from diagcot.shards import Shard, shard_paths


def run(unit: Unit, ctx: Context) -> Result | None:
    """Write `<rank>.json` into the workspace: the node, the images read, and the open shards."""
    images = 0
    for path in shard_paths(Path(ctx.settings["shards"])):
        shard = Shard(path)
        images += len([shard.jpeg(row) for row in range(shard.images)])
        files = [name for name in opened() if name.endswith(".h5")]
        row = {"node": os.environ["SLURMD_NODENAME"], "images": images, "files": files}
        (ctx.workspace / f"{path.stem}.{ctx.rank}.json").write_text(json.dumps(row))
    while not ctx.stopping():
        time.sleep(0.2)
    return None


def opened() -> list[str]:
    """The files that this process has open."""
    descriptors = [Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd")]
    return [str(path.readlink()) for path in descriptors if path.is_symlink()]
