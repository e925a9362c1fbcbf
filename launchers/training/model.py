"""Kind `model`: the base model of a chain, taken over from disk or built tiny."""

from typing import TYPE_CHECKING

from diagcot.jobs import Unit
from diagcot.recipe import StageSpec
from diagcot.shards.settings import BuildSettings
from diagcot.training.config.settings import FreezePolicy, LoraSettings, ModelSettings
from diagcot.training.cost import estimate as estimates
from diagcot.training.cost import shape
from diagcot.training.cost import storage as sizes
from diagcot.training.cost.estimate import Estimate, Load
from diagcot.training.models.pretrained import weights_of

if TYPE_CHECKING:
    from launchers.chain import Chain

KIND = "diagcot.training.kinds.model"
SETTINGS = ModelSettings
SIZE = "cpu"
PRODUCT = "weights"
STARTUP_S, UNIT_S = 20, 20
NEEDS = ("model",)  # see diagcot.preflight.rehearsal.stage


def units(stage: StageSpec, chain: "Chain") -> list[Unit]:
    return [Unit("model")]


def check(stage: StageSpec, chain: "Chain") -> None:
    """Raises UserError where the model that the recipe names is not there or not whole."""
    pretrained = ModelSettings.model_validate(stage.settings).pretrained
    if pretrained is not None:
        weights_of(pretrained)


def storage(stage: StageSpec, chain: "Chain") -> int:
    """Bytes of the weights."""
    return sizes.base(ModelSettings.model_validate(stage.settings))


def base_of(stage: StageSpec, chain: "Chain") -> StageSpec | None:
    """The stage of this kind that a stage of training descends from."""
    while stage.kind != "model":
        if not stage.inputs.get("model"):
            return None
        stage = chain.spec(stage.inputs["model"][0])
    return stage


def parameters(stage: StageSpec, chain: "Chain") -> int | None:
    """Of the model that a stage descends from; None where it descends from none."""
    base = base_of(stage, chain)
    return sizes.parameters(ModelSettings.model_validate(base.settings)) if base else None


def expect(stage: StageSpec, chain: "Chain", size: str, policy: FreezePolicy, load: Load) -> Estimate | None:
    """What a stage of training on the model takes; None without GPUs. Raises UserError where the model is not there."""
    base, resources = base_of(stage, chain), chain.cluster.resources(size, stage.name)
    if base is None or not resources.gpus:
        return None
    lora: LoraSettings | None = getattr(policy, "lora", None)
    made = shape.of(ModelSettings.model_validate(base.settings))
    deepspeed = policy.deepspeed  # type: ignore[attr-defined]  # every policy of a stage has it
    return estimates.estimate(made, policy.trainable, lora, deepspeed, load, resources.ranks)


def visual(stage: StageSpec, chain: "Chain") -> int:
    """Most visual tokens of a film: by the model's pixel budget, and by the side of the films in the shards."""
    base = base_of(stage, chain)
    settings = ModelSettings.model_validate(base.settings if base else {})
    shards = [spec for spec in chain.recipe.stages if spec.kind == "shard"]
    side = max((BuildSettings.model_validate(spec.settings).image_size for spec in shards), default=0)
    token = shape.of(settings).patch * 2
    return min(settings.max_pixels or side**2, side**2) // token**2


def films(stage: StageSpec, chain: "Chain") -> int | None:
    """Training films of the stage's shards; None where that is not known beforehand."""
    total = 0
    for name in stage.inputs.get("shards", []):
        for source in BuildSettings.model_validate(chain.spec(name).settings).sources:
            if source.kind != "mimic_cxr" or source.path is None or source.max_studies or source.frontal_only:
                return None
            total += estimates.FILMS[source.only_fi]
    return total


def reasoned(stage: StageSpec, chain: "Chain") -> int | None:
    """Samples of the stage's filtered traces; None where that is not known beforehand, or there are other samples."""
    total = 0.0
    for name in stage.inputs.get("samples", []):
        spec = chain.spec(name)
        if spec.kind != "filter":
            return None
        source = chain.spec(spec.inputs["traces"][0])
        each = source.settings.get("samples_per_shard")
        if each is None:
            return None
        total += estimates.KEPT * each * len(chain.units_of(source.name))
    return round(total)
