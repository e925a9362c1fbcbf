"""Statistics of a filter stage: sums over its traces and verdicts, which are read one after the other."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any

from diagcot.cot.filtration import judge
from diagcot.cot.filtration.agreement import Agreement
from diagcot.cot.filtration.filter import agreements, dropped_by, failed_criteria
from diagcot.cot.filtration.rules import thinking
from diagcot.cot.records import TraceRecord, VerdictRecord
from diagcot.cot.review.truth import Known
from diagcot.cot.review.truth_counts import TruthCounts

_COSTS = ("calls", "prompt_tokens", "completion_tokens")


@dataclass
class Statistics:
    """Sums that `add` updates; `figures` returns them for JSON."""

    kept: Counter[str] = field(default_factory=Counter)  # all, forced, verified, phantom
    total: Counter[str] = field(default_factory=Counter)
    tasks: dict[str, Counter[str]] = field(default_factory=dict)  # task -> traces, kept, forced
    collections: dict[str, Counter[str]] = field(
        default_factory=dict
    )  # collection of the study -> traces, kept, forced
    dropped: Counter[str] = field(default_factory=Counter)  # by rule, judge, unreadable
    failed: Counter[str] = field(default_factory=Counter)  # by criterion
    scores: dict[str, Counter[int]] = field(default_factory=dict)  # criterion -> score -> judgements
    agreement: dict[str, Agreement] = field(default_factory=dict)
    steps: dict[str, Counter[str]] = field(default_factory=dict)  # step that led to the conclusion -> traces, kept
    lengths: dict[str, list[int]] = field(default_factory=lambda: {"kept": [], "dropped": []})
    truth: TruthCounts = field(default_factory=TruthCounts)
    cost: dict[str, Counter[str]] = field(default_factory=lambda: {"search": Counter(), "judge": Counter()})

    def add(self, trace: TraceRecord, verdict: VerdictRecord, known: Known | None = None) -> frozenset[str]:
        """Count one trace and its verdict; returns in what the trace is untrue. known: what is known of its image."""
        kept = verdict["kept"]
        for table in (self.total, self.kept) if kept else (self.total,):
            table["all"] += 1
            table["forced"] += bool(trace["forced"])
            table["verified"] += bool(trace["verified"])
            table["phantom"] += bool(trace["meta"].get("phantom"))
        collection = trace["study"].partition("/")[0]
        for name, group in (
            (trace["task"], self.tasks),
            (collection, self.collections),
            (found_by(trace), self.steps),
        ):
            group.setdefault(name, Counter()).update(traces=1, kept=int(kept), forced=int(trace["forced"]))
        if not kept:
            self.dropped[dropped_by(verdict)] += 1
        self.failed.update(failed_criteria(verdict))
        for judgement in verdict["judgements"]:
            for name, score in judgement["scores"].items():
                self.scores.setdefault(name, Counter())[score] += 1
        for name, agreement in agreements(verdict["judgements"]).items():
            if agreement.pairs:
                self.agreement[name] = self.agreement.get(name, Agreement()) + agreement
        if not trace["error"]:
            self.lengths["kept" if kept else "dropped"].append(len(thinking(trace).split()))
        records: dict[str, Mapping[str, Any]] = {"search": trace, "judge": verdict}
        for name, record in records.items():
            self.cost[name].update({key: record[key] for key in _COSTS})
        return self.truth.add(trace, verdict, known)

    def figures(self) -> dict[str, Any]:
        """Counts, shares (0 to 1, null without a denominator), and quartiles of the words of the reasoning."""
        count = self.kept["all"]
        total = self.cost["search"] + self.cost["judge"]
        return {
            "traces": self.total["all"],
            "kept": count,
            "phantom": self.total["phantom"],
            "forced": {"traces": self.total["forced"], "kept": self.kept["forced"]},
            "verified": {"traces": self.total["verified"], "kept": self.kept["verified"]},
            "tasks": {name: dict(row) for name, row in sorted(self.tasks.items())},
            "collections": {name: dict(row) for name, row in sorted(self.collections.items())},
            "dropped": dict(self.dropped.most_common()),
            "truth": self.truth.figures(),
            "criteria": [self._criterion(name) for name in judge.CRITERIA if name in self.scores],
            "agreement": _agreement(self.agreement.get("keep", Agreement())),
            "found_by": {name: dict(row) for name, row in sorted(self.steps.items())},
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
            **_agreement(self.agreement.get(name, Agreement())),
        }


def found_by(trace: TraceRecord) -> str:
    """The step that led to the conclusion of a trace: init, a strategy, label if the answer was given, or failed."""
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
