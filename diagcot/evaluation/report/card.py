"""The model card and data statement of a run, from its own records (Mitchell et al. 2019; Bender and Friedman 2018)."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from diagcot.data.study import CHEXPERT_LABELS, SPLITS
from diagcot.evaluation.report import drawing
from diagcot.evaluation.report.history import Stage
from diagcot.shards import Shard


@dataclass
class Statement:
    """Counts of the images that a run could read, by dataset and split."""

    studies: Counter[tuple[str, str]] = field(default_factory=Counter)
    images: Counter[tuple[str, str]] = field(default_factory=Counter)
    patients: dict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))
    labels: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))  # label -> split -> studies
    phantom: int = 0
    image_sizes: set[str] = field(default_factory=set)

    @property
    def shared(self) -> int:
        """Patients of one dataset that are in more than one split."""
        places: Counter[tuple[str, str]] = Counter()
        for (dataset, _), names in self.patients.items():
            places.update((dataset, name) for name in names)
        return sum(count > 1 for count in places.values())


def statement(shards: Iterable[Path]) -> Statement:
    """What is in these shards; labels are counted where they are present."""
    found = Statement()
    for path in shards:
        shard = Shard(path)
        splits, datasets = shard.texts("studies/split"), shard.texts("studies/dataset")
        images = np.diff(shard.numbers("studies/first"))
        for place, count, patient in zip(
            zip(datasets, splits, strict=True), images.tolist(), shard.texts("studies/patient"), strict=True
        ):
            found.studies[place] += 1
            found.images[place] += count
            found.patients[place].add(patient)
        present = shard.numbers("studies/labels") == 1
        for split in SPLITS:
            mine = np.array([name == split for name in splits], dtype=bool)
            for label, count in zip(CHEXPERT_LABELS, present[mine].sum(axis=0).tolist(), strict=True):
                found.labels[label][split] += count
        found.phantom += int(shard.numbers("images/phantom").sum())
        found.image_sizes.add(str(shard.attrs.get("image_size", "their own")))
    return found


def markdown(
    metrics: Mapping[str, Any],
    stages: Sequence[Stage],
    data: Statement,
    versions: Mapping[str, str],
    table: str,
) -> str:
    """The card as Markdown. table: the metrics table, as Markdown. It holds no text or image of any study."""
    page = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    by_name = {stage.name: stage for stage in stages}
    places = sorted(data.studies, key=lambda place: (place[0], SPLITS.index(place[1])))
    return page.get_template("card.md.j2").render(
        metrics=metrics,
        models=[
            _model(name, by_name.get(name)) for name in metrics["models"] if name not in metrics.get("brought", {})
        ],
        data=[
            {
                "dataset": place[0],
                "split": place[1],
                "studies": data.studies[place],
                "images": data.images[place],
                "patients": len(data.patients[place]),
            }
            for place in places
        ],
        splits=[split for split in SPLITS if any(place[1] == split for place in places)],
        labels=data.labels,
        phantom=data.phantom,
        images=sum(data.images.values()),
        image_size=" and ".join(sorted(data.image_sizes)),
        shared=data.shared,
        table=table,
        stages=stages,
        gpu_hours=sum(stage.gpu_hours for stage in stages),
        seconds=sum(stage.seconds for stage in stages),
        versions=versions,
        duration=drawing.duration,
        moment=drawing.moment,
    )


def _model(name: str, stage: Stage | None) -> dict[str, str]:
    counts = stage.counts if stage else {}
    whole, free = counts.get("parameters"), counts.get("trainable")
    trained = f"{free:,.0f}" if free else "–"
    if stage and stage.settings.get("trainable"):
        trained += f" ({', '.join(stage.settings['trainable'])})"
    return {
        "name": name,
        "kind": stage.kind.rpartition(".")[2] if stage else "given",
        "parameters": f"{whole:,.0f}" if whole else "–",
        "trainable": trained,
        "follows": ", ".join(stage.models) if stage else "",
    }
