"""Kind `align`: one multi-node job that trains the projector."""

from typing import TYPE_CHECKING

from diagcot.jobs import Unit, UserError
from diagcot.recipe import StageSpec
from diagcot.training.config.settings import AlignSettings
from diagcot.training.cost import estimate as estimates
from diagcot.training.cost import storage as sizes
from diagcot.training.cost.estimate import Estimate, Load
from launchers.training import model
from launchers.training.model import parameters

if TYPE_CHECKING:
    from launchers.chain import Chain

KIND = "diagcot.training.kinds.align"
SETTINGS = AlignSettings
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
        AlignSettings.model_validate(stage.settings).deepspeed.accumulation(ranks)
    except ValueError as error:
        raise UserError(f"stage {stage.name}: {error}") from error


def storage(stage: StageSpec, chain: "Chain") -> int | None:
    """Bytes of the weights and of the checkpoints that are kept; None where the model is not known."""
    settings, count = AlignSettings.model_validate(stage.settings), parameters(stage, chain)
    return sizes.training(count, settings.trainable, settings.deepspeed) if count else None


def estimate(stage: StageSpec, chain: "Chain") -> Estimate | None:
    """Memory a GPU and GPU-hours; None where there is no GPU."""
    settings = AlignSettings.model_validate(stage.settings)
    text, learned = estimates.REPORT
    load = Load(model.visual(stage, chain), text, learned, settings.deepspeed.sequences(model.films(stage, chain)))
    return model.expect(stage, chain, SIZE, settings, load)
