"""Files of rows for other suites: JSON, JSON lines, Parquet, and folders as `datasets` saves them."""

import json
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from diagcot.jobs.state import reading

Row = dict[str, Any]
_ROWS = 256  # in a group of a Parquet file or a batch of Arrow


def json_lines(path: Path, rows: Iterable[Row]) -> None:
    """Write one object on each line."""
    with reading.written(path) as out:
        out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def json_list(path: Path, rows: Iterable[Row]) -> None:
    """Write a list of objects, one on each line."""
    with reading.written(path) as out:
        for place, row in enumerate(rows):
            out.write(("[\n" if place == 0 else ",\n") + json.dumps(row, ensure_ascii=False))
        out.write("\n]\n")


def parquet(path: Path, rows: Iterable[Row]) -> None:
    """Write a Parquet file, whose images are objects of `bytes` and `path`."""
    from pyarrow import parquet as pq

    rows, schema = _with_schema(rows)
    with pq.ParquetWriter(path, schema) as out:
        for batch in _batches(rows, schema):
            out.write_batch(batch)


def saved_dataset(folder: Path, rows: Iterable[Row]) -> None:
    """Write a folder that `datasets.load_from_disk` reads: a stream of Arrow, the features and the state."""
    import pyarrow as pa

    folder.mkdir()
    name = "data-00000-of-00001.arrow"
    rows, schema = _with_schema(rows)
    features = {field.name: _feature(field.name, field.type) for field in schema}
    info = {"features": features, "description": "", "citation": "", "homepage": "", "license": ""}
    schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, schema) as out:
        for batch in _batches(rows, schema):
            out.write_batch(batch)
    state: dict[str, Any] = {
        "_data_files": [{"filename": name}],
        "_fingerprint": "0" * 16,
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=2))
    (folder / "state.json").write_text(json.dumps(state, indent=2))


def _with_schema(rows: Iterable[Row]) -> tuple[Iterator[Row], Any]:
    """The rows and their schema: rows of a form differ in no more than what the first block of them shows."""
    import pyarrow as pa

    rows = iter(rows)
    first = list(islice(rows, _ROWS))
    schema = pa.Table.from_pylist(first).schema
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    if "images" in schema.names:  # the first rows may have none
        schema = schema.set(schema.get_field_index("images"), pa.field("images", pa.list_(image)))
    return chain(first, rows), schema


def _batches(rows: Iterator[Row], schema: Any) -> Iterator[Any]:
    import pyarrow as pa

    while block := list(islice(rows, _ROWS)):
        yield pa.RecordBatch.from_pylist(block, schema=schema)


def _feature(name: str, type_: Any) -> Any:
    """A type of Arrow as `datasets` writes it in `dataset_info.json`; a list is a list of one feature."""
    import pyarrow as pa

    if pa.types.is_list(type_):
        return [{"_type": "Image"} if name == "images" else _feature("", type_.value_type)]
    if pa.types.is_struct(type_):
        return {field.name: _feature(field.name, field.type) for field in type_}
    return {"dtype": str(type_), "_type": "Value"}
