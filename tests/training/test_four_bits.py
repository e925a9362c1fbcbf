"""QLoRA as a whole stage, where bitsandbytes is installed: its CPU kernels pack and compute in 4 bits."""

from pathlib import Path

import pytest

from tests.training.conftest import SFT, deepspeed, inputs
from tests.training.ranks import start

pytestmark = pytest.mark.heavy


def test_an_adapter_on_a_base_in_four_bits_learns_on_two_ranks(training_root: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from safetensors.torch import load_file

    lora = {"rank": 4, "load_in_4bit": True}
    ways = {"four-bits": lora, "sixteen-bits": {"rank": 4}}
    settings = {"trainable": ["lora"], "deepspeed": deepspeed(steps=6, precision="bf16", warmup_steps=0)}
    job = start(
        training_root, SFT, "four-bits", {**settings, "lora": lora}, inputs(training_root),
        further={"sixteen-bits": {"lora": ways["sixteen-bits"]}},
    )  # fmt: skip
    job.wait()
    rows = job.rows()
    assert len(rows) == 6 and rows[-1]["loss"] < 0.95 * rows[0]["loss"]
    whole = [row["loss"] for row in type(job)(training_root, "sixteen-bits", [], job.log).rows()]
    assert [row["loss"] for row in rows] == pytest.approx(whole, rel=0.1) and rows[0]["loss"] != whole[
        0
    ]  # rounded weights
    adapter = load_file(job.output / "model" / "adapter_model.safetensors")
    assert {str(value.dtype) for value in adapter.values()} == {"torch.bfloat16"}
    assert any(float(value.abs().max()) > 0 for name, value in adapter.items() if "lora_B" in name)
