"""Compares model folders: the same architecture, the same weights."""

import hashlib
import json
from pathlib import Path
from typing import Any

from diagcot.jobs.state import reading

_IGNORED = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "architectures_version"}
_PROCESSING = ("tokenizer.json", "preprocessor_config.json", "processor_config.json", "chat_template.jinja")


def architecture(model_dir: Path) -> str:
    """Digest of everything except the weights: configuration, tokenizer, image processor and chat template.

    A running server can load the weights of a folder only if the digest is the same.
    """
    digest = hashlib.sha256(json.dumps(_comparable(_config(model_dir)), sort_keys=True).encode())
    for name in _PROCESSING:
        path = model_dir / name
        if path.exists():
            data = reading.read_bytes(path)
            if name.endswith("_config.json"):
                data = json.dumps(_comparable(json.loads(data)), sort_keys=True).encode()
            digest.update(name.encode() + b"\0" + data)
    return digest.hexdigest()


def stamp(model_dir: Path) -> tuple[Any, ...]:
    """Path, names, sizes and times of the weight files; equal only if the folder has not changed.

    Raises FileNotFoundError if there are no weight files.
    """
    files = sorted(model_dir.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"no *.safetensors in {model_dir}")
    return (str(model_dir), *((f.name, f.stat().st_size, f.stat().st_mtime_ns, f.stat().st_ino) for f in files))


def _config(model_dir: Path) -> dict[str, Any]:
    config: dict[str, Any] = reading.read_json(model_dir / "config.json")
    return config


def _comparable(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _comparable(v) for k, v in value.items() if k not in _IGNORED and v is not None}
    return [_comparable(v) for v in value] if isinstance(value, list) else value
