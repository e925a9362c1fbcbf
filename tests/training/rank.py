"""One rank of a kind, as its own process: `rank.py JOB.json` with the variables of torch.distributed set."""

import importlib
import json
import os
import sys
import time
from pathlib import Path

started = time.monotonic()


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    sys.path.insert(0, str(Path(__file__).parent))
    import films

    from diagcot.jobs.context import Unit
    from diagcot.jobs.testing import context, run_unit
    from diagcot.training import batch

    if job.get("drawn", True):
        batch.ShardSource = films.DrawnSource
    kind = importlib.import_module(job["kind"])
    print(f"imports {time.monotonic() - started:.1f} s", flush=True)
    ranks = {"rank": int(os.environ["RANK"]), "world_size": int(os.environ["WORLD_SIZE"]), "cpus": 1}
    ranks |= {"local_rank": ranks["rank"], "local_world_size": ranks["world_size"]}
    # Further stages of the same process, each with its own changes: one start of the ranks serves them all.
    port = int(os.environ["MASTER_PORT"])
    for index, (stage, changes) in enumerate({job["stage"]: {}, **job.get("further", {})}.items()):
        os.environ["MASTER_PORT"] = str(port + index)  # the store of the last one may still listen
        settings = job["settings"] | changes
        ctx = context(Path(job["root"]), settings, inputs=job["inputs"], stage=stage, **ranks)
        if stop := job.get("stop_after"):
            ctx.on_progress = lambda row, ctx=ctx, stop=stop: ctx.stop.set() if row["done"] >= stop else None
        result = run_unit(kind, Unit("model"), ctx)
        print(f"{'stopped' if result is None else 'done'} {stage} {time.monotonic() - started:.1f} s", flush=True)


if __name__ == "__main__":
    main()
