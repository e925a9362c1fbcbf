"""Kind `shard`: an array of K short tasks, each of which writes one HDF5 shard of about a K-th of every source."""

from typing import TYPE_CHECKING

from diagcot.jobs.context import Unit
from diagcot.recipe import StageSpec
from diagcot.shards.settings import BuildSettings, check

if TYPE_CHECKING:
    from launchers.chain import Chain

KIND = "diagcot.shards.build"
SETTINGS = BuildSettings
SIZE = "cpu"
PRODUCT = "data"
STARTUP_S, UNIT_S = 10, 300


def units(stage: StageSpec, chain: "Chain") -> list[Unit]:
    """One unit a shard. Raises UserError when data that the recipe names is not there."""
    settings = BuildSettings(**stage.settings)
    check(settings)
    return [Unit(f"{part:05d}") for part in range(settings.shards)]
