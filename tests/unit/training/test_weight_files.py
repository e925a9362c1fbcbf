"""Headers of safetensors files that lie: each is refused at once, with the file and the remedy."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from diagcot.jobs import ModelError
from diagcot.training.models.weight_files import tensors_of

MOST = 20 << 20  # bytes that a refusal may take


def stored(path: Path, header: Any, values: int, length: int | None = None) -> Path:
    """A file with a header, as JSON or as bytes, and this many bytes of values. length: that the file says of its header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + bytes(values))
    return path


def tensor(start: int, end: int, shape: Any = (2,), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def test_a_whole_file_is_read(tmp_path: Path) -> None:
    header = {
        "__metadata__": {"format": "pt"},
        "b": tensor(8, 24, [2, 2]),
        "a": tensor(0, 8),
        "none": tensor(8, 8, [0, 5]),
    }
    path = stored(tmp_path / "a.safetensors", header, 24)
    assert [found.end - found.start for found in tensors_of(path).values()] == [16, 8, 0]


@pytest.mark.parametrize(
    ("header", "values", "length"),
    [
        ({}, 0, 2**63),
        ({}, 0, 2**64 - 1),
        ({}, 90, 91 + 2),
        (b"[" * 100_000, 0, None),
        (b"{" + b'"a":{' * 50_000, 0, None),
        (b"null", 0, None),
        (b"[]", 0, None),
        ({"a": None}, 8, None),
        ({"a": {"dtype": "F32"}}, 8, None),
        ({"a": tensor(-8, 0)}, 8, None),
        ({"a": tensor(8, 0)}, 8, None),
        ({"a": tensor(0, 2**62, [2**60])}, 8, None),
        ({"a": tensor(0, 8, [2**62, 2**62])}, 8, None),
        ({"a": tensor(0, 8, [-1, -2])}, 8, None),
        ({"a": tensor(0, 8, [3])}, 8, None),
        ({"a": tensor(0, 8, [2.0])}, 8, None),
        ({"a": tensor(0, 8, [True, 2])}, 8, None),
        ({"a": tensor(0, 8, "22")}, 8, None),
        ({"a": tensor(0, 8, dtype=[])}, 8, None),
        ({"a": tensor(0, 8), "b": tensor(4, 12)}, 12, None),  # overlap
        ({"a": tensor(0, 8), "b": tensor(0, 8)}, 8, None),
        ({"a": tensor(0, 8), "b": tensor(12, 20)}, 20, None),  # gap
        ({"a": tensor(0, 8)}, 7, None),
        ({"a": tensor(0, 8)}, 9, None),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, header: Any, values: int, length: int | None) -> None:
    path = stored(tmp_path / "a.safetensors", header, values, length)
    tracemalloc.start()
    try:
        with pytest.raises(ModelError, match=r"a\.safetensors .*download it again"):
            tensors_of(path)
        assert tracemalloc.get_traced_memory()[1] < MOST
    finally:
        tracemalloc.stop()


def test_a_header_of_a_hundred_megabytes_is_not_read(tmp_path: Path) -> None:
    path = stored(tmp_path / "a.safetensors", b"", 0, 99_000_000)
    with path.open("r+b") as file:
        file.truncate(100_000_000)
    with pytest.raises(ModelError, match=r"its header has 94 MB, over 16"):
        tensors_of(path)


def test_an_index_names_files_of_its_folder_alone(tmp_path: Path) -> None:
    from diagcot.training.models.pretrained import weights_of

    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2_vl"}))
    for name in ("../a.safetensors", "/etc/passwd", "..", ""):
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(ModelError, match="which is no file of its folder; download it again"):
            weights_of(tmp_path)
