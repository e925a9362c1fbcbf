"""Kind: which traces become training samples. Rules decide first, since they cost nothing; then the judge."""

import contextlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from diagcot.cot import prompts
from diagcot.cot.settings import FilterSettings
from diagcot.data import prompts as asked
from diagcot.data.labeler import label
from diagcot.data.samples import ImageRef, Sample, write_samples
from diagcot.jobs.context import Context, Result, Unit
from diagcot.serving import Reply, Request, Server, serve
from diagcot.shards import Shard

_SECTION = re.compile(r"(findings|impression) : (?=\S)")


@contextlib.contextmanager
def open(ctx: Context) -> Iterator[Server | None]:
    settings = FilterSettings.model_validate(ctx.settings)
    if not settings.judge:
        yield None
        return
    with serve(Path(ctx.inputs["model"][0]) / "model", settings.server, ctx) as server:
        yield server


def run(unit: Unit, shared: Server | None, ctx: Context) -> Result | None:
    """Verdicts on the traces of unit `unit.key`, and the samples of those that are kept. No trace is left out."""
    settings = FilterSettings.model_validate(ctx.settings)
    path = Path(ctx.inputs["traces"][0]) / f"{unit.key}.jsonl"
    with path.open(encoding="utf-8") as lines:
        traces = {row["id"]: row for row in map(json.loads, lines)}
    records = ctx.records(unit)
    try:
        judged = []
        for trace in traces.values():
            if trace["id"] in records:
                continue
            fault = rule(trace, settings)
            if fault or shared is None:
                records.append({"id": trace["id"], "kept": fault is None, "rule": fault, "judge": None, "error": None})
            else:
                judged.append(trace)
        if judged and shared is not None:
            requests = (_question(trace, settings, ctx) for trace in judged)
            for trace_id, reply in shared.complete(requests, stopping=ctx.stopping):
                records.append({"id": trace_id, "rule": None, **decide(reply, settings.criteria)})
                ctx.progress(len(records), len(traces))
        if len(records) < len(traces):
            return None
        return _publish(unit, traces, list(records.rows()), ctx)
    finally:
        records.close()


def rule(trace: dict[str, Any], settings: FilterSettings) -> str | None:
    """The rule that a trace breaks, or None."""
    if trace["error"]:
        return "search_failed"
    if trace["forced"] and settings.forced == "drop":
        return "forced"
    if len(trace["reasoning"].split()) < settings.min_words:
        return "reasoning_too_short"
    if {match.group(1) for match in _SECTION.finditer(trace["report"])} < {
        match.group(1) for match in _SECTION.finditer(trace["reference"])
    }:
        return "section_missing"
    return None if label_f1(trace["report"], trace["reference"]) >= settings.label_f1 else "labels_differ"


def label_f1(report: str, reference: str) -> float:
    """F1 of the CheXpert labels that two reports state or doubt, 0 to 1; 1 where neither has any."""
    ours, theirs = ({name for name, value in label(text).items() if value} for text in (report, reference))
    return 2 * len(ours & theirs) / (len(ours) + len(theirs)) if ours or theirs else 1.0


def decide(reply: Reply, criteria: int) -> dict[str, Any]:
    """The judge's reply as a verdict: kept if at least `criteria` of the five hold. No readable reply is no."""
    if reply.error or reply.finish[:1] == ["length"]:
        return {"kept": False, "judge": None, "error": reply.error or "the reply was cut"}
    try:
        row = json.loads(reply.text, strict=False)
        held = {name: row[name] for name in prompts.CRITERIA}
        if not all(isinstance(value, bool) for value in held.values()):
            raise TypeError
    except (ValueError, LookupError, TypeError):
        return {"kept": False, "judge": None, "error": "the reply is not as asked"}
    return {"kept": sum(held.values()) >= criteria, "judge": held | {"reason": row.get("reason", "")}, "error": None}


@lru_cache(maxsize=8)
def _shard(path: Path) -> Shard:
    return Shard(path)


def _question(trace: dict[str, Any], settings: FilterSettings, ctx: Context) -> Request:
    return Request(
        id=trace["id"],
        messages=(("user", prompts.judge(trace["reference"], trace["reasoning"], trace["report"])),),
        images=tuple(_shard(ctx.shards_root / image["shard"]).jpeg(image["row"]) for image in trace["images"]),
        max_tokens=settings.max_tokens,
        schema=prompts.judge_schema(settings.reply.limits()),
    )


def _publish(unit: Unit, traces: dict[str, Any], verdicts: list[dict[str, Any]], ctx: Context) -> Result:
    # The verdicts have a folder of their own: training reads every *.jsonl beside the samples.
    samples, table = ctx.output / f"{unit.key}.jsonl", ctx.output / "verdicts" / f"{unit.key}.jsonl"
    outputs = {samples: ctx.staged(samples), table: ctx.staged(table)}
    with outputs[table].open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in verdicts)
    kept = write_samples(outputs[samples], (to_sample(traces[row["id"]]) for row in verdicts if row["kept"]))
    why = Counter(
        f"dropped_{row['rule'] or ('unreadable' if row['error'] else 'judge')}" for row in verdicts if not row["kept"]
    )
    failed = Counter(
        f"judge_{name}_no" for row in verdicts if row["judge"] for name in prompts.CRITERIA if not row["judge"][name]
    )
    return Result(outputs, {"traces": len(verdicts), "kept": kept, **dict(sorted((why + failed).items()))})


def to_sample(trace: dict[str, Any]) -> Sample:
    """The training sample of a trace (method.md 4.3): the question of evaluation, the answer with its thinking."""
    asks = asked.for_films(asked.REPORT, len(trace["images"]))
    return Sample(
        id=f"{trace['id']}:cot",
        task="report",
        study=trace["study"],
        images=tuple(ImageRef(**image) for image in trace["images"]),
        messages=(("user", asks), ("assistant", asked.reasoned(trace["reasoning"], trace["report"]))),
        meta=trace["meta"] | {"verified": trace["verified"], "forced": trace["forced"]},
    )
