"""Kind `synthetic-sft`: an array of short tasks that write worked examples from the phantoms of a shard."""

from diagcot.cot.settings import SyntheticSettings
from launchers.inputs import SHARDS, one_per_shard
from launchers.stage_kind import StageKind

KIND = StageKind(
    work="diagcot.cot.synthetic.synthetic_sft",
    former_work="diagcot.cot.primer",
    settings=SyntheticSettings,
    resource_profile="cpu",
    product="data",
    startup_s=5,
    unit_s=20,
    units=one_per_shard,
    reads={"shards": SHARDS},
)
