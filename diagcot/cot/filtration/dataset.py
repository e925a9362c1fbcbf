"""Training samples from traces: images by reference, the question as in evaluation, reasoning and answer."""

from diagcot.cot.filtration.rules import written
from diagcot.cot.records import TraceRecord
from diagcot.data.reports import controls
from diagcot.tasks.samples import ImageRef, Sample


def sample(trace: TraceRecord) -> Sample:
    """One reasoning and one answer, or the pairs of an interleaved trace; `meta` records `forced` and `verified`."""
    return Sample(
        id=f"{trace['id']}:cot",
        task=trace["task"],
        study=trace["study"],
        images=tuple(ImageRef(**image) for image in trace["images"]),
        messages=(("user", trace["question"]), ("assistant", controls.as_text(written(trace)))),
        meta=trace["meta"] | {"verified": trace["verified"], "forced": trace["forced"]},
    )
