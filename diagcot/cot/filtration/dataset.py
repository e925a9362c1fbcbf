"""From a trace to the sample that it trains on (method.md 4.3, 7.3): films by reference, the question of evaluation."""

from typing import Any

from diagcot.cot.filtration.rules import written
from diagcot.tasks.samples import ImageRef, Sample


def sample(trace: dict[str, Any]) -> Sample:
    """One thinking and one answer, or the pairs of an interleaved trace. `meta` tells what was forced and verified."""
    return Sample(
        id=f"{trace['id']}:cot",
        task=trace["task"],
        study=trace["study"],
        images=tuple(ImageRef(**image) for image in trace["images"]),
        messages=(("user", trace["question"]), ("assistant", written(trace))),
        meta=trace["meta"] | {"verified": trace["verified"], "forced": trace["forced"]},
    )
