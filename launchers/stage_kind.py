"""What a kind of stage is: the contract between the stages of a recipe and the modules that do their work.

Every module in a folder of launchers/ declares one kind as `KIND = StageKind(...)`. Its name in recipes is the module's
name with `-` for `_`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

from diagcot.jobs import Cluster, Unit
from diagcot.jobs.cluster import Size
from diagcot.jobs.plans.plan import Grows
from diagcot.jobs.settings import Settings
from diagcot.recipe import Recipe, StageSpec
from diagcot.training.cost import Estimate

S = TypeVar("S", bound=Settings)
Product = Literal["data", "weights", "report"]
"""What a stage makes: files in the folder of shards, a model, or the run's report."""
Need = Literal["vllm", "deepspeed", "ray", "java", "collective", "model", "data", "submit"]
"""What a rehearsal checks on the nodes for a kind, besides what every job needs: programs to import or to run, a group of
all ranks (`collective`), the model or the collections that the settings name on disk, the right to submit jobs
(`submit`)."""


@dataclass(frozen=True)
class Stage(Generic[S]):
    """A stage of a recipe with its settings parsed."""

    spec: StageSpec
    settings: S

    @property
    def name(self) -> str:
        """The stage's name in the recipe."""
        return self.spec.name

    @property
    def inputs(self) -> dict[str, list[str]]:
        """Role -> names of earlier stages."""
        return self.spec.inputs


class ChainView(Protocol):
    """What a kind may ask of the chain that its stage belongs to."""

    @property
    def recipe(self) -> Recipe:
        """The recipe as it was read."""

    @property
    def cluster(self) -> Cluster:
        """The cluster that the chain runs on."""

    def stage(self, name: str) -> Stage[Any]:
        """The stage of that name. Raises UserError with file and line if its settings are wrong."""

    def units_of(self, name: str) -> list[Unit]:
        """The units of the stage of that name."""

    def resources(self, name: str) -> Size:
        """The resources of the stage of that name on the chain's cluster."""


@dataclass(frozen=True)
class Headline:
    """The counter in the manifests of a stage whose value GPU-hours are reported for."""

    count: str
    inputs: str  # role of the stages whose GPU-hours are included


@dataclass(frozen=True, kw_only=True)
class StageKind(Generic[S]):
    """A kind of stage: its settings, what it asks of the cluster, and what can be known about it before it runs.

    The callbacks get the stage with its parsed settings and the chain. They run on the submitting host and must not
    import torch, vLLM or transformers. `units` and `check` raise UserError if the stage cannot run as the recipe says.
    """

    work: str  # import path of the module that does the work in the job
    settings: type[S]
    resource_profile: str  # key of `resource_profiles` in the cluster file
    product: Product
    startup_s: float  # seconds before a task can begin with its first unit
    unit_s: float  # seconds for one unit
    units: Callable[[Stage[S], ChainView], list[Unit]]
    reads: Mapping[str, tuple[str, ...]] | None = None  # role of an input -> kinds that may provide it; None: anything
    check: Callable[[Stage[S], ChainView], None] | None = None  # what the stage needs from the submitting host
    notes: Callable[[Stage[S], ChainView], list[str]] | None = None  # lines for the plan
    storage: Callable[[Stage[S], ChainView], int | None] | None = None  # bytes of its product, None if not known
    work_storage: Callable[[Stage[S], ChainView], int] | None = None  # bytes that are gone when it is done
    estimate: Callable[[Stage[S], ChainView], Estimate | None] | None = None  # memory and GPU-hours of training
    obtain: Callable[[Stage[S], ChainView], None] | None = None  # fetches what is missing and may be fetched
    needs: tuple[Need, ...] = ()
    headline: Headline | None = None
    grows: Grows = ""  # whether a stage of an existing run may grow
    former_work: str = ""  # import path of that module in the last release, which plans of existing runs name
    selector_settings: tuple[str, ...] = ()  # settings that only choose units; they may differ when the stage grows
