"""Memory of a reader at the scale of MIMIC-CXR."""

import tracemalloc
from pathlib import Path

from diagcot.data.readers.mimic_cxr import MimicCxr
from tests.unit.data.test_mimic import large_tree


def test_memory_stays_flat_at_scale(tmp_path: Path) -> None:
    """What each further study takes, kept and at the peak; all 227,835 are then 30 and 90 MB."""
    used = []
    for count in (100, 2_000, 8_000):  # the first for what is loaded once
        root = large_tree(tmp_path / str(count), count)
        tracemalloc.start()
        reader = MimicCxr(root)
        reader._images, reader._labels, reader._report  # noqa: B018  what stays, without the mapping that patients() returns
        used.append(tracemalloc.get_traced_memory())
        tracemalloc.stop()
    held, peak = ((large - small) / 6_000 for small, large in zip(*used[1:], strict=True))
    print(f"{held:.0f} bytes a study are kept, {peak:.0f} at the peak")
    assert held < 130 and peak < 450
    study = next(reader.studies("10000001"))
    assert (len(study.images), len(reader.labels(study)), len(reader.patients())) == (2, 14, 2_000)
