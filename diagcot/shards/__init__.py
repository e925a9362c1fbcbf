"""The HDF5 shards that hold studies and their images."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diagcot.shards.reader import Shard, shard_paths

__all__ = ["Shard", "shard_paths"]


def __getattr__(name: str) -> Any:
    # Commands that only plan read the settings of this package, and must not wait for h5py and numpy.
    if name in __all__:
        from diagcot.shards import reader

        return getattr(reader, name)
    raise AttributeError(name)
