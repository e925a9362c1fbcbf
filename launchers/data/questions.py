"""Kind `questions`: an array of short tasks that write the question answering data of a shard."""

from diagcot.cot.settings import QuestionSettings
from launchers.inputs import one_per_shard
from launchers.stage_kind import StageKind

KIND = StageKind(
    work="diagcot.cot.synthetic.questions",
    former_work="diagcot.cot.questions",
    settings=QuestionSettings,
    resource_profile="cpu",
    product="data",
    startup_s=5,
    unit_s=120,
    units=one_per_shard,
)
