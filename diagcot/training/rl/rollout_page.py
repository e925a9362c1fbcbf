"""A page of a step's rollouts for the person who runs the stage: private, one file, no scripts, nothing loaded."""

import io
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from diagcot.jobs.state import reading
from diagcot.rewards.score import Score
from diagcot.tasks.samples import Sample
from diagcot.training.rl.rollout import Rollout

SHOWN = 4
"""Rollouts of each prompt: the best, the worst, and two between."""

_PAGE = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(
    """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Rollouts of step {{ step }}</title>
<style>
body {font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a}
pre {white-space: pre-wrap; font: inherit; background: #f4f4f2; padding: .6rem .8rem; margin: .3rem 0}
small {color: #595959} h2 {font-size: 1.05rem; margin: 2rem 0 .3rem} .reference {background: #e9f1ea}
</style>
<h1>Rollouts of step {{ step }}</h1>
<p>Contains texts of studies: do not share.</p>
{% for sample, rollouts in groups %}
<h2>{{ sample.id }} <small>{{ sample.task }}</small></h2>
<pre>{{ sample.prompt }}</pre>
<pre class="reference">{{ sample.answer }}</pre>
{% for rollout, score in rollouts %}
<small>{% for name, value in score.items() %}{{ name }} {{ "%.3f"|format(value) }} · {% endfor %}
{{ rollout.tokens|length }} tokens{{ ", cut" if rollout.cut }}</small>
<pre>{{ rollout.text }}</pre>
{% endfor %}
{% endfor %}
</html>
"""
)


def write(
    folder: Path, step: int, samples: Sequence[Sample], rollouts: Sequence[Rollout], scores: Sequence[Score]
) -> Path:
    """Write `rollouts-<step>.html` (mode 0600), groups in the order of `samples`; returns its path."""
    size = len(rollouts) // len(samples)
    groups = []
    for index, sample in enumerate(samples):
        group = slice(index * size, (index + 1) * size)
        ranked = sorted(zip(rollouts[group], scores[group], strict=True), key=lambda pair: -pair[1]["overall"])
        places = sorted({round(place * (size - 1) / max(1, SHOWN - 1)) for place in range(SHOWN)})
        groups.append((sample, [ranked[place] for place in places]))
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"rollouts-{step:08d}.html"
    with io.BufferedWriter(reading.File(path, "w")) as out:
        out.write(_PAGE.render(step=step, groups=groups).encode())
    return path
