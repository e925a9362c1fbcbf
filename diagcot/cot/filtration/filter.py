"""Kind `filter`: which traces become training samples. Rules decide first, because they cost nothing; then the judge."""

import contextlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from diagcot.cot.filtration import dataset, judge, rules
from diagcot.cot.filtration.agreement import Agreement
from diagcot.cot.records import DOUBLE, JudgementRecord, TraceRecord, VerdictRecord
from diagcot.cot.settings import FilterSettings
from diagcot.data import seeded
from diagcot.jobs import Context, Result, Unit
from diagcot.jobs.state import reading
from diagcot.serving import Reply, Request, Server, ServingStats, serve
from diagcot.shards import Shard
from diagcot.tasks.identity import by_id
from diagcot.tasks.samples import write_samples


@contextlib.contextmanager
def prepare(ctx: Context) -> Iterator[Server | None]:
    """Start the judge's server, if there is a judge."""
    settings = FilterSettings.model_validate(ctx.settings)
    if not settings.judge:
        yield None
        return
    with serve(Path(ctx.inputs["model"][0]) / "model", settings.server, ctx) as server:
        yield server


def run(unit: Unit, shared: Server | None, ctx: Context) -> Result | None:
    """Write a verdict for every trace of unit `unit.key`, and the training samples of those that are kept."""
    settings = FilterSettings.model_validate(ctx.settings)
    path = Path(ctx.inputs["traces"][0]) / f"{unit.key}.jsonl"
    traces = by_id(path, "the trace", DOUBLE)
    records = ctx.records(unit)
    try:
        unjudged = []
        for trace in traces.values():
            if trace["id"] in records:
                continue
            fault = rules.fault(trace, settings)
            if fault or shared is None:
                records.append(verdict(trace["id"], fault))
            else:
                unjudged.append(trace)
        if unjudged and shared is not None:
            kept = sum(row["kept"] for row in records.rows())

            def progress(stats: ServingStats) -> None:
                ctx.progress(len(records), len(traces), **stats.figures(), kept=kept)

            requests = (_request(trace, settings, ctx) for trace in unjudged)
            for trace_id, reply in shared.complete(requests, ctx.stopping, progress):
                row = verdict(trace_id, None) | judgement_fields(reply, settings)
                records.append(row)
                kept += row["kept"]
        if len(records) < len(traces):
            return None
        return _publish(unit, traces, list(records.rows()), ctx)
    finally:
        records.close()


def verdict(trace_id: str, fault: rules.Fault | None) -> VerdictRecord:
    """The verdict of the rules on a trace that the judge has not seen."""
    return {
        "id": trace_id,
        "kept": fault is None,
        "rule": fault.rule if fault else None,
        "detail": fault.detail if fault else "",
        "judgements": [],
        "agreement": None,
        "error": None,
        "calls": 0,
        "prompt_tokens": 0,
        "completion_tokens": 0,
    }


def judgement_fields(reply: Reply, settings: FilterSettings) -> dict[str, Any]:
    """The fields of a verdict that the judge's reply decides: judgements, their agreement, and the majority's decision."""
    judgements = judge.parse(reply, settings)
    rows = [cast(JudgementRecord, asdict(judgement)) for judgement in judgements]
    raw_agreement = {name: agreement.raw for name, agreement in agreements(rows).items()}
    return {
        "kept": judge.keeps(judgements, settings),
        "judgements": rows,
        "agreement": raw_agreement if settings.repeats > 1 else None,
        "error": judgements[0].error if all(judgement.error for judgement in judgements) else None,
        "calls": 1,
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
    }


def agreements(judgements: Sequence[JudgementRecord]) -> dict[str, Agreement]:
    """Agreement of the judgements of one trace: on keeping it, and on each criterion of the parsed judgements."""
    scored = [judgement["held"] for judgement in judgements if judgement["scores"]]
    return {"keep": Agreement.of([judgement["keep"] for judgement in judgements])} | {
        name: Agreement.of([name in held for held in scored]) for name in judge.CRITERIA if scored
    }


@lru_cache(maxsize=8)
def _shard(path: Path) -> Shard:
    return Shard(path)


def _request(trace: TraceRecord, settings: FilterSettings, ctx: Context) -> Request:
    images = [
        _shard(ctx.shards_root / image["shard"]).jpeg(image["row"]) for image in trace["images"] if settings.image
    ]
    seed = seeded.rank(ctx.seed, trace["id"], separator=":", bits=32) >> 1
    return judge.request(trace, images, settings, seed)


def _publish(unit: Unit, traces: dict[str, TraceRecord], verdicts: list[VerdictRecord], ctx: Context) -> Result:
    # Verdicts have a separate folder, because training reads every *.jsonl next to the samples.
    samples, table = ctx.output / f"{unit.key}.jsonl", ctx.output / "verdicts" / f"{unit.key}.jsonl"
    outputs = {samples: ctx.staged(samples), table: ctx.staged(table)}
    with reading.written(outputs[table]) as out:
        out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in verdicts)
    write_samples(outputs[samples], (dataset.sample(traces[row["id"]]) for row in verdicts if row["kept"]))
    found = counts(traces, verdicts)
    return Result(outputs, found | {"needed": {"kept traces": found["kept"]}})


def dropped_by(row: VerdictRecord) -> str:
    """Why a verdict dropped its trace: the name of the rule, `judge`, or `unreadable` for replies that cannot be parsed."""
    return row["rule"] or ("unreadable" if row["error"] else "judge")


def counts(traces: dict[str, TraceRecord], verdicts: list[VerdictRecord]) -> dict[str, int]:
    """Sums that add up over units: traces, kept traces, cost and agreement of the judge, and reasons for dropping.

    `judge_<criterion>_no`: traces for which no majority of the judgements passed the criterion.
    """
    kept = [row for row in verdicts if row["kept"]]
    sums = {
        "traces": len(verdicts),
        "kept": len(kept),
        "kept_forced": sum(traces[row["id"]]["forced"] for row in kept),
        "calls": sum(row["calls"] for row in verdicts),
        "prompt_tokens": sum(row["prompt_tokens"] for row in verdicts),
        "completion_tokens": sum(row["completion_tokens"] for row in verdicts),
    }
    votes = sum((agreements(row["judgements"])["keep"] for row in verdicts), Agreement())
    if votes.pairs:
        sums |= {"votes": votes.votes, "votes_keep": votes.yes, "pairs": votes.pairs, "pairs_agreeing": votes.agreeing}
    dropped = Counter(f"dropped_{dropped_by(row)}" for row in verdicts if not row["kept"])
    failed = Counter(f"judge_{name}_no" for row in verdicts for name in failed_criteria(row))
    return sums | dict(sorted((dropped + failed).items()))


def failed_criteria(row: VerdictRecord) -> list[str]:
    """The criteria that at most half of the parsed judgements of a verdict passed."""
    scored = [judgement["held"] for judgement in row["judgements"] if judgement["scores"]]
    return [name for name in judge.CRITERIA if scored and 2 * sum(name in held for held in scored) <= len(scored)]
