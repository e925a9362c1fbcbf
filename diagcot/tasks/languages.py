"""Which data sets of a shard have reports in another language than that of the prompts, which is English."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diagcot.shards.reader import Shard


def other_languages(shard: "Shard") -> frozenset[str]:
    """Data sets whose reports are not in English; a report of them is no answer to an English question."""
    return frozenset(
        source["dataset"] for source in shard.sources if ((source.get("entry") or {}).get("language") or "en") != "en"
    )
