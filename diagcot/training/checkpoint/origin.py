"""What a checkpoint was made of. A stage goes on only from checkpoints that were made of what it is made of itself."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from pydantic import ValidationError

from diagcot.jobs import Context
from diagcot.jobs.environment import code
from diagcot.jobs.settings import Settings
from diagcot.tasks.samples import Sample
from diagcot.training.distributed import process_group
from diagcot.training.models import pretrained

WITHOUT_EFFECT = {
    *("save_every", "keep", "async_save", "trackers", "validate_every", "image_cache_mb", "vision_cache_mb"),
    *("micro_batch", "micro_batch_tokens", "sequence_parallel", "offload", "gradient_checkpointing"),
}
"""Settings that change when a stage writes, what it keeps in memory and how a step is cut into passes: none of the weights
but for the order of sums, as another number of ranks does."""


class OriginRecord(TypedDict):
    """An origin as a manifest holds it. data, model, code: digests."""

    settings: dict[str, Any]
    seed: int
    data: str
    model: str
    code: str


class Origin(NamedTuple):
    """What a stage is made of. data, model, code: digests of its samples, of its base model and of the code that runs."""

    settings: Settings
    seed: int
    data: str
    model: str
    code: str

    def record(self) -> OriginRecord:
        """The origin for a manifest."""
        return {**self._asdict(), "settings": self.settings.model_dump(mode="json")}  # type: ignore[typeddict-item]

    def differences(self, other: OriginRecord | None, run_dir: Path) -> list[str]:
        """What differs from a checkpoint's origin; empty if the stage may go on from it.

        run_dir: `logs/<run>`. Code that this run itself ran before (`make retry CODE=new`) may differ.
        """
        if other is None:
            return ["it does not say what it was made of"]
        found = _different_settings(self.settings, other["settings"])
        found += [f"{name} other than now" for name in ("seed", "data", "model") if other[name] != getattr(self, name)]
        if other["code"] != self.code and not (other["code"] and (run_dir / code.FOLDER / other["code"]).is_dir()):
            found.append("code other than this run's")
        return found


def of(ctx: Context, settings: Settings, samples: Iterable[Sample], base: Path) -> Origin:
    """The origin of a stage that trains the model in `base` on these samples. A collective: rank 0 reads the files."""
    own = (_digest_of_data(samples, ctx.shards_root), pretrained.digest(base)) if ctx.rank == 0 else None
    data, model = process_group.broadcast(own)
    snapshot = Path(os.environ.get(code.VARIABLE, ""))
    return Origin(settings, ctx.seed, data, model, snapshot.name if snapshot.parent.name == code.FOLDER else "")


def _digest_of_data(samples: Iterable[Sample], shards_root: Path) -> str:
    """Digest of the samples in their order and of the shards that hold their images."""
    from diagcot.shards import Shard

    total = hashlib.sha256()
    shards: set[str] = set()
    for sample in samples:
        total.update(f"{sample.to_json()}\n".encode())
        shards |= {ref.shard for ref in sample.images}
    for name in sorted(shards):
        path = shards_root / name
        total.update(f"{name} {Shard(path).fingerprint if path.is_file() else ''}\n".encode())
    return total.hexdigest()[:16]


def _different_settings(settings: Settings, other: dict[str, Any]) -> list[str]:
    """Keys whose values differ, each with both values; `other` is read as today's code reads it."""
    try:
        there = _flat(type(settings).model_validate(other).model_dump(mode="json"))
    except ValidationError:
        return ["settings that this version does not know"]
    here = _flat(settings.model_dump(mode="json"))
    keys = sorted(key for key in here.keys() | there.keys() if here.get(key) != there.get(key))
    return [f"{key} {there.get(key)} (now {here.get(key)})" for key in keys]


def _flat(settings: dict[str, Any], at: str = "") -> dict[str, Any]:
    """Dotted key -> value, those without effect left out."""
    values: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            values |= _flat(value, f"{at}{key}.")
        elif key not in WITHOUT_EFFECT:
            values[f"{at}{key}"] = value
    return values
