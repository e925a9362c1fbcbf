"""What is decided before a server starts: whose GPUs, whether the model fits, who compiles, and where data may go."""

import ast
import http.server
import importlib.util
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from diagcot.jobs import HeadlessWorkerEnded, UserError
from diagcot.jobs.testing import context
from diagcot.serving import Request, ServerError, ServerSettings, serve
from diagcot.serving.request import NEUTRAL
from diagcot.serving.server import check, command, compile_cache, endpoint
from diagcot.serving.server.cause import first_error
from diagcot.serving.server.placement import Placement, place
from diagcot.serving.server.replica import Replica
from tests.fakes.serving import COMMAND, QueueingServer, model_folder, settings, write_script


def gpus_of(gpus: int, share: tuple[int, int] = (0, 1), visible: str = "", **given: int) -> list[tuple[str, ...]]:
    placements = place(ServerSettings(**given), gpus, share, {"CUDA_VISIBLE_DEVICES": visible})  # type: ignore[arg-type]
    return [placement.gpus for placement in placements]


def test_gpus_are_dealt_to_replicas_and_shares() -> None:
    assert gpus_of(4) == [("0", "1", "2", "3")]
    assert gpus_of(4, tensor_parallel=1) == [("0",), ("1",), ("2",), ("3",)]
    assert gpus_of(8, data_parallel=2) == [("0", "1", "2", "3"), ("4", "5", "6", "7")]
    assert gpus_of(4, (1, 2), "4,5,6,7", tensor_parallel=1) == [("6",), ("7",)]
    assert gpus_of(4, visible="GPU-a,GPU-b,GPU-c,GPU-d", data_parallel=1, tensor_parallel=2) == [("GPU-a", "GPU-b")]
    with pytest.raises(UserError, match=r"4 servers .* need 8 GPUs, but share 1 of 2 .* has 4"):
        gpus_of(8, (0, 2), data_parallel=4, tensor_parallel=2)


def test_two_models_on_one_gpu_divide_its_memory_and_every_server_has_its_own_number() -> None:
    first, second = (place(ServerSettings(), 1, (index, 2), {}) for index in range(2))
    assert [placement.memory_share for placement in first + second] == [0.5, 0.5] and first[0].gpus == second[
        0
    ].gpus == ("0",)
    many = [placement for index in range(2) for placement in place(ServerSettings(data_parallel=3), 0, (index, 2))]
    assert [placement.index for placement in many] == list(range(6)) and not any(placement.gpus for placement in many)


CONFIG: dict[str, Any] = {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "vision_config": {},
    "text_config": {"max_position_embeddings": 4096, "num_attention_heads": 28, "num_key_value_heads": 4},
}
AWQ = {"quantization_config": {"quant_method": "awq"}}


@pytest.mark.parametrize(
    ("config", "given", "placement", "message"),
    [
        ({}, {"max_model_len": 8192}, Placement(), r"max_model_len 8192 is more than the 4096 tokens"),
        ({}, {}, Placement(tensor_parallel=8), r"tensor_parallel 8 does not divide .* one of 1, 2, 4, 28"),
        ({}, {"quantization": "awq"}, Placement(), "are not quantised"),
        (AWQ, {"quantization": "gptq"}, Placement(), "quantised by awq"),
        ({"vision_config": None}, {}, Placement(), "set `images: 0`"),
        ({}, {}, Placement(gpus=("0",)), r"take 3 GB on each of 1 GPUs .* but only 2 of 2 GB"),
    ],
)
def test_a_model_that_cannot_be_served_so_is_refused_before_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: Any, given: Any, placement: Placement, message: str
) -> None:
    merged = {key: value for key, value in (CONFIG | config).items() if value is not None}
    (tmp_path / "config.json").write_text(json.dumps(merged))
    with (tmp_path / "model.safetensors").open("wb") as out:
        out.truncate(3 * 10**9)  # a hole: no disk is used
    monkeypatch.setattr(check, "gpu_memory", lambda names: 2 * 10**9)
    with pytest.raises(UserError, match=message):
        check.check(tmp_path, ServerSettings(**given), placement)


def test_what_fits_is_not_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x" * 100)
    monkeypatch.setattr(check, "gpu_memory", lambda names: 200)
    yarn = {"text_config": {"max_position_embeddings": 4096, "rope_scaling": {"rope_type": "yarn", "factor": 4}}}
    for config, given, placement in [
        (CONFIG, {"max_model_len": 4096}, Placement(gpus=("0",), tensor_parallel=4)),
        (CONFIG | yarn, {"max_model_len": 16384}, Placement()),
        (CONFIG | AWQ, {"quantization": "awq_marlin"}, Placement()),
        (CONFIG, {"quantization": "fp8"}, Placement(gpus=("0",))),
    ]:
        (tmp_path / "config.json").write_text(json.dumps(config))
        check.check(tmp_path, ServerSettings(**given), placement)  # type: ignore[arg-type]


def test_one_server_compiles_and_the_others_wait_for_it(tmp_path: Path) -> None:
    order: list[str] = []

    def start(name: str, fails: bool = False) -> None:
        with compile_cache.exclusive_fill(tmp_path, "key", 10) as filling:
            order.append(f"{name} {'fills' if filling else 'finds'}")
            if filling:
                time.sleep(0.2)
            if fails:
                raise ServerError("no")

    with pytest.raises(ServerError):
        start("broken", fails=True)
    threads = [threading.Thread(target=start, args=(str(number),)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    start("late")
    assert [line.split()[1] for line in order] == [
        "fills",
        "fills",
        "finds",
        "finds",
        "finds",
    ]  # a failure fills nothing


def test_patience_with_another_ones_compiling_ends(tmp_path: Path) -> None:
    with (
        compile_cache.exclusive_fill(tmp_path, "key", 10),
        compile_cache.exclusive_fill(tmp_path, "key", 0.1) as filling,
    ):
        assert not filling


def test_the_compile_cache_is_the_runs_and_only_where_something_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_script(tmp_path, monkeypatch)
    for eager in (True, False):
        with serve(model_folder(tmp_path), settings(enforce_eager=eager), context(tmp_path), command=COMMAND):
            pass
        assert bool(list(tmp_path.glob("models/test/.work/.vllm/*.full"))) == (not eager)


@pytest.mark.parametrize(
    "given",
    [
        {"endpoint": "ftp://x", "endpoint_model": "m"},
        {"endpoint": "http://x:1"},
        {"endpoint_model": "m"},
        {"data_may_leave_the_allocation": True},
    ],
)
def test_settings_of_an_endpoint_are_whole_or_not_there(given: Any) -> None:
    with pytest.raises(ValidationError):
        ServerSettings(**given)


def test_no_host_outside_the_allocation_unless_the_recipe_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"me": {"10.0.0.1"}, "gpu07": {"10.0.0.7"}, "away": {"192.0.2.9"}, "both": {"10.0.0.7", "192.0.2.9"}}
    monkeypatch.setattr(endpoint, "_addresses", lambda name: known.get(name, {name} if name[:1].isdigit() else set()))
    monkeypatch.setattr(endpoint.socket, "gethostname", lambda: "me")
    job = {"SLURM_JOB_NODELIST": "me,gpu07"}
    assert [endpoint.inside_allocation(name, {}) for name in ("127.0.0.1", "10.0.0.1", "gpu07", "away")] == [
        True,
        True,
        False,
        False,
    ]
    assert [endpoint.inside_allocation(name, job) for name in ("gpu07", "10.0.0.7", "away", "both")] == [
        True,
        True,
        False,
        False,
    ]
    with pytest.raises(UserError, match="has no address"):
        endpoint.inside_allocation("nowhere", job)
    away = ServerSettings(endpoint="http://192.0.2.9:8000/v1", endpoint_model="m")
    with pytest.raises(UserError, match="outside this job's nodes"):
        endpoint.address(away)
    told = endpoint.address(away.model_copy(update={"data_may_leave_the_allocation": True}))
    assert (told.host, told.port, told.prefix, told.tls) == ("192.0.2.9", 8000, "", False)


def test_an_endpoint_is_served_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUR_KEY", "secret")
    monkeypatch.setenv("HTTP_PROXY", "http://localhost:1")
    monkeypatch.setenv("ALL_PROXY", "http://localhost:1")
    with QueueingServer(vllm=False) as queueing:
        given = ServerSettings(
            endpoint=f"http://localhost:{queueing.port}/v1", endpoint_model="local", api_key_env="OUR_KEY"
        )
        with serve(tmp_path / "none", given, context(tmp_path)) as server:
            schema = {"type": "object", "properties": {}}
            asked = [Request(str(n), (("user", "look"),), schema=schema, seed=n) for n in range(20)]
            assert {reply.text for _, reply in server.complete(asked)} == {"told"}
            with pytest.raises(UserError, match="only vLLM's server has"):
                list(server.complete([Request("a", (("user", "look"),), choice=["yes", "no"])]))
            with pytest.raises(UserError, match="remove `endpoint`"):
                server.load(tmp_path)
        assert all(b"authorization: Bearer secret" in head for head in queueing.heads)
        body = queueing.bodies[0]
        assert body["model"] == "local" and body["response_format"]["json_schema"]["schema"] == schema
        assert "structured_outputs" not in body and "secret" not in repr(server.replicas[0].address)
        with pytest.raises(ServerError, match="serves local, not other"):
            with serve(tmp_path, given.model_copy(update={"endpoint_model": "other"}), context(tmp_path)):
                pass
    monkeypatch.delenv("OUR_KEY")
    with pytest.raises(UserError, match="OUR_KEY"), serve(tmp_path, given, context(tmp_path)):
        pass


@pytest.mark.parametrize(
    ("given", "sent"),
    [({}, NEUTRAL), ({"endpoint_sampling": "server"}, {})],
)
def test_an_endpoint_samples_neutrally_unless_the_recipe_says_otherwise(
    tmp_path: Path, given: Any, sent: dict[str, float]
) -> None:
    with QueueingServer() as queueing:
        address = ServerSettings(endpoint=f"http://localhost:{queueing.port}", endpoint_model="local", **given)
        with serve(tmp_path / "none", address, context(tmp_path)) as server:
            list(server.complete([Request("a", (("user", "look"),), temperature=0.5, top_p=0.9)]))
    (body,) = queueing.bodies
    asked = {"temperature": 0.5, "top_p": 0.9}
    assert {name: body[name] for name in body if name in (*NEUTRAL, *asked)} == sent | asked


def test_neutral_sampling_names_all_that_a_model_folder_may_set() -> None:
    """vLLM takes these from generation_config.json; what a request always holds is not among them."""
    source = importlib.util.find_spec("vllm")
    if source is None or source.origin is None:
        pytest.skip("vllm is not installed: its list of parameters cannot be read")
    tree = ast.parse((Path(source.origin).parent / "config" / "model.py").read_text())
    (names,) = [
        ast.literal_eval(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "available_params"
    ]
    assert set(names) - {"temperature", "top_p", "max_new_tokens"} == set(NEUTRAL)


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        (
            [
                "(EngineCore pid=7) ERROR 11-29 13:00:00 [core.py:9] Traceback (most recent call last):",
                '(EngineCore pid=7) ERROR 11-29 13:00:00 [core.py:9]   File "/x/layer.py", line 3, in forward',
                "(EngineCore pid=7) ERROR 11-29 13:00:00 [core.py:9]     assert heads % groups == 0",
                "(EngineCore pid=7) ERROR 11-29 13:00:00 [core.py:9]            ^^^^^^^^^^^^^^^^^^^",
                "(EngineCore pid=7) ERROR 11-29 13:00:00 [core.py:9] AssertionError",
                "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
            ],
            'AssertionError at `assert heads % groups == 0` (File "/x/layer.py", line 3, in forward)',
        ),
        (
            ["ValueError: no kernel", "RuntimeError: Engine core initialization failed. See root cause above."],
            "no kernel",
        ),
        (["loading", "killed"], "killed"),
    ],
)
def test_the_cause_of_a_server_that_did_not_start_is_told(tmp_path: Path, lines: list[str], cause: str) -> None:
    log = tmp_path / "server.log"
    log.write_text("\n".join(lines) + "\n")
    assert cause in first_error(log)


def test_other_nodes_lend_their_part_until_rank_0_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_script(tmp_path, monkeypatch)
    folder = model_folder(tmp_path)
    around: dict[str, Any] = {"nodes": 2, "world_size": 2, "attempt": "7"}
    spanning = settings(pipeline_parallel=2)
    ended: list[BaseException] = []

    def other() -> None:
        ctx = context(tmp_path, rank=1, node_rank=1, **around)
        try:
            with serve(folder, spanning, ctx, command=[*COMMAND, "--uds", str(tmp_path / "other")]):
                pass
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=other)
    thread.start()
    ctx = context(tmp_path, **around)
    with serve(folder, spanning, ctx, command=COMMAND) as server:
        assert [reply.error for _, reply in server.complete([Request("a", (("user", "x"),))])] == [None]
        (replica,) = server.replicas
        assert isinstance(replica, Replica)
        placement = replica.placement
        log = ctx.workspace / "server.7.node1.0.log"
        end = time.monotonic() + 10
        while not log.exists() and time.monotonic() < end:
            time.sleep(0.05)
        assert thread.is_alive() and log.exists()
    thread.join(10)
    assert isinstance(ended[0], HeadlessWorkerEnded)
    told = " ".join(command.arguments(spanning, placement))
    assert "--nnodes 2 --node-rank 0 --pipeline-parallel-size 2 --master-addr 127.0.0.1" in told and "uni" not in told
    with pytest.raises(UserError, match="give the stage a resource profile with `nodes: 2`"):
        with serve(folder, spanning, context(tmp_path), command=COMMAND):
            pass


@pytest.mark.parametrize(
    ("status", "said"), [(401, "check api_key_env"), (403, "check api_key_env"), (404, "check its address")]
)
def test_an_endpoint_that_refuses_is_an_answer_at_once(status: int, said: str) -> None:
    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(status)

        def log_message(self, *_: object) -> None:
            """Nothing on the terminal."""

    with http.server.HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        given = ServerSettings(
            endpoint=f"http://127.0.0.1:{server.server_port}", endpoint_model="m", startup_timeout_s=600
        )
        started = time.monotonic()
        with pytest.raises(ServerError, match=said):
            endpoint.Endpoint(given)
        assert time.monotonic() - started < 60
        server.shutdown()
