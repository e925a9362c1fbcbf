"""What a GPU's memory holds beside the weights, by figures that are computed by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from diagcot.jobs import UserError
from diagcot.serving import ServerSettings, capacity
from diagcot.serving.server import check, command
from diagcot.serving.server.placement import Placement

QWEN_7B = {"num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4, "hidden_size": 3584}
QWEN_32B = {"num_hidden_layers": 64, "num_attention_heads": 40, "num_key_value_heads": 8, "hidden_size": 5120}
GPU_80, GPU_24 = 80 * 10**9, 24 * 10**9


def folder(root: Path, size: int, **config: Any) -> Path:
    (root / "config.json").write_text(json.dumps(config))
    with (root / "model.safetensors").open("wb") as out:
        out.truncate(size)  # a hole: no disk is used
    return root


def fitted(root: Path, memory: int | None, placement: Placement, fixed: bool = False, **given: Any) -> ServerSettings:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(capacity, "gpu_memory", lambda names: memory)
        return capacity.fitted(ServerSettings(**given), root, placement, fixed)


def test_a_token_has_the_bytes_of_its_keys_and_values() -> None:
    settings = ServerSettings()
    assert capacity.token_bytes(settings, QWEN_7B, 1) == 2 * 28 * 4 * 128 * 2
    assert capacity.token_bytes(settings, QWEN_32B, 4) == 2 * 64 * 2 * 128 * 2
    assert capacity.token_bytes(settings, QWEN_7B, 7) == 2 * 28 * 1 * 128 * 2  # key-value heads are copied
    assert capacity.token_bytes(settings, QWEN_32B, 8, nodes=2) == 2 * 32 * 1 * 128 * 2


@pytest.mark.parametrize(
    ("given", "sequences"),
    [
        # (0.9 x 80 - 16.6 - 5) GB / 57,344 bytes / 2,048 tokens = 429, and 256 is the most
        ({"gpu_memory_utilization": 0.9, "max_model_len": 4096}, 256),
        # (0.6 x 80 - 21.6) GB / 57,344 / 2,560 = 179.8
        ({"gpu_memory_utilization": 0.6, "max_model_len": 5120}, 176),
        ({"gpu_memory_utilization": 0.3, "max_model_len": 16000}, 16),
        ({"gpu_memory_utilization": 0.6, "max_num_seqs": 7}, 7),
    ],
)
def test_sequences_follow_from_the_memory_unless_they_are_named(tmp_path: Path, given: Any, sequences: int) -> None:
    root = folder(tmp_path, 166 * 10**8, text_config=QWEN_7B)
    chosen = fitted(root, GPU_80, Placement(gpus=("0",)), **given)
    assert chosen.max_num_seqs == sequences and chosen.kv_cache_gb is None
    assert chosen.window == sequences * 3 // 2


def test_sizes_that_a_config_leaves_to_transformers_are_not_needed(tmp_path: Path) -> None:
    """As published for Gemma 3 4B."""
    root = folder(tmp_path, 86 * 10**8, text_config={"num_hidden_layers": 34, "hidden_size": 2560})
    assert fitted(root, GPU_80, Placement(gpus=("0",))).max_num_seqs is None


def test_a_model_over_several_gpus_and_a_gpu_of_two_servers(tmp_path: Path) -> None:
    root = folder(tmp_path, 67 * 10**9, **QWEN_32B)
    four = Placement(gpus=("0", "1", "2", "3"), tensor_parallel=4)
    # (0.95 x 80 - 67 / 4 - 5) GB / 65,536 / 8,000 = 103.5
    assert fitted(root, GPU_80, four, gpu_memory_utilization=0.95, max_model_len=16000).max_num_seqs == 96
    half = Placement(gpus=("0",), memory_share=0.5)
    small = folder(tmp_path, 166 * 10**8, **QWEN_7B)
    # (0.9 x 40 - 21.6) GB / 57,344 / 2,048 = 122.6
    assert fitted(small, GPU_80, half).max_num_seqs == 120


def test_where_the_memory_is_not_known_nothing_is_chosen(tmp_path: Path) -> None:
    root = folder(tmp_path, 166 * 10**8, **QWEN_7B)
    for memory, placement in ((None, Placement(gpus=("0",))), (GPU_80, Placement())):
        chosen = fitted(root, memory, placement, fixed=True)
        assert chosen == ServerSettings() and chosen.sequences == 64 and chosen.window == 96


def test_a_fixed_cache_is_what_the_share_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, gpu = folder(tmp_path, 166 * 10**8, **QWEN_7B), Placement(gpus=("0",))
    chosen = fitted(root, GPU_80, gpu, fixed=True, gpu_memory_utilization=0.6)
    assert chosen.kv_cache_gb == int((0.6 * GPU_80 - 166 * 10**8 - 5 * 10**9) // 2**30) == 24
    assert fitted(root, GPU_80, gpu, fixed=True, kv_cache_gb=9).kv_cache_gb == 9
    monkeypatch.setattr(command, "on_cpu", lambda: False)
    arguments = command.arguments(chosen, gpu)
    assert arguments[arguments.index("--kv-cache-memory-bytes") + 1] == str(24 * 2**30)
    assert "--kv-cache-memory-bytes" not in command.arguments(fitted(root, GPU_80, gpu), gpu)
    with pytest.raises(UserError, match=r"gpu_memory_utilization 0.9 of 24 GB leaves no room .* 17 GB of weights"):
        fitted(root, GPU_24, gpu, fixed=True)


def test_weights_that_the_server_reads_in_a_smaller_type_take_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder(tmp_path, 332 * 10**8, torch_dtype="float32", num_attention_heads=28, num_key_value_heads=4)
    config = json.loads((root / "config.json").read_text())
    assert capacity.weight_bytes(root, ServerSettings(), config) == 166 * 10**8
    assert capacity.weight_bytes(root, ServerSettings(dtype="float32"), config) == 332 * 10**8
    assert capacity.weight_bytes(root, ServerSettings(quantization="fp8"), config) == 83 * 10**8
    monkeypatch.setattr(check, "gpu_memory", lambda names: 30 * 10**9)
    check.check(root, ServerSettings(), Placement(gpus=("0",)))
    with pytest.raises(UserError, match="take 33 GB"):
        check.check(root, ServerSettings(dtype="float32"), Placement(gpus=("0",)))
