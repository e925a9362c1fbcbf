"""Servers on the policy's GPUs: when they start, sleep, get weights and wake, against a scripted server."""

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from diagcot.jobs import Context, Unit
from diagcot.serving import ServerError
from tests.fakes import grpo as scripted
from tests.fakes.serving import calls, starts

FILES = ["/collective_rpc", "/collective_rpc", "/reset_prefix_cache", "/reset_mm_cache", "/reset_encoder_cache"]
PUSHED = FILES[1:]


class OnceAwake(threading.Event):
    """A request to stop that comes when the server is awake again."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root

    def is_set(self) -> bool:
        return any("kv_cache" in path for _, path, _ in calls(self.root))


@pytest.fixture
def stage(request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Context]]:
    """The state of a GRPO stage whose servers are scripted and count as being on the policy's GPU, and its context."""
    from diagcot.training.kinds import grpo
    from diagcot.training.rl import rollout_pool

    for module in (rollout_pool, grpo):
        monkeypatch.setattr(module, "shares_gpus", lambda settings, ctx: not settings.rollout_nodes)
    with scripted.stage(tmp_path, monkeypatch, getattr(request, "param", {})) as made:
        yield made


def paths(root: Path, since: int = 0) -> list[str]:
    return [path for _, path, _ in calls(root)[since:]]


def loop_of(state: Any, ctx: Context, stack: contextlib.ExitStack) -> Any:
    """The loop of a stage whose servers sleep, as after its start."""
    from diagcot.training.rl.loop import GrpoLoop

    assert state.pool.ready()
    state.pool.sleep()
    return GrpoLoop(state, ctx, stack)


def test_the_policy_is_loaded_beside_sleeping_servers_which_then_get_its_weights_and_wake(
    stage: tuple[Any, Context], tmp_path: Path
) -> None:
    from diagcot.training.kinds import grpo

    state, ctx = stage
    ctx.stop = OnceAwake(tmp_path)
    assert grpo.run(Unit("model"), state, ctx) is None
    at = {row["event"]: row["time"] for row in events(ctx)}
    seen = calls(tmp_path)
    first = [*["/weight_checker"] * 3, *FILES, "/weight_checker"]  # the first change of weights is verified
    assert paths(tmp_path) == ["/sleep?level=2", "/wake_up?tags=weights", *first, "/wake_up?tags=kv_cache"]
    assert at["server_ready"] < seen[0][0] < at["training"] < seen[1][0]

    # A later step: they sleep again, and get weights before their cache even if those have not changed.
    ctx.stop = threading.Event()
    with contextlib.ExitStack() as stack:
        loop = loop_of(state, ctx, stack)
        for step in (0, 0, 1):
            since = len(calls(tmp_path))
            assert loop.served.update(step)
            assert paths(tmp_path, since) == ["/wake_up?tags=weights", *FILES, "/wake_up?tags=kv_cache"]
            since = len(calls(tmp_path))
            assert loop.served.update(step) and paths(tmp_path, since) == []
            loop.served.sleep()
            assert paths(tmp_path, since) == ["/sleep?level=2"]
    assert starts(tmp_path) == 1


def events(ctx: Context) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (ctx.stage_dir / "events.jsonl").read_text().splitlines()]


def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that is host memory: what vLLM's sender asks of the device. Messages hold the buffer, so it is a small one."""
    import torch

    from diagcot.training.rl import weight_transfer

    monkeypatch.setattr(weight_transfer, "_BUFFER_BYTES", 1 << 16)
    made = torch.empty
    properties = type("Properties", (), {"uuid": "GPU-0"})
    stream = type("Stream", (), {"synchronize": lambda self: None})
    monkeypatch.setattr(
        torch,
        "empty",
        lambda *size, **kind: made(*size, **kind | ({"device": "cpu"} if kind.get("device") == "cuda" else {})),
    )
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "current_stream", stream)
    monkeypatch.setattr(torch.cuda, "ipc_collect", lambda: None)


def by_device(loop: Any, state: Any, ctx: Context) -> Any:
    """The served weights of a loop with `sync: device`."""
    from diagcot.training.rl import weight_transfer
    from diagcot.training.rl.served_weights import ServedWeights

    settings = state.settings.model_copy(update={"sync": "device"})
    transfer = weight_transfer.DeviceTransfer(loop.policy, state.pool, settings, ctx)
    return ServedWeights(loop.policy, transfer, state.curriculum, settings, ctx, state.pool, loop.collector)


def test_weights_travel_by_device_in_messages_that_vllm_reads(
    stage: tuple[Any, Context], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("vllm")
    import torch
    from vllm.distributed.weight_transfer.ipc_engine import IPCWeightTransferInitInfo, IPCWeightTransferUpdateInfo
    from vllm.distributed.weight_transfer.packed_tensor import unpack_tensor

    fake_cuda(monkeypatch)
    state, ctx = stage
    with contextlib.ExitStack() as stack:
        loop = loop_of(state, ctx, stack)
        served = by_device(loop, state, ctx)
        since = len(calls(tmp_path))
        assert served.update(0)
        own = {name: parameter.data.clone() for name, parameter in loop.policy.engine.module.named_parameters()}
        sent = calls(tmp_path)[since:]
        updates = [json.loads(body)["update_info"] for _, path, body in sent if path == "/update_weights"]
        assert len(updates) > 3
        assert [path for _, path, _ in sent] == [
            "/wake_up?tags=weights", "/init_weight_transfer_engine", "/start_weight_update",
            *["/update_weights"] * len(updates), "/finish_weight_update", *PUSHED, "/wake_up?tags=kv_cache",
        ]  # fmt: skip
        (init,) = (json.loads(body)["init_info"] for _, path, body in sent if path == "/init_weight_transfer_engine")
        assert IPCWeightTransferInitInfo(**init).packed
        with pytest.raises(ValueError, match="VLLM_ALLOW_INSECURE_SERIALIZATION"):
            IPCWeightTransferUpdateInfo(**updates[0])
        monkeypatch.setenv("VLLM_ALLOW_INSECURE_SERIALIZATION", "1")
        largest = max(tensor.numel() * tensor.element_size() for tensor in own.values())
        for update in updates:
            info = IPCWeightTransferUpdateInfo(**update)
            (handle,), sizes = info.ipc_handles.values(), info.tensor_sizes
            filled = sum(sizes)
            assert filled <= largest  # the embeddings, which are larger than the buffer's least size
            packed = torch.tensor([], dtype=torch.uint8).set_(handle[1]._untyped_storage)[:filled]
            dtypes = [getattr(torch, name) for name in info.dtype_names]
            for name, tensor in unpack_tensor(packed, info.names, info.shapes, dtypes, sizes):
                same = torch.equal(tensor, own.pop(name))
                assert same, name
        assert not list(own)


@pytest.mark.parametrize(
    "stage", [{"refuse_calls": {"/update_weights": [500, "Refusing to deserialize"]}}], indirect=True
)
def test_servers_that_refuse_device_sync_get_files_from_then_on(
    stage: tuple[Any, Context], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("vllm")
    fake_cuda(monkeypatch)
    state, ctx = stage
    with contextlib.ExitStack() as stack:
        loop = loop_of(state, ctx, stack)
        with pytest.raises(ServerError, match=r"/update_weights: HTTP 500 .*Refusing to deserialize"):
            state.pool.post("/update_weights")
        served = by_device(loop, state, ctx)
        since = len(calls(tmp_path))
        assert served.update(0)
        seen = paths(tmp_path, since)
        assert seen.count("/update_weights") == 1 and seen.count("/finish_weight_update") == 1
        assert seen[-1] == "/wake_up?tags=kv_cache" and "reload_weights" in "".join(
            body for *_, body in calls(tmp_path)
        )
        (refused,) = (row for row in events(ctx) if row["event"] == "device_sync_refused")
        assert "Refusing to deserialize" in refused["reason"]
        served.sleep()
        since = len(calls(tmp_path))
        assert served.update(1)
        assert paths(tmp_path, since) == ["/wake_up?tags=weights", *FILES, "/wake_up?tags=kv_cache"]
    assert starts(tmp_path) == 1


def test_without_a_gpu_device_sync_means_files(stage: tuple[Any, Context]) -> None:
    from diagcot.training.rl import weight_transfer

    state, ctx = stage
    policy: Any = type("Policy", (), {"counts": {"parameters": 1}})()
    settings = state.settings.model_copy(update={"sync": "device"})
    transfer = weight_transfer.create(policy, state.pool, settings, ctx)
    transfer.close()
    assert isinstance(transfer, weight_transfer.FolderTransfer)
    assert [row["reason"] for row in events(ctx) if row["event"] == "device_sync_refused"]
