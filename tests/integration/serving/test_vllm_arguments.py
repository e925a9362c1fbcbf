"""Every command line of a server that we start, read by vLLM's own parser and turned into its own configuration classes."""

import sys
from pathlib import Path
from typing import Any

import pytest

from diagcot.jobs.testing import context
from diagcot.metrics.green import CHAT_TEMPLATE
from diagcot.serving import ServerSettings
from diagcot.serving.server import command
from diagcot.serving.server.placement import Placement
from diagcot.training.config.grpo_settings import GrpoSettings
from diagcot.training.rl import rollout_pool

pytest.importorskip("vllm")
pytestmark = pytest.mark.heavy

GPU = Placement(gpus=("0",))
GRPO: dict[str, Any] = {"reward": {"components": {"green": 0.5, "judge": 0.5}}}


def grpo(ctx: Any, **changes: Any) -> ServerSettings:
    return rollout_pool.server_settings(GrpoSettings.model_validate(GRPO | changes), ctx)


def scoring(ctx: Any, name: str) -> ServerSettings:
    return rollout_pool.scoring_settings(name, GrpoSettings.model_validate(GRPO), ctx)


SERVERS: dict[str, Any] = {
    "chat": lambda ctx: (ServerSettings(), GPU),
    "tensor parallel": lambda ctx: (ServerSettings(max_num_seqs=96), Placement(gpus=("0", "1"), tensor_parallel=2)),
    "tensor parallel over 4": lambda ctx: (ServerSettings(), Placement(gpus=("0", "1", "2", "3"), tensor_parallel=4)),
    "several nodes": lambda ctx: (
        ServerSettings(pipeline_parallel=2),
        Placement(gpus=("0",), nodes=2, node_rank=1, master=("10.0.0.1", 29500)),
    ),
    "quantised": lambda ctx: (ServerSettings(quantization="awq"), GPU),
    "quantised while loading": lambda ctx: (ServerSettings(quantization="fp8", dtype="bfloat16"), GPU),
    "text alone": lambda ctx: (ServerSettings(images=0, enforce_eager=True), GPU),
    "rollouts": lambda ctx: (grpo(ctx), GPU),
    "rollouts with a fixed cache": lambda ctx: (
        grpo(ctx, server={"kv_cache_gb": 20, "gpu_memory_utilization": 0.6}),
        GPU,
    ),
    "rollouts by device": lambda ctx: (grpo(ctx, sync="device"), GPU),
    "rollouts on nodes of their own": lambda ctx: (grpo(ctx, sync="device", rollout_nodes=1), GPU),
    "rollouts ahead of training": lambda ctx: (
        grpo(ctx, max_staleness=2, importance_cap=2.0, temperature=1.0, top_p=1.0, rollout_nodes=1),
        GPU,
    ),
    "GREEN": lambda ctx: (scoring(ctx, "green"), GPU),
    "judge": lambda ctx: (scoring(ctx, "judge"), GPU),
}


@pytest.fixture(scope="module")
def parser() -> Any:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    return make_arg_parser(FlexibleArgumentParser())


@pytest.mark.parametrize("cpu", [True, False], ids=["cpu", "gpu"])
@pytest.mark.parametrize("name", SERVERS)
def test_vllm_reads_every_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parser: Any, name: str, cpu: bool
) -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.cli_args import validate_parsed_serve_args

    monkeypatch.setattr(command, "on_cpu", lambda: cpu)
    monkeypatch.setattr(rollout_pool, "on_cpu", lambda: cpu)
    settings, placement = SERVERS[name](context(tmp_path, gpus=1, nodes=2, world_size=2))
    run = [str(tmp_path), "--uds", str(tmp_path / "s"), *command.arguments(settings, placement)]
    parsed = parser.parse_args(run)
    validate_parsed_serve_args(parsed)
    parsed.model = parsed.model_tag  # as `vllm serve` does
    engine = AsyncEngineArgs.from_cli_args(parsed)
    assert (parsed.model_tag, parsed.uds, parsed.served_model_name) == (str(tmp_path), str(tmp_path / "s"), ["model"])
    assert engine.max_num_seqs == settings.sequences and engine.max_model_len == settings.max_model_len
    assert engine.limit_mm_per_prompt == {"image": settings.images, "video": 0}
    assert engine.tensor_parallel_size == placement.tensor_parallel and engine.nnodes == placement.nodes
    assert engine.quantization == settings.quantization
    assert engine.structured_outputs_config.disable_any_whitespace
    assert engine.block_size == (32 if cpu else None)
    if not cpu:
        assert engine.gpu_memory_utilization == settings.gpu_memory_utilization
        assert engine.kv_cache_memory_bytes == (settings.kv_cache_gb and settings.kv_cache_gb * 2**30)
        alone = name in ("rollouts on nodes of their own", "rollouts ahead of training")
        assert engine.enable_sleep_mode == (name in ("GREEN", "judge") or (name.startswith("rollouts") and not alone))
        backend = {"rollouts by device": "ipc", "rollouts on nodes of their own": "nccl"}.get(name)
        config = engine.weight_transfer_config
        assert (config.backend if config else None) == backend
        insecure = command.environment(settings, placement, "1:1").get("VLLM_ALLOW_INSECURE_SERIALIZATION")
        assert insecure == ("1" if backend == "ipc" else None)
    ahead = name == "rollouts ahead of training"
    assert (engine.scheduling_policy, engine.mm_processor_cache_gb == 0) == ("priority" if ahead else "fcfs", ahead)
    if name == "GREEN":
        assert parsed.chat_template == CHAT_TEMPLATE


def test_a_flag_that_vllm_does_not_have_is_refused(tmp_path: Path, parser: Any) -> None:
    with pytest.raises(SystemExit):
        parser.parse_args([str(tmp_path), *command.arguments(ServerSettings(extra=("--no-such-flag",)), GPU)])


def test_a_server_finds_the_programs_of_its_environment() -> None:
    path = command.environment(ServerSettings(), GPU, "1:1")["PATH"].split(":")
    assert path[0] == str(Path(sys.executable).parent)


def test_vllms_worker_takes_our_extension() -> None:
    from vllm.utils.import_utils import resolve_obj_by_qualname
    from vllm.v1.worker.cpu_worker import CPUWorker
    from vllm.v1.worker.gpu_worker import Worker

    extension = resolve_obj_by_qualname(command.WORKER_EXTENSION)
    names = [name for name in dir(extension) if not name.startswith("__")]
    assert names == ["repack_tied_head"]
    assert not [name for name in names for worker in (Worker, CPUWorker) if hasattr(worker, name)]  # vLLM asserts this


def test_ray_knows_every_option_that_it_is_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    import inspect
    import subprocess

    from ray.scripts.scripts import start

    from diagcot.training.distributed import ray_cluster

    given: dict[str, Any] = {}

    def init(**options: Any) -> None:
        given.update(options)
        raise RuntimeError("enough")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(RuntimeError, match="enough"), ray_cluster.start_head(context(tmp_path), 80):
        pass
    monkeypatch.undo()
    named = inspect.signature(ray.init).parameters
    private = set(inspect.getsource(inspect.unwrap(ray.init)).split('"'))  # taken from **kwargs by their names
    assert given and not [name for name in given if name not in named and name not in private]
    ray._private.parameter.RayParams(num_cpus=given["num_cpus"], temp_dir=given["_temp_dir"])

    runs: list[list[str]] = []

    class Node:
        pid, returncode = 2**22 + 1, 0

        def __init__(self, run: list[str], **_: Any) -> None:
            runs.append(run)

        def poll(self) -> None:
            return None

        def wait(self, timeout: float | None = None) -> int:
            return 0

    monkeypatch.setattr(subprocess, "Popen", Node)
    with ray_cluster.join(context(tmp_path), {"address": "127.0.0.1:1", "token": "t"}, 80):
        pass
    monkeypatch.undo()
    (run,) = runs
    assert run[1:4] == ["-m", "ray.scripts.scripts", "start"]
    parsed = start.make_context("start", run[4:])  # click's own parser: an unknown option is an error
    assert parsed.params["address"] == "127.0.0.1:1" and parsed.params["object_store_memory"] == 80 * 2**20


def test_a_cpu_server_has_room_for_the_images_of_all_sequences() -> None:
    """With less, vLLM splits a prompt at its image, and a seeded request then ends the server."""
    from vllm.config import SchedulerConfig
    from vllm.v1.core.encoder_cache_manager import compute_mm_encoder_budget

    from diagcot.serving.server import entrypoint

    scheduler = SchedulerConfig(max_model_len=1280, max_num_seqs=64, is_encoder_decoder=False)
    assert min(compute_mm_encoder_budget(scheduler, {"image": 729})) < 8 * 729
    entrypoint.make_room_for_images(scheduler, 1280)
    assert min(compute_mm_encoder_budget(scheduler, {"image": 729})) == 64 * 1280
