"""What differs between two runs: stages, settings, seeds, inputs, units and code, down to the key."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from diagcot.jobs.plans import reused, stored
from diagcot.jobs.plans.headers import flat

SHOWN = 80  # characters of a value that are shown


def between(one: Path, two: Path) -> Iterator[str]:
    """One line for each difference, such as `settings.kl_coef: 0.05 in A, 0 in B (grpo)`; A is `one`, B is `two`.

    Where results are written, resources and the cluster make no difference.
    """
    first, second = ({plan["stage"]: plan for plan in stored.plans(run)} for run in (one, two))
    for letter, own, other in (("A", first, second), ("B", second, first)):
        if only := [name for name in own if name not in other]:
            yield f"only in {letter}: {', '.join(only)}"
    codes = [sorted({Path(plan["code"]).name for plan in plans.values()}) for plans in (first, second)]
    if codes[0] != codes[1]:
        yield f"code: {', '.join(codes[0])} in A, {', '.join(codes[1])} in B (folders in logs/<run>/code)"
    found: dict[str, list[str]] = {}  # difference -> the stages that have it
    for name in (name for name in first if name in second):
        before, after = (flat(_decides(plans[name], run)) for plans, run in ((first, one), (second, two)))
        for key in dict.fromkeys([*before, *after]):
            if before.get(key) != after.get(key):
                line = f"{key}: {_shown(before.get(key))} in A, {_shown(after.get(key))} in B"
                found.setdefault(line, []).append(name)
    yield from (f"{line} ({', '.join(names)})" for line, names in found.items())


def _decides(plan: Mapping[str, Any], run_dir: Path) -> dict[str, Any]:
    """What a stage's result depends on, without the places of files."""
    taken = reused.read(run_dir)
    inputs = {role: [_source(Path(root).name, taken) for root in roots] for role, roots in dict(plan["inputs"]).items()}
    kept = {key: plan[key] for key in ("kind", "settings", "seed", "units")}
    return kept | {"inputs": inputs}


def _source(name: str, taken: Mapping[str, Mapping[str, str]]) -> str:
    """The name of an input stage, and the digest of its product if another run has made it."""
    return f"{name} (product {taken[name]['product'][:12]})" if name in taken else name


def _shown(value: str | None) -> str:
    if value is None:
        return "nothing"
    return value if len(value) <= SHOWN else f"{value[:SHOWN]}…"
