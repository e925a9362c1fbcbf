"""How many traces are true: counts over the traces whose images are known, and of the verdicts about them."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from diagcot.cot.filtration import judge
from diagcot.cot.records import TraceRecord, VerdictRecord
from diagcot.cot.review.truth import Known, untruths
from diagcot.data.reports.facts import ASPECTS, Facts

_GROUPS = ("normal", "abnormal")


@dataclass
class TruthCounts:
    """Sums that `add` updates; `figures` returns them for JSON."""

    phantoms: dict[str, Counter[str]] = field(default_factory=lambda: {name: Counter() for name in _GROUPS})
    labelled: dict[str, Counter[str]] = field(default_factory=lambda: {name: Counter() for name in _GROUPS})
    verifier: Counter[str] = field(default_factory=Counter)
    judge: Counter[str] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)
    abnormal: Counter[str] = field(default_factory=Counter)

    def add(self, trace: TraceRecord, verdict: VerdictRecord, known: Known | None) -> frozenset[str]:
        """Count one trace; returns in what it is untrue, as far as is known."""
        kept = verdict["kept"]
        if trace["task"] == "report":
            abnormal = known.abnormal if known else Facts.of(trace["reference"]).abnormal()
            counted = {"traces": True, "kept": kept, "abnormal": abnormal, "abnormal_kept": kept and abnormal}
            self.abnormal.update(_ones(counted))
        if known is None:
            return frozenset()
        found = untruths(trace, known)
        group = (self.labelled if known.drawn is None else self.phantoms)[_GROUPS[known.abnormal]]
        group.update(_ones({"traces": True, "true": not found, "kept": kept, "kept_true": kept and not found}))
        group.update(_ones(dict.fromkeys(found, kept)))
        if known.drawn is not None:
            self._verdicts(trace, verdict, known, true=not found)
        return found

    def _verdicts(self, trace: TraceRecord, verdict: VerdictRecord, known: Known, *, true: bool) -> None:
        """Of the verifier on conclusions, of the rules and of the judge on traces."""
        if trace["verdicts"] and not trace["forced"]:
            _count(self.verifier, True, not known.untruths(trace["conclusion"], brief=True))
        for failed in trace["failed"]:
            _count(self.verifier, False, not known.untruths(failed["conclusion"], brief=True))
        _count(self.rules, verdict["rule"] is None, true)
        if verdict["judgements"]:
            votes = [
                len(row["held"]) == len(judge.CRITERIA) if row["scores"] else row["keep"] and not row["error"]
                for row in verdict["judgements"]
            ]
            _count(self.judge, 2 * sum(votes) > len(votes), true)

    def figures(self) -> dict[str, Any]:
        """Counts by normal and abnormal images, and of verdicts; a group without a trace is left out."""
        names = ("traces", "true", "kept", "kept_true", *ASPECTS)
        groups = {"phantoms": self.phantoms, "labelled": self.labelled}
        verdicts = {"verifier": self.verifier, "rules": self.rules, "judge": self.judge}
        return {
            **{
                what: {name: {key: row[key] for key in names} for name, row in group.items() if row["traces"]}
                for what, group in groups.items()
            },
            "verdicts": {
                name: {key: row[key] for key in ("accepted", "accepted_untrue", "refused", "refused_true")}
                for name, row in verdicts.items()
                if row
            },
            "abnormal": {key: self.abnormal[key] for key in ("traces", "abnormal", "kept", "abnormal_kept")},
        }

    def shortfall(self, least: float) -> str:
        """Which kept traces of phantoms are too often untrue, in words; empty where the share of true ones is at least
        `least`, 0 to 1, for normal and for abnormal images."""
        found = []
        for name, row in self.phantoms.items():
            if row["kept_true"] < least * row["kept"]:
                wrong = ", ".join(f"{aspect} {row[aspect]}" for aspect in ASPECTS if row[aspect])
                found.append(
                    f"{row['kept'] - row['kept_true']} of {row['kept']} kept traces of {name} phantoms are untrue ({wrong})"
                )
        return " and ".join(found)


def _count(row: Counter[str], accepted: bool, true: bool) -> None:
    row.update(_ones({"accepted" if accepted else "refused": True}))
    row.update(_ones({"accepted_untrue": accepted and not true, "refused_true": true and not accepted}))


def _ones(counted: dict[str, bool]) -> dict[str, int]:
    return {name: int(value) for name, value in counted.items()}
