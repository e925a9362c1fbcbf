"""NVIDIA's drivers: the least one for a version of CUDA, and the one of this machine."""

from pathlib import Path

LEAST_DRIVER = {12: 525, 13: 580}
"""CUDA's major version -> first number of the least driver (NVIDIA, CUDA Compatibility, minor version compatibility)."""
LOADED = Path("/proc/driver/nvidia/version")


def least(cuda: str) -> int:
    """First number of the least driver for a version of CUDA such as 13.0."""
    major = int(cuda.partition(".")[0])
    return LEAST_DRIVER.get(major, max(LEAST_DRIVER.values()))


def loaded(place: Path = LOADED) -> str:
    """Version of the driver that is loaded here, such as 550.54.15; empty without one."""
    try:
        words = place.read_text().split()
    except OSError:
        return ""
    return next((word for word in words if word[:1].isdigit() and word.count(".") >= 1), "")


def cuda_of(lock: Path) -> str:
    """CUDA's version of a lock of packages (`cuda-toolkit==…`); empty for a lock without it. Raises OSError."""
    rows = (line.partition("==") for line in lock.read_text().splitlines())
    return next((version.strip() for name, _, version in rows if name == "cuda-toolkit"), "")
