"""The picture: bits against length, distortion against rate with its curves, a table, and what to take.

The page loads nothing and runs nothing: the pictures are inline SVG, and its content security policy forbids the rest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from szilard.analysis.agentic_mi.report import Point
from szilard.html_page import page
from szilard.information.rate_distortion import RateDistortion

_WIDTH, _HEIGHT = 720, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 16, 44  # margins of the plot in a picture
_COLOURS = 6  # series whose colours differ
_CURVE = 80  # pieces of a fitted line
_LETTER, _LINE = 6.0, 13.0  # about a letter's width and a line's height


def to_html(
    reports: Sequence[Mapping[str, Any]],
    points: Sequence[Point] = (),
    fits: Mapping[str, RateDistortion] | None = None,
    *,
    fits_of_bits: Mapping[str, RateDistortion] | None = None,
    advice: Sequence[str] = (),
    title: str = "Information that compressors keep",
) -> str:
    """One self-contained HTML document.

    Args:
        reports: of the compressors, `InformationReport.to_dict()`.
        points: compressors with predictors.
        fits: the curve of a predictor over bits per token, by its name.
        fits_of_bits: the same over bits.
        advice: sentences of recommendation.
        title: heading.
    """
    ceiling = max(report["ceiling_bits"] for report in reports)
    scorers = ", ".join(dict.fromkeys(str(report["scorer"]) for report in reports))
    kind = "I(X;Z|Q)" if any(report["conditional"] for report in reports) else "I(X;Z)"
    answered = [one for one in points if one.distortion is not None]
    saturated = [report for report in reports if report["saturation"] > 0.5]
    warning = (
        f'<p class="warn">{len(saturated)} of {len(reports)} compressors have more than half of their texts at the '
        "ceiling: between those, bits per token compare little but lengths. Take contexts that are more alike, or more "
        "of them.</p>"
        if saturated
        else ""
    )
    values = {
        "title": escape(title),
        "about": f"{kind} over {reports[0]['contexts']} contexts, at most {ceiling:.2f} bits; scored by "
        f"{escape(scorers)}.",
        "warning": warning,
        "bits": _bits_picture(reports, ceiling),
        "rates": _distortion_pictures(answered, fits or {}, fits_of_bits or {}) if answered else "",
        "advice": "".join(f"<p>{escape(sentence)}</p>" for sentence in advice),
        "table": _table(reports),
        "pairs": _pairs(answered) if answered else "",
    }
    return page(_PAGE, f"szilard: {title}", values)


class _Axes:
    """A plot from 0 to a round number in both directions."""

    def __init__(self, across: float, up: float, labels: tuple[str, str]) -> None:
        self.step_x, self.step_y = _step(across), _step(up)
        self.right = self.step_x * math.ceil(across / self.step_x - 1e-9)
        self.top = self.step_y * math.ceil(up / self.step_y - 1e-9)
        self.labels = labels
        self._names: list[tuple[float, float, float]] = []  # left, right and height of those that stand

    def x(self, value: float) -> float:
        return _LEFT + value / self.right * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - value / self.top * (_HEIGHT - _TOP - _BOTTOM)

    def frame(self) -> list[str]:
        """Grid, ticks and names of the axes."""
        shapes = []
        for number in range(round(self.top / self.step_y) + 1):
            value = number * self.step_y
            y = self.y(value)
            shapes.append(f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}"/>')
            shapes.append(f'<text class="tick" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
        for number in range(round(self.right / self.step_x) + 1):
            value = round(number * self.step_x, 10)
            place = f'x="{self.x(value):.1f}" y="{_HEIGHT - _BOTTOM + 16}"'
            shapes.append(f'<text class="tick" {place} text-anchor="middle">{value:g}</text>')
        across, up = map(escape, self.labels)
        middle = (_LEFT + _WIDTH - _RIGHT) / 2
        shapes.append(f'<text class="tick" x="{middle:.0f}" y="{_HEIGHT - 8}" text-anchor="middle">{across}</text>')
        at = (_TOP + _HEIGHT - _BOTTOM) / 2
        turned = f'text-anchor="middle" transform="rotate(-90 14 {at:.0f})"'
        shapes.append(f'<text class="tick" x="14" y="{at:.0f}" {turned}>{up}</text>')
        return shapes

    def dot(self, across: float, up: float, series: int, label: str, hint: str) -> str:
        """A point, and its name beside it where no earlier name stands."""
        x, y = self.x(across), self.y(up)
        name = ""
        if label:
            to_the_left = x > _WIDTH * 0.7
            width = _LETTER * len(label)
            left = x - 8 - width if to_the_left else x + 8
            shifts = (number // 2 * _LINE * (-1) ** number for number in range(1, 2 * len(self._names) + 3))
            at = next((y + shift for shift in shifts if not self._covered(left, left + width, y + shift)), y)
            self._names.append((left, left + width, at))
            place = f'x="{x - 8 if to_the_left else x + 8:.1f}" y="{at + 4:.1f}"'
            name = f'<text {place} text-anchor="{"end" if to_the_left else "start"}">{escape(label)}</text>'
        return (
            f'<g class="s{series % _COLOURS}"><circle cx="{x:.1f}" cy="{y:.1f}" r="4.5"><title>{escape(hint)}</title>'
            f"</circle>{name}</g>"
        )

    def _covered(self, left: float, right: float, y: float) -> bool:
        """Whether a name here would leave the plot or stand on another."""
        outside = not _TOP - 8 <= y <= _HEIGHT - _BOTTOM
        return outside or any(left < b and a < right and abs(y - at) < _LINE for a, b, at in self._names)


def _bits_picture(reports: Sequence[Mapping[str, Any]], ceiling: float) -> str:
    """Every compressor's bits with one standard error, over the length of its texts; the ceiling as a line."""
    longest = max(report["scorer_length"] for report in reports) or 1.0
    axes = _Axes(longest, ceiling, ("tokens of a text (the scorer's)", "bits"))
    shapes = axes.frame()
    y = axes.y(ceiling)
    shapes.append(f'<line class="bound" x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}"/>')
    for number, report in enumerate(reports):
        error = (report["standard_error"] or 0.0) / math.log(2)
        low, high = max(0.0, report["bits"] - error), min(ceiling, report["bits"] + error)
        x = axes.x(report["scorer_length"])
        shapes.append(
            f'<line class="s{number % _COLOURS} error" x1="{x:.1f}" y1="{axes.y(low):.1f}" x2="{x:.1f}" '
            f'y2="{axes.y(high):.1f}"/>'
        )
        hint = f"{report['compressor']}: {report['bits']:.2f} bits in {report['scorer_length']:.1f} tokens"
        shapes.append(axes.dot(report["scorer_length"], report["bits"], number, str(report["compressor"]), hint))
    return _svg("Bits against length", shapes)


def _distortion_pictures(
    points: Sequence[Point], fits: Mapping[str, RateDistortion], fits_of_bits: Mapping[str, RateDistortion]
) -> str:
    """Over bits per token, as published, and over bits: at the ceiling bits per token are one over the length."""
    return (
        "<h2>Distortion against rate</h2>"
        + _distortion_picture(points, [one.rate for one in points], "bits per token", fits)
        + "<h2>Distortion against bits</h2>"
        + _distortion_picture(points, [one.bits for one in points], "bits", fits_of_bits)
    )


def _distortion_picture(
    points: Sequence[Point], across: Sequence[float], unit: str, fits: Mapping[str, RateDistortion]
) -> str:
    """Points, a colour and a fitted line per predictor; lines reach as far as there are points."""
    axes = _Axes(max(across) or 1.0, max(one.distortion or 0.0 for one in points) or 1.0, (unit, "distortion"))
    shapes, legend = axes.frame(), []
    for number, name in enumerate(dict.fromkeys(str(one.predictor) for one in points)):
        own = [(at, one) for at, one in zip(across, points, strict=True) if str(one.predictor) == name]
        told, fit = "", fits.get(name)
        if fit is not None:
            first, last = min(at for at, _ in own), max(at for at, _ in own)
            line = (first + (last - first) * piece / _CURVE for piece in range(_CURVE + 1))
            path = " ".join(f"{axes.x(at):.1f},{axes.y(min(fit(at), axes.top)):.1f}" for at in line)
            shapes.append(f'<polyline class="s{number % _COLOURS} fit" points="{path}"/>')
            told = f": D₀ = {fit.floor:.2f}, C = {fit.scale:.3g}, b = {fit.decay:.3g}, R² = {fit.r2:.2f}"
        for at, one in own:
            hint = f"{one.pair}: {one.distortion:.3f} at {at:.3f} {unit}"
            shapes.append(axes.dot(at, one.distortion or 0.0, number, "", hint))
        legend.append(f'<span class="s{number % _COLOURS}">● {escape(name + told)}</span>')
    return _svg(f"Distortion against {unit}", shapes) + f'<p class="legend">{" ".join(legend)}</p>'


def _table(reports: Sequence[Mapping[str, Any]]) -> str:
    head = (
        "compressor",
        "scorer",
        "bits",
        "±",
        "unclipped",
        "ceiling",
        "at it",
        "tokens",
        "bits/token",
        "empty",
        "cut off",
    )
    rows = [
        (
            report["compressor"],
            report["scorer"],
            f"{report['bits']:.2f}",
            "" if report["standard_error"] is None else f"{report['standard_error'] / math.log(2):.2f}",
            f"{report['raw_nats'] / math.log(2):.2f}",
            f"{report['ceiling_bits']:.2f}",
            f"{report['saturation']:.0%}",
            f"{report['length']:.1f}",
            f"{report['bits_per_token']:.3f}",
            report["empty"],
            report["truncated"],
        )
        for report in reports
    ]
    return _html_table(head, rows, words=2)


def _pairs(points: Sequence[Point]) -> str:
    head = ("compressor", "predictor", "distortion", "±", "bits/token", "predictor's tokens", "FLOPs", "cost")
    rows = [
        (
            one.compressor,
            one.predictor,
            f"{one.distortion:.3f}",
            "" if one.error is None or math.isnan(one.error) else f"{one.error:.3f}",
            f"{one.rate:.3f}",
            "" if one.tokens is None else f"{one.tokens:.0f}",
            f"{one.flops:.3g}",
            "" if one.cost is None else f"{one.cost:.3g}",
        )
        for one in points
    ]
    return "<h2>Compressors with predictors</h2>" + _html_table(head, rows, words=2)


def _html_table(head: Sequence[str], rows: Sequence[Sequence[Any]], *, words: int) -> str:
    """A table; the first columns hold words, the others numbers."""
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(
        "<tr>"
        + "".join(f"<td{'' if at < words else ' class=n'}>{escape(str(cell))}</td>" for at, cell in enumerate(row))
        + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><tr>{top}</tr>{body}</table></div>'


def _step(span: float) -> float:
    """A round step that divides a span into three to seven."""
    size = 10.0 ** math.floor(math.log10(span / 3))
    return size * next(factor for factor in (1, 2, 5, 10) if span / (size * factor) <= 7)


def _svg(name: str, shapes: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{name}">{"".join(shapes)}</svg>'


_PAGE = """:root { --c0: #5b45c9; --c1: #b4560b; --c2: #0f7a5a; --c3: #b3266b; --c4: #1e6fb8; --c5: #7a6a00; }
@media (prefers-color-scheme: dark) { :root { --c0: #a993ff; --c1: #ff9e57; --c2: #4fd0a3; --c3: #ff7fb5; --c4: #7cb8ff;
  --c5: #d9c64a; } }
body { margin: 0 auto; padding: 24px clamp(14px, 2.5vw, 36px); max-width: 900px; }
h1 { font-size: 22px; margin: 0; overflow-wrap: anywhere; } h2 { font-size: 18px; margin: 32px 0 8px; }
p { color: var(--soft); } .warn { border-left: 3px solid var(--c1); padding-left: 10px; }
svg { width: 100%; background: var(--card); border: 1px solid var(--line); border-radius: 8px; font-size: 11px; }
.tick { fill: var(--soft); } .grid { stroke: var(--line); }
.bound { stroke: var(--soft); stroke-dasharray: 5 4; }
.s0 { --c: var(--c0); } .s1 { --c: var(--c1); } .s2 { --c: var(--c2); } .s3 { --c: var(--c3); } .s4 { --c: var(--c4); }
.s5 { --c: var(--c5); }
circle, g text { fill: var(--c); }
.legend span { color: var(--c); margin-right: 16px; white-space: nowrap; }
.error { stroke: var(--c); stroke-width: 1.5; }
.fit { fill: none; stroke: var(--c); stroke-width: 2; opacity: .8; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: 13px; width: 100%; }
th, td { text-align: left; padding: 4px 8px; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 500; } .n { text-align: right; font-variant-numeric: tabular-nums; }
</style>
</head>
<body>
<h1>{{title}}</h1>
<p>{{about}} The dashed line is the ceiling: log2 of the contexts that compete, above which nothing can be measured.
Bars are one standard error over contexts. Bits tell how well the source is told from the text, not whether what it says
is useful or true.</p>
{{warning}}
{{bits}}
{{rates}}
{{advice}}
<h2>Compressors</h2>
{{table}}
{{pairs}}
</body>
</html>
"""
