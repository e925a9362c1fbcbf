"""The device of a rank under every binding of GPUs, and the reason where none can be used; torch.cuda is faked."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from diagcot.jobs import UserError
from diagcot.jobs.environment import drivers
from diagcot.jobs.testing import context

TOO_OLD = "The NVIDIA driver on your system is too old (found version 12040). Please update your GPU driver"


class Cuda:
    """torch.cuda of a machine with 8 GPUs, which shows what CUDA_VISIBLE_DEVICES names as CUDA itself does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: str = "") -> None:
        import torch

        self.set: list[Any] = []

        def init() -> None:
            if error:
                raise RuntimeError(error)

        def set_device(device: Any) -> None:
            number = device if isinstance(device, int) else torch.device(device).index
            assert number < self.count(), "CUDA error: invalid device ordinal"
            self.set.append(number)

        self._error = error
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        for name, fake in {
            "is_available": lambda: self.count() > 0,
            "device_count": self.count,
            "init": init,
            "set_device": set_device,
        }.items():
            monkeypatch.setattr(torch.cuda, name, fake)

    def count(self) -> int:
        import os

        names = os.environ.get("CUDA_VISIBLE_DEVICES")
        if self._error or names == "":
            return 0
        if names is None:
            return 8
        return 1 if names.startswith("MIG-") else len(names.split(","))


# (CUDA_VISIBLE_DEVICES of each of the ranks of a node with so many ranks, the index of each rank's device)
BINDINGS: dict[str, tuple[list[str | None], list[int]]] = {
    "all visible": (["0,1,2,3"] * 4, [0, 1, 2, 3]),
    "not named": ([None] * 8, list(range(8))),
    "more than ours": ([None] * 2, [0, 1]),
    "one a task": (["0", "1", "2", "3"], [0, 0, 0, 0]),
    "one a task, by cgroup": (["0"] * 4, [0, 0, 0, 0]),
    "by uuid": (["GPU-aa,GPU-bb"] * 2, [0, 1]),
    "one uuid a task": (["GPU-aa", "GPU-bb"], [0, 0]),
    "one MIG instance a task": (["MIG-aa", "MIG-bb"], [0, 0]),
    "all MIG instances": (["MIG-aa,MIG-bb"] * 2, [0, 0]),
    "alone": (["5"], [0]),
}


@pytest.mark.parametrize("binding", BINDINGS)
def test_every_rank_has_its_own_device(binding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deepspeed.accelerator.cuda_accelerator import CUDA_Accelerator
    from deepspeed.runtime import engine as deepspeed_engine

    from diagcot.training.distributed import process_group

    visible, indices = BINDINGS[binding]
    cuda = Cuda(monkeypatch)
    monkeypatch.setattr(deepspeed_engine, "get_accelerator", CUDA_Accelerator)
    for name in ("get_world_size", "get_rank"):
        monkeypatch.setattr(deepspeed_engine.dist, name, lambda: 0)
    own = set()
    for rank, (names, index) in enumerate(zip(visible, indices, strict=True)):
        with monkeypatch.context() as patch:
            if names is None:
                patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
            else:
                patch.setenv("CUDA_VISIBLE_DEVICES", names)
            ctx = context(tmp_path, gpus=1, rank=rank, local_rank=rank, local_world_size=len(visible))
            device = process_group.device(ctx)
            assert (device.type, device.index) == ("cuda", index)
            for name, value in process_group.rank_variables(ctx, device).items():
                patch.setenv(name, value)
            trainer = deepspeed_engine.DeepSpeedEngine.__new__(deepspeed_engine.DeepSpeedEngine)
            trainer.__dict__["_modules"] = {}
            trainer._configure_with_arguments(SimpleNamespace(), None)
            trainer._set_distributed_vars(None)  # "invalid device ordinal" with another number
            assert trainer.device == device and cuda.set[-1] == index
            import os

            # ZeRO-3's Init, as partition_parameters.py names its device
            assert CUDA_Accelerator().device_name(os.environ["LOCAL_RANK"]) == str(device)
            shown = (os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(8)))).split(",")
            own.add(shown[index] if binding != "one a task, by cgroup" else rank)
    assert len(own) == len(visible)


def test_a_binding_that_shares_gpus_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diagcot.training.distributed import process_group

    Cuda(monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    ctx = context(tmp_path, gpus=1, rank=3, local_rank=3, local_world_size=4)
    with pytest.raises(UserError, match=r"rank 3 sees 2 GPUs.*--gpu-bind"):
        process_group.device(ctx)
    two = context(tmp_path, gpus=2, rank=1, local_rank=1, local_world_size=2)
    assert process_group.device(two).index == 0  # its own two
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    assert process_group.device(two).index == 2


@pytest.mark.parametrize(
    ("error", "visible", "driver", "message"),
    [
        (TOO_OLD, "0", "550.54.15", r"driver 550\.54\.15 is too old for CUDA 13\.0, which needs 580 or newer"),
        ("No CUDA GPUs are available", "0", "580.65.06", r"No CUDA GPUs are available.*cgroup"),
        ("", "", "580.65.06", r"sees none.*CUDA_VISIBLE_DEVICES=\).*cgroup"),
        ("Found no NVIDIA driver on your system", "0", "", r"Found no NVIDIA driver.*driver not loaded"),
    ],
)
def test_gpus_that_cannot_be_used_stop_the_job(
    error: str, visible: str, driver: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diagcot.training.distributed import process_group

    Cuda(monkeypatch, error)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(drivers, "loaded", lambda: driver)
    with pytest.raises(UserError, match=message):
        process_group.device(context(tmp_path, gpus=1))
    assert process_group.device(context(tmp_path)).type == "cpu"


def test_real_gpus_in_an_environment_for_cpus_stop_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from diagcot.training.distributed import process_group

    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(drivers, "loaded", lambda: "580.65.06")
    with pytest.raises(UserError, match="LOCK=gpu"):
        process_group.device(context(tmp_path, gpus=1))
    monkeypatch.setattr(drivers, "loaded", lambda: "")
    assert process_group.device(context(tmp_path, gpus=1)).type == "cpu"  # simulated ones


def test_drivers(tmp_path: Path) -> None:
    text = (
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\nGCC version: 13.2\n"
    )
    (tmp_path / "version").write_text(text)
    assert drivers.loaded(tmp_path / "version") == "550.54.15"
    text = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (x@y)\n"
    (tmp_path / "version").write_text(text)
    assert drivers.loaded(tmp_path / "version") == "580.65.06"
    assert drivers.loaded(tmp_path / "none") == ""


def test_the_least_driver_of_each_lock_is_documented() -> None:
    root = Path(__file__).parents[3]
    cuda = drivers.cuda_of(root / "locks" / "gpu.txt")
    assert cuda and int(cuda.partition(".")[0]) in drivers.LEAST_DRIVER
    assert not drivers.cuda_of(root / "locks" / "cpu.txt")
    assert f"| {cuda.rsplit('.', 2)[0]} | {drivers.least(cuda)}" in (root / "docs" / "environment.md").read_text()


def test_a_gpu_copies_from_pinned_memory_without_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from diagcot.training.distributed import process_group

    copies: list[tuple[bool, str, bool]] = []
    pinned: list[Any] = []

    def pin(tensor: Any) -> Any:
        pinned.append(tensor.clone())
        return pinned[-1]

    def copied(tensor: Any, target: Any, non_blocking: bool) -> Any:
        copies.append((any(tensor is one for one in pinned), target.type, non_blocking))
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.Tensor, "to", copied)
    for target in ("cuda", "cpu"):
        process_group.moved(torch.ones(3), torch.device(target))
    assert copies == [(True, "cuda", True), (False, "cpu", True)]
