"""How the policy's weights reach the rollout servers: as files in memory, or from GPU to GPU.

Either way the result is checked afterwards: the log-probabilities of policy and servers must agree.
"""

import contextlib
import math
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from diagcot.jobs import Context
from diagcot.jobs.state.files import remove
from diagcot.serving import ServerError
from diagcot.serving.server.owner import process_identity
from diagcot.training.config.grpo_settings import GrpoSettings
from diagcot.training.distributed import process_group
from diagcot.training.families import FAMILIES
from diagcot.training.models import lora
from diagcot.training.rl.policy import Policy
from diagcot.training.rl.rollout_pool import RolloutPool

_PREFIX = "diagcot-weights-"
_BUFFER_BYTES = 2**29  # least size of the buffer that weights travel in, on every GPU of policy and servers


class WeightTransfer(Protocol):
    """The interface between training and serving."""

    def send(self, step: int) -> bool:
        """Send the weights after `step` steps to all servers; False if a stop was requested. A collective.

        Servers that are at work hold their requests for as long as their weights change (`RolloutPool.held`).
        """
        ...

    def close(self) -> None:
        """Remove files or connections."""


def create(policy: Policy, pool: RolloutPool | None, settings: GrpoSettings, ctx: Context) -> WeightTransfer:
    """The transfer that the settings name; `pool` is rank 0's, None on other ranks."""
    if settings.sync == "device":
        refused = _without_device_sync(policy, ctx)
        if not refused:
            return DeviceTransfer(policy, pool, settings, ctx)
        ctx.event("device_sync_refused", reason=refused)
    return FolderTransfer(policy, pool, settings, ctx)


def _without_device_sync(policy: Policy, ctx: Context) -> str:
    """Why weights cannot travel from GPU to GPU; empty if they may."""
    if process_group.device(ctx).type != "cuda":
        return "the policy is not on a GPU"
    family = FAMILIES[policy.engine.module.config.model_type]
    return "" if family.device_sync else f"vLLM knows the weights of {family.title} by other names than the policy"


class FolderTransfer:
    """Model directories, loaded in place (`Server.load`).

    They are in memory (/dev/shm) where everything is on one machine and there is enough of it, else in the workspace.
    Two folders take turns, so that a server never restarts from a folder that is being written.
    """

    def __init__(self, policy: Policy, pool: RolloutPool | None, settings: GrpoSettings, ctx: Context) -> None:
        self._policy, self._pool = policy, pool
        memory = Path("/dev/shm")
        needed = 4 * int(policy.counts["parameters"])
        in_memory = ctx.nodes == 1 and memory.is_dir() and shutil.disk_usage(memory).free > 3 * needed
        self._parent = memory if in_memory else ctx.workspace
        self.root = self._parent / f"{_PREFIX}{process_identity(os.getpid()).replace(':', '-')}"
        if ctx.rank == 0:
            _remove_left_over(self._parent, all_of_them=not in_memory)
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def send(self, step: int) -> bool:
        """See `WeightTransfer.send`."""
        folder = self.root / "ab"[step % 2]
        self._policy.write_weights(folder, self.root)
        loaded = None
        if self._pool:
            with self._pool.held():
                loaded = self._pool.load(folder)
        return bool(process_group.broadcast(loaded))

    def close(self) -> None:
        """Remove the folders."""
        if self._pool:
            remove(self.root, self._parent)


def _remove_left_over(parent: Path, all_of_them: bool) -> None:
    """Remove the folders of killed attempts: in a machine's memory those whose process is gone, in a workspace all.

    A workspace is seen by nodes that know nothing about each other's processes, but only one attempt uses it.
    """
    for folder in parent.glob(f"{_PREFIX}*"):
        process = folder.name.removeprefix(_PREFIX).replace("-", ":")
        own = folder.lstat().st_uid == os.geteuid()
        if all_of_them or (own and process_identity(int(process.split(":")[0])) != process):
            remove(folder, parent)


class DeviceTransfer:
    """vLLM's weight transfer: NCCL to servers on separate nodes, CUDA IPC to servers on the policy's GPUs.

    Either way weights travel in packed buffers of bounded size. Where servers refuse CUDA IPC, the weights travel as files
    from then on, and the event `device_sync_refused` says why. A failure of NCCL ends the stage, since a rank may wait in it.
    """

    def __init__(self, policy: Policy, pool: RolloutPool | None, settings: GrpoSettings, ctx: Context) -> None:
        self._policy, self._pool, self._settings, self._ctx = policy, pool, settings, ctx
        self._client: Any = None  # rank 0's
        self._sender: Any = None
        self._files: FolderTransfer | None = None  # once servers have refused

    def send(self, step: int) -> bool:
        """See `WeightTransfer.send`."""
        if self._files is None:
            with self._pool.held() if self._pool else contextlib.nullcontext():
                refused = self._send()
            if not refused:
                return not process_group.broadcast(self._ctx.stopping())
            self._ctx.event("device_sync_refused", reason=refused)
            self._files = FolderTransfer(self._policy, self._pool, self._settings, self._ctx)
        return self._files.send(step)

    def _send(self) -> str:
        """Send the weights; why a server refused them, empty if none did. A collective."""
        if self._sender is None:
            self._sender = self._connect()
            if refused := self._refused():
                return refused
        self._sender.send_weights()
        if refused := self._refused():
            return refused
        if self._pool:
            self._pool.post("/collective_rpc", bodies=[{"method": "repack_tied_head"}])
            self._pool.post("/reset_prefix_cache", "/reset_mm_cache", "/reset_encoder_cache")
            self._pool.mark_pushed()
        return ""

    def _refused(self) -> str:
        return str(process_group.broadcast(self._client.refused if self._client else ""))

    def _connect(self) -> Any:
        from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerWeightTransferEngine
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo, NCCLTrainerWeightTransferEngine

        server, rank = self._settings.server, self._ctx.rank
        gpus = self._ctx.gpus * self._ctx.local_world_size // self._settings.engines
        width = server.tensor_parallel or max(1, gpus // (server.data_parallel or 1))  # GPUs of a replica
        replicas = (server.data_parallel or max(1, gpus // width)) * (len(self._pool.servers) if self._pool else 0)
        source = weight_source(self._policy.engine.module)
        ipc = not self._settings.rollout_nodes
        self._client = transfer_client(self._pool, replicas, width, keep_going=ipc) if self._pool else None
        if ipc:
            init = ipc_init(source.metadata(), rank)
            return IPCTrainerWeightTransferEngine.trainer_init(init, client=self._client, source=source)
        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        init = NCCLTrainerInitInfo(
            rank=rank,
            master_address=socket.gethostbyname(socket.gethostname()),
            master_port=port,
            world_size=1 + width * replicas,
            packed=True,
        )
        return NCCLTrainerWeightTransferEngine.trainer_init(init, client=self._client, source=source)

    def close(self) -> None:
        """End the connections, remove files."""
        if self._sender is not None:
            self._sender.shutdown()
        if self._files is not None:
            self._files.close()


def ipc_init(parameters: Sequence[Any], rank: int) -> Any:
    """vLLM's settings of a CUDA IPC transfer of these parameters (its `ParamMeta`): packed into one buffer at a time.

    Unpacked, every gathered parameter would stay on every GPU until the end. vLLM refuses a parameter that is larger than
    the buffer, as the embeddings of a 7B model are larger than its default of 1 GiB.
    """
    from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

    largest = max(math.prod(parameter.shape) * parameter.dtype.itemsize for parameter in parameters)
    return IPCTrainerInitInfo(rank=rank, packed=True, packed_buffer_size_bytes=max(_BUFFER_BYTES, largest))


def transfer_client(pool: RolloutPool, replicas: int, width: int, keep_going: bool) -> Any:
    """vLLM's client of its transfer routes, over the sockets of all `replicas`, each of `width` GPUs.

    keep_going: keep the first refusal of a server in `refused` instead of raising it, because other ranks wait for this one
    in every part of a CUDA IPC transfer.
    """
    from vllm.distributed.weight_transfer.clients import HTTPVLLMWeightSyncClient

    class PoolClient(HTTPVLLMWeightSyncClient):
        refused = ""

        def _post(self, path: str, json: Any = None) -> None:
            bodies = [json]
            if json and "rank_offset" in json.get("init_info", {}):  # every replica has different ranks
                first = json["init_info"]["rank_offset"]
                bodies = [
                    {"init_info": {**json["init_info"], "rank_offset": first + index * width}}
                    for index in range(replicas)
                ]
            if self.refused and path != "finish_weight_update":  # an update that has begun is ended
                return
            try:
                pool.post(f"/{path}", bodies=bodies)
            except ServerError as error:
                if not keep_going:
                    raise
                self.refused = self.refused or str(error)

    return PoolClient("")


def weight_source(module: Any) -> Any:
    """The module's weights as vLLM's transfer reads them, an adapter added to its base.

    Where ZeRO-3 has divided them they are gathered one by one.
    """
    from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource

    class Weights(WeightSource):
        def metadata(self) -> list[Any]:
            return [ParamMeta(weight.name, weight.dtype, weight.shape) for weight in lora.served_weights(module)]

        def __iter__(self) -> Iterator[tuple[str, Any]]:
            import deepspeed

            for weight in lora.served_weights(module):
                divided = hasattr(weight.base, "ds_id")
                with deepspeed.zero.GatheredParameters(weight.parameters, enabled=divided):
                    yield weight.name, weight.value()

    return Weights()
