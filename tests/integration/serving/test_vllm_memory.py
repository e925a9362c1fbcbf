"""vLLM's own measurement of a GPU's memory, on a GPU that is a table, while the policy takes memory of it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from diagcot.serving import ServerSettings, capacity
from diagcot.serving.server import command
from diagcot.serving.server.placement import Placement

pytest.importorskip("vllm")
pytestmark = pytest.mark.heavy

TOTAL, WEIGHTS, ACTIVATIONS, POLICY = 80 * 10**9, 166 * 10**8, 2 * 10**9, 27 * 10**9


class Gpu:
    """Bytes in use, by vLLM's allocator and by others."""

    def __init__(self) -> None:
        self.own = self.peak = 0
        self.others = 5 * 10**8

    def free(self) -> int:
        return TOTAL - self.own - self.others


def available(monkeypatch: pytest.MonkeyPatch, meanwhile: int, kv_cache_bytes: int | None = None) -> int:
    """Bytes that vLLM's worker finds for its KV cache if others take `meanwhile` bytes during its profile run."""
    import torch
    from vllm.config import VllmConfig
    from vllm.platforms import current_platform
    from vllm.utils import mem_utils
    from vllm.v1.worker import gpu_worker
    from vllm.v1.worker.utils import request_memory

    gpu = Gpu()
    stats = lambda device=None: {"allocated_bytes.all.peak": gpu.peak, "allocated_bytes.all.current": gpu.own}  # noqa: E731
    monkeypatch.setattr(torch.accelerator, "get_memory_info", lambda device=None: (gpu.free(), TOTAL))
    monkeypatch.setattr(torch.accelerator, "memory_stats", stats)
    for name, value in {
        "empty_cache": lambda: None,
        "reset_peak_memory_stats": lambda device=None: None,
        "memory_reserved": lambda device=None: gpu.own,
        "memory_allocated": lambda device=None: gpu.own,
        "max_memory_allocated": lambda device=None: gpu.peak,
    }.items():
        monkeypatch.setattr(torch.accelerator, name, value, raising=False)
    monkeypatch.setattr(type(current_platform), "is_integrated_gpu", lambda *_: False, raising=False)
    before = mem_utils.MemorySnapshot(device=torch.device("cpu"))
    cache = SimpleNamespace(gpu_memory_utilization=0.6, kv_cache_memory_bytes=kv_cache_bytes)
    gpu.own = gpu.peak = WEIGHTS

    def profile_run(randomize_inputs: bool) -> None:
        gpu.peak = WEIGHTS + ACTIVATIONS
        gpu.others += meanwhile

    worker: Any = object.__new__(gpu_worker.Worker)
    worker.cache_config, worker.init_snapshot = cache, before
    worker.requested_memory = request_memory(before, cache)
    worker.vllm_config = VllmConfig()
    worker.model_runner = SimpleNamespace(
        profile_run=profile_run, model_memory_usage=WEIGHTS, profile_cudagraph_memory=lambda: 0
    )
    worker.model_config, worker.parallel_config = (
        SimpleNamespace(multimodal_config=None),
        worker.vllm_config.parallel_config,
    )
    monkeypatch.setattr(gpu_worker, "maybe_apply_startup_plan", lambda worker: None)
    return int(worker.determine_available_memory())


def test_memory_that_the_policy_takes_meanwhile_is_charged_to_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = available(monkeypatch, 0)
    assert alone == pytest.approx(0.6 * TOTAL - WEIGHTS - ACTIVATIONS, rel=1e-3)
    assert available(monkeypatch, POLICY) == pytest.approx(alone - POLICY, rel=1e-3) and alone < POLICY + 3 * 10**9
    with pytest.raises(AssertionError, match="release GPU memory while vLLM is profiling"):
        available(monkeypatch, -WEIGHTS - POLICY)


def test_a_cache_whose_size_is_given_does_not_depend_on_who_else_takes_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text("{}")
    with (tmp_path / "model.safetensors").open("wb") as out:
        out.truncate(WEIGHTS)  # a hole: no disk is used
    monkeypatch.setattr(capacity, "gpu_memory", lambda names: TOTAL)
    monkeypatch.setattr(command, "on_cpu", lambda: False)
    given = ServerSettings(gpu_memory_utilization=0.6)
    one = Placement(gpus=("0",))
    assert "--kv-cache-memory-bytes" not in command.arguments(capacity.fitted(given, tmp_path, one, False), one)
    arguments = command.arguments(capacity.fitted(given, tmp_path, one, True), one)
    size = int(arguments[arguments.index("--kv-cache-memory-bytes") + 1])
    assert 0 <= 0.6 * TOTAL - WEIGHTS - capacity.RESERVE_BYTES - size < 2**30
    assert available(monkeypatch, 0, size) == available(monkeypatch, POLICY, size) == size
