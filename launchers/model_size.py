"""The model that a stage of training descends from, the samples that stages see and write, and what they cost."""

from importlib.util import find_spec
from typing import Any

from diagcot.cot.settings import CollectSettings
from diagcot.data.phantom.settings import PhantomsSettings
from diagcot.evaluation.settings import WRITTEN, EvaluateSettings
from diagcot.jobs import UserError
from diagcot.shards.settings import BuildSettings
from diagcot.training.config.settings import DeepSpeedSettings, FreezePolicy, LoraSettings, ModelSettings
from diagcot.training.cost import (
    Engine,
    Estimate,
    ModelShape,
    Workload,
    checkpoint_storage,
    estimate,
    shape_of,
    training_storage,
)
from diagcot.training.families import Family, family_named
from diagcot.training.models.pretrained import SMALL_FILES
from launchers.stage_kind import ChainView, Stage

MIMIC_TRAINING_IMAGES = {True: 223_049, False: 368_960}
"""`only_fi` -> training images of MIMIC-CXR: those whose report has findings and impression (arXiv:2509.06409), and all
(physionet.org)."""
KEPT_TRACES = 0.91  # share of the collected traces that become samples (arXiv:2509.06409)
REPORT_TOKENS, TRACE_TOKENS = (175, 160), (760, 740)
"""Text tokens of a sample, and those of them that are learned, in DiagCoT's published runs (arXiv:2509.06409)."""

# Bytes of what is written of a sample: names, places and question, and texts as long as a report. Measured on the demo.
FIELDS = 600
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

LOG_BYTES, TOKEN_BYTES = 220, 80
"""Bytes of a line of train.jsonl, and of a token in tokenizer.json, measured on the demo."""

LEAST_SUBWORDS = 10_000
"""Tokens of a vocabulary of parts of words, at least; those of the published models have over 100,000."""


def base_of(stage: Stage[Any], chain: ChainView) -> Stage[ModelSettings] | None:
    """The stage of kind `model` that a stage of training descends from; None if there is none."""
    while not isinstance(stage.settings, ModelSettings):
        if not stage.inputs.get("model"):
            return None
        stage = chain.stage(stage.inputs["model"][0])
    return stage


def shape(stage: Stage[Any], chain: ChainView) -> ModelShape | None:
    """Shape of the model that a stage descends from; None if it descends from none. Raises UserError if it is missing."""
    base = base_of(stage, chain)
    return shape_of(base.settings) if base else None


def has_clause_tokens(stage: Stage[Any], chain: ChainView) -> bool:
    """Whether the tokens of the stage's model are whole clauses, as those of the toys are; False for a missing model."""
    try:
        model = shape(stage, chain)
    except UserError:
        return False
    return model is not None and model.vocabulary < LEAST_SUBWORDS


def check_training(
    stage: Stage[Any],
    chain: ChainView,
    deepspeed: DeepSpeedSettings,
    ranks: int,
    gpus: int = 0,
    lora: LoraSettings | None = None,
) -> None:
    """Raises UserError if the batches do not divide among `ranks` ranks, if the model's family does not allow the settings, or
    if packages or the GPU for them are absent.
    """
    _check_family(stage, chain, deepspeed, lora)
    try:
        deepspeed.check_batches(ranks)
    except ValueError as error:
        raise UserError(f"stage {stage.name}: {error}") from error
    if absent := [name for name in deepspeed.trackers if find_spec(name) is None]:
        raise UserError(
            f"stage {stage.name}: deepspeed.trackers names {', '.join(absent)}, which this environment lacks:"
            " `pip install diagcot[trackers]`, or remove the name"
        )
    if lora is None or not lora.load_in_4bit:
        return
    if not gpus:
        raise UserError(
            f"stage {stage.name}: lora.load_in_4bit needs a GPU, and the cluster file gives this stage none"
        )
    if find_spec("bitsandbytes") is None:
        raise UserError(
            f"stage {stage.name}: lora.load_in_4bit needs the package bitsandbytes: `pip install bitsandbytes`"
        )


def trained_family(stage: Stage[Any], base: Stage[ModelSettings]) -> Family:
    """The family of the base of a stage of training. Raises UserError for a model without images."""
    try:
        return family_named(base.settings.family)
    except UserError as error:
        raise UserError(f"stage {stage.name}: its base {base.name} is a model that judges: {error}") from None


def _check_family(stage: Stage[Any], chain: ChainView, deepspeed: DeepSpeedSettings, lora: LoraSettings | None) -> None:
    base = base_of(stage, chain)
    if base is None:
        return
    family = trained_family(stage, base)
    if deepspeed.micro_batch_tokens and not family.causal:
        raise UserError(
            f"stage {stage.name}: sequences of {family.title} cannot be packed, because the tokens of an image see each other"
            " both ways: give micro_batch, not micro_batch_tokens"
        )
    if lora and (absent := [name for name in lora.targets if name not in family.lora_targets]):
        raise UserError(
            f"stage {stage.name}: {family.title} takes no adapter on {', '.join(absent)}: lora.targets may name"
            f" {', '.join(family.lora_targets)}"
        )


def training_bytes(
    stage: Stage[Any],
    chain: ChainView,
    policy: FreezePolicy,
    deepspeed: DeepSpeedSettings,
    lora: LoraSettings | None = None,
) -> int | None:
    """Bytes of the weights that are published, of the small files beside them and of the log; None if the model is not known."""
    base, model = base_of(stage, chain), shape(stage, chain)
    if base is None or model is None:
        return None
    weights = training_storage(model, policy.trainable, lora, deepspeed)
    return weights + small_files(base.settings) + LOG_BYTES * (deepspeed.steps or 0)


def small_files(settings: ModelSettings) -> int:
    """Bytes of the tokenizer and the other files beside the weights of a base, which every model that is made from it has."""
    if settings.pretrained is None:
        return TOKEN_BYTES * settings.tiny.vocabulary
    return sum(path.stat().st_size for path in settings.pretrained.glob("*") if path.suffix in SMALL_FILES)


def checkpoints(stage: Stage[Any], chain: ChainView) -> int:
    """Bytes of the checkpoints of a stage of training, which are gone when it is done; 0 if the model is not known."""
    model, settings = shape(stage, chain), stage.settings
    lora = getattr(settings, "lora", None)
    return checkpoint_storage(model, settings.trainable, lora, settings.deepspeed) if model else 0


def training_estimate(
    stage: Stage[Any],
    chain: ChainView,
    policy: FreezePolicy,
    deepspeed: DeepSpeedSettings,
    load: Workload,
    lora: LoraSettings | None = None,
    ranks: int | None = None,
    engine: Engine | None = None,
) -> Estimate | None:
    """Memory and GPU-hours of training; None without GPUs. Raises UserError if the model is missing.

    ranks: those that train, if not all. engine: the rollout engine on their GPUs.
    """
    model, resources = shape(stage, chain), chain.resources(stage.name)
    if model is None or not resources.gpus:
        return None
    return estimate(model, policy.trainable, lora, deepspeed, load, ranks or resources.ranks, engine)


def visual_tokens(stage: Stage[Any], chain: ChainView) -> int:
    """Most visual tokens of an image, by the model's pixel budget and by the side of the images in the shards."""
    base = base_of(stage, chain)
    settings = base.settings if base else ModelSettings()
    built = (chain.stage(spec.name).settings for spec in chain.recipe.stages if spec.kind == "shard")
    side = max((settings.image_size for settings in built), default=0)
    return shape_of(settings).visual_tokens(side, settings.max_pixels)


def training_images(stage: Stage[Any], chain: ChainView) -> int | None:
    """Training images of the stage's shards; None if that is not known beforehand."""
    total = 0
    for name in stage.inputs.get("shards", []):
        settings = chain.stage(name).settings
        assert isinstance(settings, BuildSettings)
        for source in settings.sources:
            if source.kind != "mimic_cxr" or source.path is None or source.max_studies or source.frontal_only:
                return None
            total += MIMIC_TRAINING_IMAGES[source.requires_both_sections]
    return total


def trace_samples(stage: Stage[Any], chain: ChainView) -> int | None:
    """Samples of the stage's filtered traces; None if that is not known beforehand, or there are other samples."""
    total = 0.0
    for name in stage.inputs.get("samples", []):
        source = chain.stage(name)
        if source.spec.kind != "filter":
            return None
        collect = chain.stage(source.inputs["traces"][0])
        if not isinstance(collect.settings, CollectSettings) or collect.settings.samples_per_shard is None:
            return None
        total += KEPT_TRACES * collect.settings.samples_per_shard * len(chain.units_of(collect.name))
    return round(total)


def traces_bytes(stage: Stage[Any], chain: ChainView) -> int | None:
    """Bytes of the traces of a `collect` stage; None if their number is not known."""
    count = _collected(stage, chain)
    return None if count is None else count * (FIELDS + TEXTS_OF_TRACE * _report(stage, chain))


def filtered_bytes(stage: Stage[Any], chain: ChainView) -> int | None:
    """Bytes of the verdicts of a `filter` stage and of the samples that it keeps; None if their number is not known."""
    collect = chain.stage(stage.inputs["traces"][0])
    count = _collected(collect, chain) if collect.spec.kind == "collect" else None
    if count is None:
        return None
    return int(count * (VERDICT + KEPT_TRACES * (FIELDS + TEXTS_OF_SAMPLE * _report(collect, chain))))


def answers_bytes(stage: Stage[EvaluateSettings], chain: ChainView) -> int | None:
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


def ranks_bytes(stage: Stage[Any], chain: ChainView) -> int | None:
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
