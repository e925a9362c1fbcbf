"""Bytes of what is written of each sample: chains of thought, verdicts, answers.

Measured on the demo (docs/performance.md): a record has its names, places and question, and several texts as long as a report.
"""

from typing import Any

from diagcot.data.phantom.settings import PhantomsSettings
from diagcot.evaluation.settings import WRITTEN, EvaluateSettings
from launchers.model_size import KEPT_TRACES, MIMIC_TRAINING_IMAGES
from launchers.stage_kind import ChainView, Stage

FIELDS = 600  # of a record without its texts
SHORT_REPORT, REPORT = (
    200,
    640,
)  # a report of a phantom or of IU-Xray; of another collection (160 tokens, arXiv:2509.06409)
ANSWER = 25  # a box, a list of labels, an option
LABELS = 600  # the probabilities of the 14 labels
VERDICT = 250
TEXTS_OF_TRACE, TEXTS_OF_SAMPLE, TEXTS_OF_ANSWER = 14, 6, 3  # as long as a report, or as an answer
MIMIC_IMAGES = {"train": MIMIC_TRAINING_IMAGES, "test": {True: 2_580, False: 5_159}}
"""Split -> images with both sections, and all (arXiv:2509.06409, physionet.org)."""
IU_STUDIES, IU_SHARES, IU_IMAGES = 3_955, {"train": 0.7, "test": 0.2}, 1.9
"""Studies of IU-Xray, split -> share of them, and images of a study."""


def traces(stage: Stage[Any], chain: ChainView) -> int | None:
    """Bytes of the traces of a `collect` stage; None if their number is not known."""
    count = _collected(stage, chain)
    return None if count is None else count * (FIELDS + TEXTS_OF_TRACE * _report(stage, chain))


def filtered(stage: Stage[Any], chain: ChainView) -> int | None:
    """Bytes of the verdicts of a `filter` stage and of the samples that it keeps; None if their number is not known."""
    collect = chain.stage(stage.inputs["traces"][0])
    count = _collected(collect, chain) if collect.spec.kind == "collect" else None
    if count is None:
        return None
    return int(count * (VERDICT + KEPT_TRACES * (FIELDS + TEXTS_OF_SAMPLE * _report(collect, chain))))


def answers(stage: Stage[EvaluateSettings], chain: ChainView) -> int | None:
    """Bytes of the answers of an `evaluate` stage; None if their number is not known."""
    count, report = _tested(stage, chain), _report(stage, chain)
    if count is None:
        return None
    total = 0
    for task in stage.settings.tasks:
        size = FIELDS + TEXTS_OF_ANSWER * (report if task in ("report", *WRITTEN) else ANSWER)
        if task == "classification" and stage.settings.probabilities:
            size = 2 * (size + LABELS)  # of the validate split, too
        total += size
    return total * count * len(stage.inputs["models"])


def ranks(stage: Stage[Any], chain: ChainView) -> int | None:
    """Bytes of the ranks of a `retrieval` stage; None if the number of pairs is not known."""
    count = _tested(stage, chain)
    size = FIELDS + TEXTS_OF_ANSWER * _report(stage, chain)
    return None if count is None else count * size * len(stage.inputs["models"])


def _collected(stage: Stage[Any], chain: ChainView) -> int | None:
    one_task = _samples(stage, chain, "train", one_image=stage.settings.views != "all")
    return None if one_task is None else one_task * len(stage.settings.tasks)


def _tested(stage: Stage[Any], chain: ChainView) -> int | None:
    return _samples(stage, chain, "test", one_image=stage.settings.views == "study")


def _samples(stage: Stage[Any], chain: ChainView, split: str, one_image: bool) -> int | None:
    """Samples of one task in a split; None if that is not known. one_image: a study is one sample, or gives one image."""
    names, limit = stage.inputs["shards"], stage.settings.samples_per_shard
    asked = sum(limit * len(chain.units_of(name)) for name in names) if limit else None
    there = [_held(source, name, chain, split, one_image) for name in names for source in _sources(name, chain)]
    known = sum(one for one in there if one is not None)
    if not there or None in there:
        return asked
    return round(known if asked is None else min(asked, known))


def _held(source: Any, shards: str, chain: ChainView, split: str, one_image: bool) -> float | None:
    """Samples that a source has in a split, at most; None if that is not known."""
    one_image = one_image or source.frontal_only
    if source.input is not None:
        drawn = chain.stage(chain.stage(shards).inputs[source.input][0]).settings
        if not isinstance(drawn, PhantomsSettings):
            return None
        studies = drawn.studies * (drawn.held_out if split == "test" else 1 - 2 * drawn.held_out)
        return studies * (1 if one_image else len(drawn.views))
    if source.kind == "iu_xray":
        return min(IU_STUDIES, source.max_studies or IU_STUDIES) * IU_SHARES[split] * (1 if one_image else IU_IMAGES)
    if source.kind != "mimic_cxr" or source.path is None or source.max_studies or source.frontal_only:
        return None
    return MIMIC_IMAGES[split][source.requires_both_sections]


def _sources(name: str, chain: ChainView) -> list[Any]:
    return list(getattr(chain.stage(name).settings, "sources", []))


def _report(stage: Stage[Any], chain: ChainView) -> int:
    """Bytes of a report of the stage's shards."""
    sources = [source for name in stage.inputs.get("shards", []) for source in _sources(name, chain)]
    short = all(source.input is not None or source.kind == "iu_xray" for source in sources)
    return SHORT_REPORT if short else REPORT
