"""What a model folder holds, as far as a running server cares: is it the same model, and are its weights the same?"""

import hashlib
import json
from pathlib import Path
from typing import Any

_VOLATILE = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "architectures_version"}
_PROCESSING = ("tokenizer.json", "preprocessor_config.json", "processor_config.json", "chat_template.jinja")


def architecture(model_dir: Path) -> str:
    """Digest of all but the weights: configuration, tokenizer, image processor and chat template.

    A server can change over only to a folder with the same digest.
    """
    total = hashlib.sha256(json.dumps(_settled(_config(model_dir)), sort_keys=True).encode())
    for name in _PROCESSING:
        path = model_dir / name
        if path.exists():
            data = path.read_bytes()
            if name.endswith("_config.json"):
                data = json.dumps(_settled(json.loads(data)), sort_keys=True).encode()
            total.update(name.encode() + b"\0" + data)
    return total.hexdigest()


def tied(model_dir: Path) -> bool:
    """Whether input and output embeddings are one matrix, which vLLM's reload leaves stale (silently)."""
    config = _config(model_dir)
    text = config.get("text_config") or {}
    return bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False)))


def stamp(model_dir: Path) -> tuple[Any, ...]:
    """Tells two states of a model folder apart without reading the weights."""
    files = sorted(model_dir.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"no *.safetensors in {model_dir}")
    return (str(model_dir), *((f.name, f.stat().st_size, f.stat().st_mtime_ns, f.stat().st_ino) for f in files))


def _config(model_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    return found


def _settled(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _settled(v) for k, v in value.items() if k not in _VOLATILE and v is not None}
    return [_settled(v) for v in value] if isinstance(value, list) else value
