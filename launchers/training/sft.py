"""Kind `sft`: one multi-node DeepSpeed job of supervised fine-tuning (pre-training, teacher, chain of thought)."""

from typing import TYPE_CHECKING

from diagcot.jobs import Unit, UserError
from diagcot.recipe import StageSpec
from diagcot.training.config.settings import SftSettings
from diagcot.training.cost import estimate as estimates
from diagcot.training.cost import storage as sizes
from diagcot.training.cost.estimate import Estimate, Load
from launchers.training import model
from launchers.training.model import parameters

if TYPE_CHECKING:
    from launchers.chain import Chain

KIND = "diagcot.training.kinds.sft"
SETTINGS = SftSettings
SIZE = "train"
PRODUCT = "weights"
STARTUP_S, UNIT_S = 60, 600
NEEDS = ("deepspeed", "collective")  # see diagcot.preflight.rehearsal.stage


def units(stage: StageSpec, chain: "Chain") -> list[Unit]:
    """The whole training is one unit, run by all ranks and resumed from its checkpoints."""
    return [Unit("model")]


def check(stage: StageSpec, chain: "Chain") -> None:
    """Raises UserError where the batches do not divide among the ranks that the cluster gives."""
    ranks = chain.cluster.resources(SIZE, stage.name).ranks
    try:
        SftSettings.model_validate(stage.settings).deepspeed.accumulation(ranks)
    except ValueError as error:
        raise UserError(f"stage {stage.name}: {error}") from error


def storage(stage: StageSpec, chain: "Chain") -> int | None:
    """Bytes of the weights and of the checkpoints that are kept; None where the model is not known."""
    settings, count = SftSettings.model_validate(stage.settings), parameters(stage, chain)
    return sizes.training(count, settings.trainable, settings.deepspeed) if count else None


def estimate(stage: StageSpec, chain: "Chain") -> Estimate | None:
    """Memory a GPU and GPU-hours; None where there is no GPU."""
    settings = SftSettings.model_validate(stage.settings)
    texts = all(chain.spec(name).kind == "texts" for name in stage.follows if chain.spec(name).kind in DATA)
    text, learned = estimates.REASONED if stage.inputs.get("samples") else estimates.REPORT
    samples, films = model.reasoned(stage, chain), model.films(stage, chain)
    known = samples is not None and films is not None and set(settings.tasks) <= {"report"}
    count = round(samples * settings.samples_weight + films * settings.tasks.get("report", 0)) if known else None  # type: ignore[operator]
    load = Load(0 if texts else model.visual(stage, chain), text, learned, settings.deepspeed.sequences(count))
    return model.expect(stage, chain, SIZE, settings, load)


DATA = ("texts", "shard", "questions", "filter", "synthetic-sft")
