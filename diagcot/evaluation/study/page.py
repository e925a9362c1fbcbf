"""An ablation study in words and plots: study.md, and study.html, one file that works offline."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diagcot.evaluation.report import drawing
from diagcot.text.pages import environment

SAID = {
    "holds": "What holds at this size",
    "does not hold": "What does not hold at this size",
    "not decided": "What is not decided at this size",
}


def markdown(study: Mapping[str, Any]) -> str:
    """The claims by verdict, the table of differences, and the table of models. No text or image of any study."""
    seeds = [str(seed) for seed in study["seeds"]]
    lines = [f"# Ablation study {study['run']}", ""]
    if study["phantom"]["samples"]:
        lines += [
            "**Phantom images:** drawn, not of people. The verdicts are about models of this size on drawings.",
            "",
        ]
    lines += [f"Seeds {', '.join(seeds)}; {drawing.duration(study['seconds'])} of work.", "", study["rule"], ""]
    for verdict, heading in SAID.items():
        sentences = [f"* {sentence(claim)}" for claim in study["claims"] if claim["verdict"] == verdict]
        lines += [f"## {heading}", "", *(sentences or ["None."]), ""]
    heads = ["better", "than", "score", *(f"seed {seed}" for seed in seeds), "mean", "verdict"]
    lines += ["## Differences", "", line(heads), line(["---"] * len(heads))]
    for claim in study["claims"]:
        cells = [_cell(one, sign=True) for one in (*(claim["seeds"].get(seed) for seed in seeds), claim["mean"])]
        lines.append(line([claim["better"], claim["than"], claim["title"], *cells, claim["verdict"]]))
    columns = _columns(study)
    heads = ["model", *columns.values()]
    lines += ["", "## Models, mean over seeds", "", line(heads), line(["---"] * len(heads))]
    lines += [line([row["model"], *(_cell(row["scores"].get(name)) for name in columns)]) for row in study["models"]]
    return "\n".join(lines) + "\n"


def sentence(claim: Mapping[str, Any]) -> str:
    """The claim and the figures that decide on it."""
    if claim["mean"] is None:
        return f"{claim['text']} No value: {claim['why']}."
    ahead = sum(one["value"] > 0 for one in claim["seeds"].values())
    return (
        f"{claim['text']} {claim['title']} of {claim['better']} against {claim['than']}: {_cell(claim['mean'], sign=True)};"
        f" better on {ahead} of {len(claim['seeds'])} seeds."
    )


def html(study: Mapping[str, Any]) -> str:
    """One page without scripts or external requests: a plot of the differences for each claim."""
    page = environment(Path(__file__).parent)
    plots = []
    for claim in study["claims"]:
        rows = [(f"seed {seed}", one["value"], one["low"], one["high"]) for seed, one in claim["seeds"].items()]
        mean = claim["mean"]
        rows += [("mean", mean["value"], mean["low"], mean["high"])] if mean else []
        plots.append((claim, sentence(claim), drawing.differences(rows)))
    by_verdict = [(heading, [plot for plot in plots if plot[0]["verdict"] == name]) for name, heading in SAID.items()]
    return page.get_template("study.html.j2").render(
        study=study, by_verdict=by_verdict, columns=_columns(study), cell=_cell, duration=drawing.duration
    )


def _columns(study: Mapping[str, Any]) -> dict[str, str]:
    """Name -> title of the scores that decide."""
    return {claim["column"]: claim["title"] for claim in study["claims"]}


def line(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def _cell(one: Mapping[str, float | None] | None, sign: bool = False) -> str:
    if one is None:
        return "–"
    shape = "+.3f" if sign else ".3f"
    interval = "" if one["low"] is None else f" [{one['low']:{shape}}, {one['high']:{shape}}]"
    return f"{one['value']:{shape}}{interval}"
