"""What a filter stage did, in numbers: sums over its traces and verdicts, which are read one after the other."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any

from diagcot.cot.filtration import judge
from diagcot.cot.filtration.agreement import Agreement
from diagcot.cot.filtration.filter import agreements, dropped_by, failed_criteria
from diagcot.cot.filtration.rules import thinking

Trace = Mapping[str, Any]
_COSTS = ("calls", "prompt_tokens", "completion_tokens")


@dataclass
class Statistics:
    """Fed with `add`; `told` gives all of it as JSON."""

    kept: Counter[str] = field(default_factory=Counter)  # by all | forced | verified
    came: Counter[str] = field(default_factory=Counter)
    tasks: dict[str, Counter[str]] = field(default_factory=dict)  # task -> traces, kept, forced
    dropped: Counter[str] = field(default_factory=Counter)  # by rule, judge, unreadable
    failed: Counter[str] = field(default_factory=Counter)  # by criterion
    scores: dict[str, Counter[int]] = field(default_factory=dict)  # criterion -> score -> judgements
    agreed: dict[str, Agreement] = field(default_factory=dict)
    found: dict[str, Counter[str]] = field(default_factory=dict)  # what led to the conclusion -> traces, kept
    lengths: dict[str, list[int]] = field(default_factory=lambda: {"kept": [], "dropped": []})
    cost: dict[str, Counter[str]] = field(default_factory=lambda: {"search": Counter(), "judge": Counter()})

    def add(self, trace: Trace, verdict: dict[str, Any]) -> None:
        kept = verdict["kept"]
        for table in (self.came, self.kept) if kept else (self.came,):
            table["all"] += 1
            table["forced"] += bool(trace["forced"])
            table["verified"] += bool(trace["verified"])
            table["phantom"] += bool(trace["meta"].get("phantom"))
        for name, group in ((trace["task"], self.tasks), (found_by(trace), self.found)):
            group.setdefault(name, Counter()).update(traces=1, kept=int(kept), forced=int(trace["forced"]))
        if not kept:
            self.dropped[dropped_by(verdict)] += 1
        self.failed.update(failed_criteria(verdict))
        for one in verdict["judgements"]:
            for name, score in one["scores"].items():
                self.scores.setdefault(name, Counter())[score] += 1
        for name, agreement in agreements(verdict["judgements"]).items():
            if agreement.pairs:
                self.agreed[name] = self.agreed.get(name, Agreement()) + agreement
        if not trace["error"]:
            self.lengths["kept" if kept else "dropped"].append(len(thinking(trace).split()))
        for name, row in (("search", trace), ("judge", verdict)):
            self.cost[name].update({key: row[key] for key in _COSTS})

    def told(self) -> dict[str, Any]:
        """Counts, shares (0 to 1, null where there is nothing to share), and quartiles of words of the reasoning."""
        count = self.kept["all"]
        total = self.cost["search"] + self.cost["judge"]
        return {
            "traces": self.came["all"],
            "kept": count,
            "phantom": self.came["phantom"],
            "forced": {"traces": self.came["forced"], "kept": self.kept["forced"]},
            "verified": {"traces": self.came["verified"], "kept": self.kept["verified"]},
            "tasks": {name: dict(row) for name, row in sorted(self.tasks.items())},
            "dropped": dict(self.dropped.most_common()),
            "criteria": [self._criterion(name) for name in judge.CRITERIA if name in self.scores],
            "agreement": _agreement(self.agreed.get("keep", Agreement())),
            "found_by": {name: dict(row) for name, row in sorted(self.found.items())},
            "words": {name: _quartiles(values) for name, values in self.lengths.items()},
            "cost": {name: {key: row[key] for key in _COSTS} for name, row in self.cost.items()},
            "per_kept": {
                "calls": total["calls"] / count if count else None,
                "tokens": (total["prompt_tokens"] + total["completion_tokens"]) / count if count else None,
                "completion_tokens": total["completion_tokens"] / count if count else None,
            },
        }

    def _criterion(self, name: str) -> dict[str, Any]:
        scores = self.scores[name]
        total = sum(scores.values())
        return {
            "name": name,
            "scores": [scores[score] for score in judge.SCORES],
            "mean": sum(score * count for score, count in scores.items()) / total,
            "failed": self.failed[name],
            **_agreement(self.agreed.get(name, Agreement())),
        }


def found_by(trace: Trace) -> str:
    """What led to the conclusion of a trace: init, a strategy, label where it was given, failed."""
    if trace["error"]:
        return "failed"
    if trace["forced"]:
        return "label"
    steps = [row["step"] for row in trace["verdicts"] if row["verdict"] is True]
    return str(steps[-1]).removeprefix("rethink:") if steps else "init"


def _agreement(agreement: Agreement) -> dict[str, float | None]:
    return {"raw": agreement.raw, "kappa": agreement.kappa}


def _quartiles(values: list[int]) -> dict[str, float] | None:
    if not values:
        return None
    low, middle, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {"least": min(values), "quarter": low, "median": middle, "three_quarters": high, "most": max(values)}
