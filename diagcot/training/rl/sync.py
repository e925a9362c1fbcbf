"""How the policy's weights reach the rollout servers: as files in memory, or from GPU to GPU.

Either way what counts is checked afterwards: the log-probabilities of policy and servers must agree.
"""

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from diagcot.jobs import Context
from diagcot.serving.server.owner import process_identity
from diagcot.serving.server.weights import tied
from diagcot.training.config.grpo_settings import GrpoSettings
from diagcot.training.distributed import process_group
from diagcot.training.rl.policy import Policy
from diagcot.training.rl.rollout_pool import Crew


class Channel(Protocol):
    """The seam between training and serving."""

    def send(self, step: int) -> bool:
        """Bring the present weights to all servers, idle at the moment; False if a stop was asked for. A collective."""
        ...

    def close(self) -> None: ...


def channel(policy: Policy, crew: Crew | None, settings: GrpoSettings, ctx: Context) -> Channel:
    """The channel that the settings ask for; `crew` is rank 0's."""
    return (Device if settings.sync == "device" else Folder)(policy, crew, settings, ctx)


class Folder:
    """Model directories, loaded in place (`Server.load`; a model with tied embeddings restarts its servers).

    They lie in memory (/dev/shm) where all is on one machine and it is roomy, else in the workspace. Two folders in
    turn, so that a server never restarts from a folder that is being written.
    """

    def __init__(self, policy: Policy, crew: Crew | None, settings: GrpoSettings, ctx: Context) -> None:
        self._policy, self._crew = policy, crew
        memory = Path("/dev/shm")
        needed = 4 * int(policy.counts["parameters"])
        roomy = ctx.nodes == 1 and memory.is_dir() and shutil.disk_usage(memory).free > 3 * needed
        self.root = (
            memory if roomy else ctx.workspace
        ) / f"diagcot-weights-{process_identity(os.getpid()).replace(':', '-')}"
        if ctx.rank == 0:
            _sweep(self.root.parent, alone=not roomy)
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def send(self, step: int) -> bool:
        folder = self.root / "ab"[step % 2]
        self._policy.publish(folder)
        return bool(process_group.broadcast(self._crew.load(folder) if self._crew else None))

    def close(self) -> None:
        if self._crew:
            shutil.rmtree(self.root, ignore_errors=True)


def _sweep(root: Path, alone: bool) -> None:
    """Remove what killed attempts left in `root`: of a machine's memory what no living process made, else all.

    A workspace is seen by nodes that know nothing of each other's processes; an attempt is `alone` in it.
    """
    for left in root.glob("diagcot-weights-*"):
        process = left.name.removeprefix("diagcot-weights-").replace("-", ":")
        if alone or (process_identity(int(process.split(":")[0])) != process and os.access(left, os.W_OK)):
            shutil.rmtree(left, ignore_errors=True)


class Device:
    """vLLM's weight transfer: NCCL to servers on nodes of their own, CUDA IPC to servers on the policy's GPUs."""

    def __init__(self, policy: Policy, crew: Crew | None, settings: GrpoSettings, ctx: Context) -> None:
        if tied(policy.base):
            raise ValueError("sync: device leaves the output of a model with tied embeddings stale; use sync: folder")
        self._policy, self._crew, self._settings, self._ctx = policy, crew, settings, ctx
        self._engine: Any = None

    def send(self, step: int) -> bool:
        if self._engine is None:
            self._engine = self._connect()
        self._engine.send_weights()
        if self._crew:
            self._crew.post("/reset_prefix_cache", "/reset_mm_cache", "/reset_encoder_cache")
            self._crew.pushed()
        return True

    def _connect(self) -> Any:
        from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo, IPCTrainerWeightTransferEngine
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo, NCCLTrainerWeightTransferEngine

        server, rank = self._settings.server, self._ctx.rank
        gpus = self._ctx.gpus * self._ctx.local_world_size // self._settings.engines
        width = server.tensor_parallel or max(1, gpus // (server.data_parallel or 1))  # workers of a server
        servers = (server.data_parallel or max(1, gpus // width)) * (len(self._crew.engines) if self._crew else 0)
        client = routes(self._crew, servers, width) if self._crew else None
        source = weights(self._policy.engine.module)
        if not self._settings.rollout_nodes:
            return IPCTrainerWeightTransferEngine.trainer_init(
                IPCTrainerInitInfo(rank=rank), client=client, source=source
            )
        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        init = NCCLTrainerInitInfo(
            rank=rank,
            master_address=socket.gethostbyname(socket.gethostname()),
            master_port=port,
            world_size=1 + width * servers,
        )
        return NCCLTrainerWeightTransferEngine.trainer_init(init, client=client, source=source)

    def close(self) -> None:
        if self._engine is not None:
            self._engine.shutdown()


def routes(crew: Crew, servers: int, width: int) -> Any:
    """vLLM's client of its transfer routes, over the sockets of all `servers`, each of `width` GPUs."""
    from vllm.distributed.weight_transfer.clients import HTTPVLLMWeightSyncClient

    class Routes(HTTPVLLMWeightSyncClient):
        def _post(self, path: str, json: Any = None) -> None:
            bodies = [json]
            if json and "rank_offset" in json.get("init_info", {}):  # every server has ranks of its own
                first = json["init_info"]["rank_offset"]
                bodies = [
                    {"init_info": {**json["init_info"], "rank_offset": first + at * width}} for at in range(servers)
                ]
            crew.post(f"/{path}", bodies=bodies)

    return Routes("")  # type: ignore[no-untyped-call]


def weights(module: Any) -> Any:
    """The module's parameters as vLLM's transfer reads them, gathered one by one where ZeRO-3 has cut them up."""
    from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource

    class Parameters(WeightSource):
        def metadata(self) -> list[Any]:
            return [
                ParamMeta(name, one.dtype, tuple(getattr(one, "ds_shape", one.shape)))
                for name, one in module.named_parameters()
            ]

        def __iter__(self) -> Iterator[tuple[str, Any]]:
            import deepspeed

            for name, one in module.named_parameters():
                with deepspeed.zero.GatheredParameters([one], enabled=hasattr(one, "ds_id")):
                    yield name, one.data

    return Parameters()
