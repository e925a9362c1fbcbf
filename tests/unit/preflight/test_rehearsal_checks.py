"""Each check of a rehearsal finds the fault that it is there for, and is content without it."""

import json
import os
import resource
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from diagcot.jobs import Context, Unit, testing
from diagcot.preflight.finding import Finding
from diagcot.preflight.rehearsal import machine, node, storage
from diagcot.preflight.rehearsal.stage import RehearsedStage
from tests import chains


@pytest.fixture(autouse=True)
def _no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "CUDA_VISIBLE_DEVICES", "SLURM_TMPDIR", "VLLM_RPC_BASE_PATH"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A temporary folder with a short name, whatever that of the tests is."""
    monkeypatch.setenv("TMPDIR", "/tmp")
    monkeypatch.setattr("tempfile.tempdir", None)
    yield


def stage(root: Path, **more: Any) -> RehearsedStage:
    """Three roots with the submitting host's probe files."""
    roots = {name: root / name for name in ("logs", "shards", "models")}
    for place in roots.values():
        (place / ".probe").mkdir(parents=True, exist_ok=True)
        (place / ".probe" / storage.HOST).touch()
    values: dict[str, Any] = {
        "output": root / "models" / "real" / "stage",
        "workspace": root / "models" / "real" / ".work" / "stage",
        "roots": roots,
        "probe": ".probe",
        "written": tuple(roots),
    }
    return RehearsedStage(**values | more)


def only(found: Iterator[Finding], level: str, *words: str) -> Finding:
    """The one finding, which has this level and these words."""
    (finding,) = list(found)
    assert finding.level == level, finding
    for word in words:
        assert word in finding.text + finding.remedy
    return finding


def test_ranks_as_the_size_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    ctx = testing.context(tmp_path, world_size=4, nodes=2)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    only(machine.ranks(stage(tmp_path, ranks=4, nodes=2), ctx), "good")
    only(machine.ranks(stage(tmp_path, ranks=8, nodes=2), ctx), "bad", "4 ranks", "asks for 8")
    monkeypatch.setenv("MASTER_ADDR", "no-such-node.invalid")
    only(machine.ranks(stage(tmp_path, ranks=4, nodes=2), ctx), "bad", "no-such-node.invalid")


def test_environment_of_another_interpreter_or_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = testing.context(tmp_path)
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    (tmp_path / "lock").write_text("cpu abc\n")
    only(machine.python(stage(tmp_path, python=machine.sys.executable, lock="cpu abc"), ctx), "good")
    only(machine.python(stage(tmp_path, python="/opt/python", lock="cpu abc"), ctx), "bad", "/opt/python", "setup")
    only(machine.python(stage(tmp_path, python=machine.sys.executable, lock="gpu def"), ctx), "bad", "share")


def test_imports_that_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = testing.context(tmp_path)
    only(machine.imports(stage(tmp_path, kind="diagcot.shards.build"), ctx), "good")
    (tmp_path / "broken_kind.py").write_text("import ctypes\nctypes.CDLL('libcuda.so.999')\n")
    monkeypatch.syspath_prepend(tmp_path)
    only(machine.imports(stage(tmp_path, kind="broken_kind"), ctx), "bad", "broken_kind", "OSError", "libcuda.so.999")


def test_slow_imports_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "SLOW_IMPORT_S", 0.1)
    (tmp_path / "slow_kind.py").write_text("import time\ntime.sleep(0.2)\n")
    monkeypatch.syspath_prepend(tmp_path)
    only(machine.imports(stage(tmp_path, kind="slow_kind"), testing.context(tmp_path)), "note", "faster")


def test_wrong_number_of_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(machine.gpus(stage(tmp_path), testing.context(tmp_path)), "good", "none requested")
    ctx = testing.context(tmp_path, gpus=1, local_world_size=4)
    only(machine.gpus(stage(tmp_path), ctx), "bad", "requested 4", "names 0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    only(machine.gpus(stage(tmp_path), ctx), "bad", "requested 4", "names 3")


class Cuda:
    """torch.cuda as a rank meets it."""

    def __init__(self, count: int, free: int = 80, broken: bool = False) -> None:
        self.free, self.broken = free, broken
        self.tried: list[str] = []
        self.device_count = lambda: count
        self.get_device_name = lambda index: "H100"

    def mem_get_info(self, index: int) -> tuple[int, int]:
        return self.free * 10**9, 80 * 10**9

    def ones(self, *shape: int, device: str) -> Any:
        self.tried.append(device)
        if self.broken:
            raise RuntimeError("CUDA error: uncorrectable ECC error encountered\nmore")
        return SimpleNamespace(add_=lambda number: SimpleNamespace(item=lambda: 2.0))


@pytest.mark.parametrize(
    ("cuda", "level", "words"),
    [
        (Cuda(2), "good", "2 × H100"),
        (Cuda(1), "bad", "2 given, torch sees 1"),
        (Cuda(2, broken=True), "bad", "GPU 0 cannot compute: CUDA error: uncorrectable ECC error"),
        (Cuda(2, free=30), "note", "30 of 80 GB are free"),
    ],
)
def test_gpus_that_torch_can_use(
    cuda: Cuda, level: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    version = SimpleNamespace(cuda="12.8", hip=None)
    monkeypatch.setitem(machine.sys.modules, "torch", SimpleNamespace(version=version, cuda=cuda, ones=cuda.ones))
    only(machine.gpus(stage(tmp_path), testing.context(tmp_path, gpus=2)), level, words)


def test_a_rank_tries_its_own_gpus_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Cuda(4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    version = SimpleNamespace(cuda="12.8", hip=None)
    monkeypatch.setitem(machine.sys.modules, "torch", SimpleNamespace(version=version, cuda=cuda, ones=cuda.ones))
    ctx = testing.context(tmp_path, gpus=2, local_world_size=2, local_rank=1)
    only(machine.gpus(stage(tmp_path), ctx), "good", "4 × H100")
    assert cuda.tried == ["cuda:2", "cuda:3"]


def test_gpus_for_a_torch_of_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    version = SimpleNamespace(cuda=None, hip=None)
    monkeypatch.setitem(machine.sys.modules, "torch", SimpleNamespace(version=version))
    only(machine.gpus(stage(tmp_path), testing.context(tmp_path, gpus=2)), "note", "none tested", "LOCK=gpu")


def test_few_open_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {resource.RLIMIT_NOFILE: 65536, resource.RLIMIT_FSIZE: -1}
    monkeypatch.setattr("resource.getrlimit", lambda what: (limits.get(what, 65536), 65536))
    only(machine.limits(stage(tmp_path), testing.context(tmp_path)), "good")
    limits[resource.RLIMIT_NOFILE] = 1024
    only(machine.limits(stage(tmp_path), testing.context(tmp_path)), "note", "1024 open files", "ulimit -n")
    limits |= {resource.RLIMIT_NOFILE: 65536, resource.RLIMIT_FSIZE: 2_000_000_000}
    size, files = machine.limits(stage(tmp_path), testing.context(tmp_path))
    assert (size.level, files.level) == ("note", "good") and "files of at most 2 GB (ulimit -f)" in size.text


@pytest.mark.usefixtures("short")
def test_temporary_files_are_tried_where_they_will_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = testing.context(tmp_path)
    only(machine.scratch(stage(tmp_path), ctx), "good", "in /tmp")
    (tmp_path / "cluster.yaml").write_text(json.dumps(chains.cluster(scratch="$NODE_DISK").model_dump(mode="json")))
    monkeypatch.delenv("TMPDIR")
    with tempfile.TemporaryDirectory(prefix="n", dir="/tmp") as own:
        monkeypatch.setenv("NODE_DISK", own)
        only(machine.scratch(stage(tmp_path), replace(ctx, stage_dir=tmp_path / "s")), "good", f"in {own}")
    found, shards = machine.scratch(stage(tmp_path, shards_copied_to="/no/such/disk"), ctx)
    assert found.level == "good" and shards.level == "note" and "read from the shared storage" in shards.text
    (found,) = machine.scratch(stage(tmp_path, shards_copied_to="/tmp"), ctx)
    monkeypatch.setattr(machine.checks.private, "unfit", lambda base: "is full")
    only(machine.scratch(stage(tmp_path), ctx), "bad", "/tmp: is full", "scratch")
    monkeypatch.undo()
    (tmp_path / "gcc").write_text("#!/bin/sh\necho 'cannot write /tmp/x.s: No space left on device' >&2; exit 1\n")
    (tmp_path / "gcc").chmod(0o755)
    monkeypatch.setenv("CC", str(tmp_path / "gcc"))
    monkeypatch.setattr(machine.checks, "lock_stamp", lambda: "gpu abc")
    only(machine.scratch(stage(tmp_path), ctx), "bad", "No space left", "compiler")
    monkeypatch.setattr(machine.checks, "lock_stamp", lambda: "cpu abc")
    only(machine.scratch(stage(tmp_path), ctx), "good", "not compiled on CPUs")


@pytest.mark.usefixtures("short")
def test_a_temporary_folder_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/no/such/scratch")
    first, second = machine.scratch(stage(tmp_path), testing.context(tmp_path))
    assert (first.level, second.level) == ("note", "good")
    assert "/no/such/scratch" in first.text


def test_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = testing.context(tmp_path)
    only(machine.shared_memory(stage(tmp_path), ctx, tmp_path / "none"), "bad", "not writable")
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=64e6))
    only(machine.shared_memory(stage(tmp_path), ctx), "note", "0.1 GB")
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=64e9))
    only(machine.shared_memory(stage(tmp_path), ctx), "good")


def test_missing_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = testing.context(tmp_path)
    only(machine.java(stage(tmp_path), ctx), "good")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    only(machine.java(stage(tmp_path), ctx), "bad", "missing")


def command(folder: Path, name: str, body: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)


def test_slurms_commands_inside_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx, programs = testing.context(tmp_path), tmp_path / "bin"
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("PATH", str(programs))
    only(machine.commands(stage(tmp_path), ctx), "bad", "scontrol", "setup")
    command(programs, "scontrol", "echo JobId=7")
    only(machine.commands(stage(tmp_path), ctx), "good")
    finaliser = stage(tmp_path, needs=("submit",), asks=({"partition": "gpu"},))
    only(machine.commands(finaliser, ctx), "bad", "sbatch, squeue, sacct")
    for name in ("squeue", "sacct", "sbatch"):
        command(programs, name, "exit 0")
    only(machine.commands(finaliser, ctx), "good")
    command(programs, "sbatch", "echo 'allocation failure: Access/permission denied' >&2; exit 1")
    only(machine.commands(finaliser, ctx), "bad", "--partition=gpu", "Access/permission denied", "AllocNodes")
    command(programs, "scontrol", "echo 'Unable to contact slurm controller' >&2; exit 1")
    only(machine.commands(finaliser, ctx), "bad", "Unable to contact")


def test_folders_shared_and_writable(tmp_path: Path) -> None:
    ctx = testing.context(tmp_path)
    only(storage.folders(stage(tmp_path), ctx, 1), "good", "logs, shards, models")
    only(storage.privacy(stage(tmp_path), ctx), "note" if os.umask(0o022) != 0o077 else "good")
    assert not (tmp_path / "models" / "real").exists()  # where the real stage will write is only looked at


def test_folders_of_a_node_that_are_its_own(tmp_path: Path) -> None:
    told = stage(tmp_path)
    (tmp_path / "shards" / ".probe" / storage.HOST).unlink()
    only(storage.folders(told, testing.context(tmp_path), 0.3), "bad", f"{tmp_path}/shards", "the submitting host")
    assert not (tmp_path / "shards" / ".probe").exists()  # nobody else would remove it


def test_a_file_of_another_node_that_is_not_seen(tmp_path: Path) -> None:
    ctx = testing.context(tmp_path, nodes=2)
    places = [str(tmp_path / name) for name in ("logs", "shards", "models")]
    only(storage.folders(stage(tmp_path), ctx, 0.3), "bad", "node 1 of this job", *places)


def test_a_file_of_another_node_that_comes_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "SLOW_S", 0.2)
    told, ctx = stage(tmp_path), testing.context(tmp_path, nodes=2)

    def other() -> None:
        time.sleep(0.5)
        for root in told.roots.values():
            (root / ".probe" / "stage.1").touch()

    threading.Thread(target=other).start()
    only(storage.folders(told, ctx, 10), "note", "only after")


def test_a_root_that_is_missing_on_the_node(tmp_path: Path) -> None:
    told = stage(tmp_path)
    told.roots["models"] = tmp_path / "nowhere" / "models"
    only(storage.folders(told, testing.context(tmp_path), 0.3), "bad", "models", "does not exist on this node")
    assert not (tmp_path / "nowhere").exists()


def test_a_root_that_cannot_be_written(tmp_path: Path) -> None:
    told = stage(tmp_path)
    told.roots["models"] = Path("/proc/self")  # even root can make nothing here
    only(storage.folders(told, testing.context(tmp_path), 0.3), "bad", "cannot write to /proc/self")


def test_the_real_output_is_not_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = tmp_path / "models" / "real"
    real.mkdir(parents=True)
    allowed = os.access
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != real and allowed(path, mode))
    only(storage.folders(stage(tmp_path), testing.context(tmp_path), 1), "bad", f"{real} is not writable")


def test_a_full_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(122, "Disk quota exceeded")

    monkeypatch.setattr("os.fsync", full)
    found = list(storage.folders(stage(tmp_path), testing.context(tmp_path), 0.3))
    assert "Disk quota exceeded" in found[0].text and found[0].level == "bad"


def test_clocks_that_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time
    monkeypatch.setattr("time.time", lambda: now() + 60)
    found = list(storage.folders(stage(tmp_path), testing.context(tmp_path), 1))
    assert [finding.subject for finding in found if finding.level == "note"] == ["clock"] * 3
    assert "+60 s" in found[0].text


def test_files_that_others_can_read(tmp_path: Path) -> None:
    told, ctx = stage(tmp_path), testing.context(tmp_path)
    before = os.umask(0o077)
    try:
        list(storage.folders(told, ctx, 1))
    finally:
        os.umask(before)
    only(storage.privacy(told, ctx), "good")
    (tmp_path / "models" / ".probe" / "stage.0").chmod(0o640)  # as a default ACL makes it
    only(storage.privacy(told, ctx), "note", f"models ({tmp_path}/models)", "getfacl")


def test_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = testing.context(tmp_path)
    training = {"weights_gb": 15, "settings": {"deepspeed": {"keep": 2}}}
    for free, level in ((5, "bad"), (100, "note"), (500, "good")):
        monkeypatch.setattr("shutil.disk_usage", lambda place, free=free: SimpleNamespace(free=free * 1e9))
        only(storage.space(stage(tmp_path, **training), ctx), level, f"{free}")


def test_missing_model_files(tmp_path: Path) -> None:
    ctx, model = testing.context(tmp_path), tmp_path / "qwen"
    only(storage.model(stage(tmp_path), ctx), "good", "built")
    told = stage(tmp_path, settings={"pretrained": str(model)})
    only(storage.model(told, ctx), "bad", str(model))
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"model_type": "qwen2_5_vl"}))
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "1.safetensors"}}))
    only(storage.model(told, ctx), "bad", "1.safetensors")
    (model / "1.safetensors").write_bytes(bytes(16))
    only(storage.model(told, ctx), "bad", "1.safetensors")
    header = b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}'
    (model / "1.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    only(storage.model(told, ctx), "good", "1 weight file")


def test_missing_data(tmp_path: Path) -> None:
    settings = {"sources": [{"kind": "mimic_cxr", "path": str(tmp_path / "mimic")}]}
    only(storage.data(stage(tmp_path, settings=settings), testing.context(tmp_path)), "bad", "mimic")
    settings = {"sources": [{"kind": "mimic_cxr", "input": "phantoms"}]}
    only(storage.data(stage(tmp_path, settings=settings), testing.context(tmp_path)), "good")


def test_what_a_stage_needs_decides_what_is_looked_at(tmp_path: Path) -> None:
    def names(*needs: str, **more: Any) -> set[str]:
        return {name for name, _ in node.checks(stage(tmp_path, needs=needs), testing.context(tmp_path, **more))}

    assert {"folders", "space", "environment", "imports"} <= names()
    assert not names() & {"memory", "Java", "model", "data", "collective"}
    assert {"memory"} <= names("vllm") and "scratch" in names() and "Java" in names("java")
    assert "collective" not in names("collective") and "collective" in names("collective", world_size=2)
    assert names("collective", "java", world_size=4, rank=1, local_rank=1) == {"ranks", "GPUs", "collective"}


def test_findings_never_fail_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(told: RehearsedStage, ctx: Context) -> Iterator[Finding]:
        yield Finding("good", "space", "so far")
        raise ValueError("the check itself")

    monkeypatch.setattr(storage, "space", broken)
    told = stage(tmp_path, roots={}, kind="no_such_kind")
    ctx = testing.context(tmp_path, settings=told.model_dump(mode="json"))
    assert testing.run_unit(node, Unit("check"), ctx) is not None
    row = json.loads((ctx.stage_dir / "checks" / "0.json").read_text())
    texts = [finding["text"] for finding in row["findings"]]
    assert row["ended"] and row["host"] == socket.gethostname()
    assert "so far" in texts and any("ValueError: the check itself" in text for text in texts)
    assert any("no_such_kind cannot be imported" in text for text in texts)
