"""Charts of the report as inline SVG; colours come from the page's style sheet, so that they follow light and dark."""

import math
import time
from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

from diagcot.evaluation.report.history import Stage

SEEN = 1e-6
"""Values that are smaller are 0 on an axis."""
Points = Sequence[tuple[float, float]]


def intervals(rows: Sequence[tuple[str, float, float | None, float | None]], colours: Mapping[str, int]) -> Markup:
    """A dot and its interval, if it has one, for each (model, value, low, high), on one axis that has 0."""
    width, left, right, step = 340, 78, 52, 22
    height = step * len(rows) + 22
    ends = [0.0, *(end for _, *all_three in rows for end in all_three if end is not None)]
    most, least = max(ends), min(ends)
    bottom = -_ceiling(-least) if least < -SEEN else 0.0
    top = _ceiling(most) if most > SEEN else 0.0 if bottom else 1.0

    def x(value: float) -> float:
        return left + (width - left - right) * (value - bottom) / (top - bottom)

    ticks = [bottom, 0.0, top] if bottom else list(_ticks(top))
    parts = [_line(x(tick), 2, x(tick), height - 18, "grid") for tick in ticks]
    parts += [_text(x(tick), height - 5, f"{tick:g}", "axis mid") for tick in ticks]
    for place, (model, value, low, high) in enumerate(rows):
        y, colour = 13 + step * place, f"c{colours[model]}"
        parts.append(_text(left - 8, y + 4, model, "label end"))
        if low is not None and high is not None:
            parts.append(_line(x(low), y, x(high), y, f"whisker {colour}"))
        parts.append(Markup('<circle cx="{:.1f}" cy="{}" r="4.5" class="dot {}"/>').format(x(value), y, colour))
        parts.append(_text(width - right + 8, y + 4, f"{value:.3f}", "value"))
    return _svg(width, height, parts)


def differences(rows: Sequence[tuple[str, float, float, float]]) -> Markup:
    """A dot and its interval for each (name, value, low, high) around a line at 0; the last row is drawn thick."""
    if not rows:
        return Markup("")
    width, left, right, step = 340, 62, 58, 22
    height = step * len(rows) + 22
    most = _ceiling(max([abs(end) for _, _, *ends in rows for end in ends] + [1e-9]))

    def x(value: float) -> float:
        return left + (width - left - right) * (value + most) / (2 * most)

    parts = [_line(x(tick), 2, x(tick), height - 18, "grid") for tick in (-most, most)]
    parts.append(_line(x(0), 2, x(0), height - 18, "zero"))
    parts += [_text(x(tick), height - 5, f"{tick:+g}" if tick else "0", "axis mid") for tick in (-most, 0, most)]
    for place, (name, value, low, high) in enumerate(rows):
        y, thick = 13 + step * place, " thick" * (place == len(rows) - 1)
        parts.append(_text(left - 8, y + 4, name, "label end"))
        parts.append(_line(x(low), y, x(high), y, f"whisker{thick}"))
        parts.append(Markup('<circle cx="{:.1f}" cy="{}" r="4.5" class="dot"/>').format(x(value), y))
        parts.append(_text(width - right + 8, y + 4, f"{value:+.3f}", "value"))
    return _svg(width, height, parts)


def timeline(stages: Sequence[Stage]) -> Markup:
    """One bar for each stage from its first start to its last end."""
    timed = [stage for stage in stages if stage.started and stage.ended]
    if not timed:
        return Markup("")
    begin, end = min(s.started or 0 for s in timed), max(s.ended or 0 for s in timed)
    total = max(end - begin, 1.0)
    width, left, right, step = 960, 130, 120, 26
    height = step * len(timed) + 24

    def x(moment: float) -> float:
        return left + (width - left - right) * (moment - begin) / total

    ticks = [begin + tick for tick in _ticks(total)]
    parts = [_line(x(tick), 2, x(tick), height - 20, "grid") for tick in ticks]
    parts += [_text(x(tick), height - 5, duration(tick - begin), "axis mid") for tick in ticks]
    for place, stage in enumerate(timed):
        y = 4 + step * place
        first, last = x(stage.started or 0), x(stage.ended or 0)
        parts.append(_text(left - 10, y + 14, stage.name, "label end"))
        parts.append(
            Markup('<rect x="{:.1f}" y="{}" width="{:.1f}" height="16" rx="4" class="bar {}"/>').format(
                first, y + 2, max(last - first, 2.0), f"n{stage.number}"
            )
        )
        caption = duration(stage.wall) + (f", {len(stage.failures)} failed" if stage.failures else "")
        parts.append(_text(last + 7, y + 14, caption, "value"))
    return _svg(width, height, parts)


def curve(points: Points, colour: int) -> Markup:
    """A line of (step, value) with the range of both axes."""
    width, height, left, bottom, top, right = 340, 150, 46, 20, 8, 12
    steps, values = [step for step, _ in points], [value for _, value in points if math.isfinite(value)]
    if not values:
        return Markup("")
    low, high = min(values), max(values)
    span = (high - low) or abs(high) or 1.0
    first, last = min(steps), max(steps)

    def x(step: float) -> float:
        return left + (width - left - right) * ((step - first) / (last - first) if last > first else 0.5)

    def y(value: float) -> float:
        return top + (height - top - bottom) * (1 - (value - low) / span)

    parts = []
    for value in (low, (low + high) / 2, high) if high > low else (low,):
        parts.append(_line(left, y(value), width - right, y(value), "grid"))
        parts.append(_text(left - 6, y(value) + 4, f"{value:.3g}", "axis end"))
    parts.append(_text(left, height - 5, f"{first:g}", "axis"))
    parts.append(_text(width - right, height - 5, f"step {last:g}", "axis end"))
    line = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in points if math.isfinite(value))
    parts.append(Markup('<polyline points="{}" class="curve c{}"/>').format(line, colour))
    if len(points) == 1:
        parts.append(Markup('<circle cx="{:.1f}" cy="{:.1f}" r="3" class="dot c{}"/>').format(x(first), y(low), colour))
    return _svg(width, height, parts)


def duration(seconds: float | None) -> str:
    """`42 s`, `3 min 05 s`, `2 h 10 min`; a dash where it is not known."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min" + (f" {whole % 60:02d} s" if whole % 60 else "")
    return f"{whole // 3600} h" + (f" {whole % 3600 // 60:02d} min" if whole % 3600 // 60 else "")


def moment(seconds: float) -> str:
    """A time as local date and minute."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _ceiling(value: float) -> float:
    """The next round number at or above a positive value."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if factor * power >= value * (1 - 1e-9))


def _ticks(top: float) -> list[float]:
    """Round numbers from 0, about four up to `top`; of seconds, round minutes or hours."""
    rough = top / 4
    if top > 90:
        choices = [15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400]
        step = float(next((c for c in choices if c >= rough), 86400 * math.ceil(rough / 86400)))
    else:
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    return [step * i for i in range(int(top / step + 1e-9) + 1)]


def _svg(width: int, height: int, parts: Sequence[Markup]) -> Markup:
    return Markup('<svg viewBox="0 0 {} {}" role="img">{}</svg>').format(width, height, Markup("").join(parts))


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return Markup('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" class="{}"/>').format(x1, y1, x2, y2, kind)


def _text(x: float, y: float, text: str, kind: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" class="{}">{}</text>').format(x, y, kind, escape(text))
