"""Bytes of a value and peak speed of GPUs."""

import re

VALUE_BYTES = {"fp32": 4, "bf16": 2}
OPTIMIZER_BYTES = 12  # of a trained parameter: fp32 master copy and Adam's two moments

GPU_BYTES = 80e9
"""Memory of the GPU that estimates assume: an A100 or H100 of 80 GB."""

A100 = 312e12  # bf16 FLOP/s, dense
PEAKS = (
    (r"\bB200\b", 2250e12),
    (r"\bH100 PCIe\b", 756e12),
    (r"\bH100 NVL\b", 835e12),
    (r"\b(H100|H200|H800|GH200)\b", 989e12),
    (r"\bH20\b", 148e12),
    (r"\b(A100|A800)\b", A100),
    (r"\bA30\b", 165e12),
    (r"\bA40\b", 150e12),
    (r"\bL40S\b", 362e12),
    (r"\bL4\b", 121e12),
)
"""bf16 tensor FLOP/s without sparsity by the device's name, from NVIDIA's data sheets."""


def peak_flops(device: str) -> float | None:
    """bf16 FLOP/s of the GPU of that name; None if it is not in the table."""
    return next((flops for pattern, flops in PEAKS if re.search(pattern, device)), None)
