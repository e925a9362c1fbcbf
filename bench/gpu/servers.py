"""A vLLM server as GRPO uses it: start, rollouts, sleep at level 2, new weights, rollouts."""

import io
import time
from pathlib import Path
from typing import Any

from bench.gpu.shapes import GRIDS, directory

LIMIT_S = 600  # of each call; `--minutes` bounds them all


def server(shape: str, ctx: Any) -> dict[str, float]:
    """Seconds of each phase; on GPUs also the memory that a sleeping engine leaves free. The CPU build cannot sleep."""
    import torch

    from diagcot.serving import Request, ServerSettings
    from diagcot.training.distributed import process_group
    from diagcot.training.rl.actors import RolloutServer, context_fields

    where, card = process_group.device(ctx), bool(ctx.gpus)
    precision = "bf16" if card else "fp32"
    folder = Path(ctx.workspace)
    models = [directory(shape, folder / name, where, precision) for name in ("one", "two")]
    if card:
        torch.cuda.empty_cache()
    settings = ServerSettings(
        max_model_len=2048, max_num_seqs=16, images=1, gpu_memory_utilization=0.5, startup_timeout_s=LIMIT_S,
        extra=("--enable-sleep-mode",) if card else (),
    )  # fmt: skip
    figures: dict[str, float] = {}
    last = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal last
        now = time.perf_counter()
        figures[name], last = now - last, now

    running = RolloutServer(models[0], settings, context_fields(ctx), 0, 1)
    try:
        lap("start_s")
        request = Request(
            id="0", messages=(("user", "<image>Look."),), images=(_image(shape),), max_tokens=64, temperature=1.0, n=8,
            logprobs=0, return_token_ids=True, seed=1,
        )  # fmt: skip
        first = dict(running.generate([request]))["0"]
        lap("rollouts_s")
        if card:
            running.post(["/sleep?level=2"], [None], LIMIT_S)
            lap("sleep_s")
            figures["free_while_asleep_gb"] = torch.cuda.mem_get_info(where)[0] / 1e9
            running.post(["/wake_up?tags=weights"], [None], LIMIT_S)
            lap("wake_weights_s")
        running.load(models[1])
        lap("sync_s")
        if card:
            running.post(["/wake_up?tags=kv_cache"], [None], LIMIT_S)
            lap("wake_cache_s")
        second = dict(running.generate([request]))["0"]
        lap("rollouts_again_s")
    finally:
        running.close()
    for reply in (first, second):
        if reply.error or len(reply.texts) != request.n:
            raise RuntimeError(f"the rollouts failed: {reply.error or f'{len(reply.texts)} of {request.n} answers'}")
    figures["tokens"] = float(sum(map(len, first.token_ids or ())))
    return figures


def _image(shape: str) -> bytes:
    from PIL import Image

    height, width = GRIDS[shape]
    data = io.BytesIO()
    Image.effect_noise((14 * width, 14 * height), 60).save(data, "JPEG")
    return data.getvalue()
