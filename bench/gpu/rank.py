"""One rank of a part: python -m bench.gpu.rank SHAPE PART FOLDER; rank 0 writes the part's figures to FOLDER/row.json."""

import json
import os
import sys
from pathlib import Path

from bench.gpu import servers, training, weights


def main(shape: str, part: str, folder: Path) -> None:
    """Measure `part`."""
    import torch

    from diagcot.jobs.testing import context
    from diagcot.training.distributed import process_group

    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    ctx = context(
        folder / f"rank{rank}", rank=rank, world_size=world, local_rank=rank, local_world_size=world,
        gpus=int(torch.cuda.is_available()), cpus=max(1, (os.cpu_count() or 1) // world), attempt=os.environ["MASTER_PORT"],
    )  # fmt: skip
    with process_group.connected(ctx):
        if part in training.STEPS:
            row = training.measure(part, shape, ctx)
        else:
            row = {"checkpoint": weights.checkpoint, "merge": weights.merge, "server": servers.server}[part](shape, ctx)
    if rank == 0:
        (folder / "row.json").write_text(json.dumps(row))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
