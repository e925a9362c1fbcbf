"""Files of rows: JSON, JSON lines, Parquet, folders that Hugging Face `datasets` saved, and folders of LLaMA-Factory."""

import codecs
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from diagcot.data import parquet
from diagcot.data.errors import DataError
from diagcot.jobs.names import near
from diagcot.jobs.state import json_text, reading

DATASET_INFO = "dataset_info.json"
_STATE = "state.json"  # of a folder of `Dataset.save_to_disk`
_SPLITS = "dataset_dict.json"  # of a folder of `DatasetDict.save_to_disk`
_JSON_LINES = (".jsonl", ".ndjson")

Placed = tuple[str, Any]
"""(file and line or position from 1, row); the row of a line that is not JSON is None."""


def rows(path: Path, names: list[str] | None = None) -> Iterator[Placed]:
    """The rows of a file or folder in their order. names: sets of a folder with `dataset_info.json`; None: all.

    Raises DataError that names the file, if it is of none of the forms or damaged.
    """
    if path.is_dir():
        yield from _of_folder(path, names)
    elif path.suffix in _JSON_LINES:
        yield from _lines(path)
    elif path.suffix == ".json":
        yield from _json(path)
    elif path.suffix == ".parquet":
        yield from _parquet(path)
    else:
        raise DataError(
            f"{path}: its rows cannot be read; give a .json, .jsonl or .parquet file, or a folder of `datasets`"
        )


def _of_folder(folder: Path, names: list[str] | None) -> Iterator[Placed]:
    if (folder / _SPLITS).is_file():
        for split in _texts(folder / _SPLITS, _read_json(folder / _SPLITS).get("splits")):
            for place, row in _arrow(folder / split):
                yield place, {"split": split} | row
    elif (folder / _STATE).is_file():
        yield from _arrow(folder)
    elif (folder / DATASET_INFO).is_file():
        yield from _llama_factory(folder, names)
    else:
        raise DataError(f"{folder} has neither {_STATE}, {_SPLITS} nor {DATASET_INFO}; name its files instead")


def _lines(path: Path) -> Iterator[Placed]:
    for number, line in enumerate(reading.lines(path), 1):
        text = in_utf8(path, line) if number == 1 else line
        if text.strip():
            try:
                yield f"{path.name}:{number}", json_text.parse_json(text, foreign=True)
            except (ValueError, RecursionError):
                yield f"{path.name}:{number}", None


def _json(path: Path) -> Iterator[Placed]:
    data = in_utf8(path, reading.read_bytes(path))
    if why := json_text.json_fault(data):
        raise DataError(f"{path}: {why}: it was not read")
    listed = is_list(data)
    try:
        if not listed:
            yield f"{path.name}:1", json_text.parse_json(data, foreign=True)
            return
        text, data = data.decode(), b""  # only one of the two stays in memory
        for number, row in enumerate(json_text.json_elements(text), 1):
            yield f"{path.name}:{number}", row
    except RecursionError:
        raise DataError(f"{path} is not valid JSON (it is nested too deeply); write it again") from None
    except json_text.RepeatedKey as error:
        raise DataError(f"{path}: {error}") from None
    except ValueError as error:
        if listed or data.lstrip()[:1] != b"{":
            raise DataError(f"{path} is not valid JSON ({error}); correct it or write it again") from None
        yield from _lines(path)  # JSON lines under this name


def in_utf8(path: Path, data: bytes) -> bytes:
    """A text of JSON in UTF-8 without a byte order mark. Raises DataError that names another encoding."""
    encoding = json.detect_encoding(data)
    if not encoding.startswith("utf-8") and data[:64].decode(encoding, "replace").lstrip("\ufeff \r\n\t")[:1] in (
        "{",
        "[",
    ):
        raise DataError(f"{path} is {encoding[:6].upper()}: save it as UTF-8")
    return data.removeprefix(codecs.BOM_UTF8)


def is_list(data: bytes) -> bool:
    """Whether a text of JSON in UTF-8 is a list, by how it begins."""
    return data.lstrip()[:1] == b"[" and b"\0" not in data[:4]


def _parquet(path: Path) -> Iterator[Placed]:
    for number, row in enumerate(parquet.rows(path), 1):
        yield f"{path.name}:{number}", row


def _arrow(folder: Path) -> Iterator[Placed]:
    """The rows of a folder of `Dataset.save_to_disk`: streams of Arrow, in the order of its `state.json`."""
    import pyarrow as pa

    state = _read_json(folder / _STATE)
    if state.get("_indices_data_files"):
        raise DataError(f"{folder} was saved with a selection of rows; save it after `flatten_indices()`")
    files = state.get("_data_files")
    names = [entry.get("filename") for entry in files if isinstance(entry, dict)] if isinstance(files, list) else None
    number = 0
    for name in _texts(folder / _STATE, names):
        try:
            with reading.opened(folder / name) as file, pa.ipc.open_stream(file) as stream:
                for batch in stream:
                    for row in batch.to_pylist():
                        number += 1
                        yield f"{folder.name}:{number}", row
        except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
            reading.check_storage(folder / name, error)
            what = type(error).__name__  # the message of the library may show what a cell holds
            raise DataError(f"{folder / name} is no whole file of `datasets` ({what}); save it again") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = reading.read_json(path)
    except FileNotFoundError:
        raise DataError(f"{path} is not there; the folder is not whole: copy or save it again") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON ({error}); correct it") from None
    if not isinstance(content, dict):
        raise DataError(f"{path} is not a JSON object; copy or save the folder again")
    return content


def _texts(path: Path, found: Any) -> list[str]:
    """A list of texts that a file of a folder of `datasets` has. Raises DataError if it is none."""
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise DataError(f"{path} is not what `datasets` writes; save the folder again")
    return found


def _llama_factory(folder: Path, names: list[str] | None) -> Iterator[Placed]:
    info = _read_json(folder / DATASET_INFO)
    for name in info if names is None else names:
        if name not in info:
            raise DataError(f"{folder / DATASET_INFO} has no data set {name!r}{near(name, info)}")
        entry = info[name]
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key, {}), dict) for key in ("columns", "tags")):
            raise DataError(f"{folder / DATASET_INFO}: its entry {name!r} is not one of LLaMA-Factory; correct it")
        if not isinstance(entry.get("file_name"), str) or not entry["file_name"]:
            raise DataError(f"{folder / DATASET_INFO}: {name} has no file_name: only files on disk are read")
        path = folder / entry["file_name"]
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            for place, row in rows(file):
                yield place, _renamed(row, entry) if isinstance(row, dict) else row


def _renamed(row: dict[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    """A row with the columns and roles that our forms expect, by its entry in `dataset_info.json`."""
    if entry.get("ranking") or any(row.get(entry.get("columns", {}).get(name, name)) for name in ("videos", "audios")):
        return {}  # no form; counted as such
    columns, tags = entry.get("columns", {}), entry.get("tags", {})
    extra = {name: row[theirs] for name in ("system", "images") if (theirs := columns.get(name)) and theirs in row}
    if (formatting := entry.get("formatting", "alpaca")) == "alpaca":
        ours = {"instruction": "prompt", "input": "query", "output": "response", "history": "history"}
        defaults = {"prompt": "instruction", "query": "input", "response": "output", "history": "history"}
        return row | extra | {name: row.get(columns.get(role, defaults[role])) for name, role in ours.items()}
    defaults = _TAGS[formatting] if formatting in _TAGS else _TAGS["sharegpt"]
    role, text = (tags.get(f"{name}_tag", defaults[name]) for name in ("role", "content"))
    names = {tags.get(f"{name}_tag", defaults[name]): ours for name, ours in _TAGS["sharegpt"].items()}
    turns = row.get(columns.get("messages", defaults["messages"])) or []
    if not isinstance(turns, list):
        return row | extra | {"conversations": turns}
    said = [
        {"from": names.get(turn.get(role), turn.get(role)), "value": turn.get(text)} if isinstance(turn, dict) else turn
        for turn in turns
    ]
    return row | extra | {"conversations": said}


_TAGS = {
    "sharegpt": {"messages": "conversations", "role": "from", "content": "value"}
    | {"user": "human", "assistant": "gpt", "system": "system"},
    "openai": {"messages": "messages", "role": "role", "content": "content"}
    | {"user": "user", "assistant": "assistant", "system": "system"},
}
