"""Job arrays on Slurm: a plan of units, files that record what is done, workers, and chains of jobs.

Nothing here knows what the units compute. The names in `__all__` are the public interface (docs/jobs.md); the modules
below it may change. Each name is imported on first use, so `import diagcot.jobs` alone loads nothing else.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diagcot.jobs.chain import Submitted
    from diagcot.jobs.cluster import Cluster, find_cluster
    from diagcot.jobs.errors import ModelError, OwnCodeError, SiteError, UserError
    from diagcot.jobs.execution.context import Context, HeadlessWorkerEnded, Result
    from diagcot.jobs.pipeline import Pipeline, retry_stage
    from diagcot.jobs.plans.plan import Plan
    from diagcot.jobs.plans.units import Unit
    from diagcot.jobs.state.records import Records

__all__ = [
    "Cluster",
    "Context",
    "HeadlessWorkerEnded",
    "ModelError",
    "OwnCodeError",
    "Pipeline",
    "Plan",
    "Records",
    "Result",
    "SiteError",
    "Submitted",
    "Unit",
    "UserError",
    "find_cluster",
    "retry_stage",
]

_MODULES = {
    "Cluster": "cluster",
    "Context": "execution.context",
    "HeadlessWorkerEnded": "execution.context",
    "ModelError": "errors",
    "OwnCodeError": "errors",
    "Pipeline": "pipeline",
    "Plan": "plans.plan",
    "Records": "state.records",
    "Result": "execution.context",
    "SiteError": "errors",
    "Submitted": "chain",
    "Unit": "plans.units",
    "UserError": "errors",
    "find_cluster": "cluster",
    "retry_stage": "pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
