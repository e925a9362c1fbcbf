"""Which images the training stages of a run have seen, so that no figure of evaluation rests on one of them.

An image is known again by its study, by its name in the collection that it was taken from, by the digest of its file, and by
its looks (`diagcot.data.likeness`), whatever collection it is in. Phantoms are drawn for one study each and left aside.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from diagcot.data.likeness import BYTES, Lookup
from diagcot.jobs import Context, UserError
from diagcot.jobs.plans import plan, reused
from diagcot.shards.reader import Shard, shard_paths

SHARDS = ("diagcot.shards.build", "diagcot.exchange.importing")
"""The kinds of work of the stages that write shards."""


class SeenImages:
    """The images of shards that are not of their test split. Memory: about 600 bytes for each."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._studies: set[int] = set()  # hashes, because the names themselves would take most of the memory
        self._names: set[int] = set()
        self._files: set[bytes] = set()
        looks = [np.zeros((0, BYTES), np.uint8)]
        for shard in map(Shard, paths):
            looks.append(self._add(shard))
        self._looks = Lookup(np.concatenate(looks))

    def _add(self, shard: Shard) -> np.ndarray:
        """Remember the images of a shard; returns their perceptual digests."""
        splits, datasets = shard.texts("studies/split"), shard.texts("studies/dataset")
        studies, ids, origins = shard.texts("studies/id"), shard.texts("images/id"), shard.texts("images/origin")
        owner = shard.numbers("images/study").tolist()
        phantom = shard.numbers("images/phantom")
        kept = np.array([splits[study] != "test" for study in owner], np.bool_) & ~phantom
        files = shard.numbers("images/sha256")
        for row in np.flatnonzero(kept).tolist():
            study = owner[row]
            self._studies.add(hash(f"{datasets[study]}/{studies[study]}"))
            self._names.add(hash(origins[row] or f"{datasets[study]}/{ids[row]}"))
            self._files.add(files[row].tobytes())
        found: np.ndarray = shard.numbers("images/likeness")[kept]
        return found

    def why(self, shard: Shard, row: int) -> str:
        """How image `row` of a shard is known to have been seen; empty if it was not."""
        if shard.numbers("images/phantom")[row]:
            return ""
        study, image = shard.study(shard.study_of(row)), shard.image(row)
        if hash(study.key) in self._studies:
            return "the same study"
        if hash(image.origin or f"{study.dataset}/{image.id}") in self._names:
            return "the same image by name"
        if shard.numbers("images/sha256")[row].tobytes() in self._files:
            return "the same file"
        looks = shard.numbers("images/likeness")[row]
        return "the same picture" if looks.any() and len(self._looks.find(looks)) else ""


def seen_in_run(ctx: Context, role: str = "models") -> SeenImages:
    """What the models of an input role have seen: the shards of all stages that they were made from."""
    run = ctx.stage_dir.parent
    stages = _ancestors(run, [Path(root).name for root in ctx.inputs.get(role, [])])
    roots = sorted({str(found.output) for found in stages if found.kind in SHARDS})
    return SeenImages(path for root in roots if Path(root).is_dir() for path in shard_paths(Path(root)))


def _ancestors(run: Path, names: list[str]) -> Iterator[Any]:
    """The plans of these stages of a run, and of all that they were made from, in other runs too."""
    todo = [(run, name) for name in names]
    known = set(todo)
    while todo:
        folder = reused.stage_dir(*todo.pop())
        with suppress(UserError, OSError):  # a folder without a plan is no stage of a run
            found = plan.read(folder)
            yield found
            earlier = {(folder.parent, Path(root).name) for roots in found.inputs.values() for root in roots} - known
            known |= earlier
            todo += sorted(earlier)
