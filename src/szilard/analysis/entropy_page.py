"""A matrix entropy report as one HTML file: the curve over layers with its heads, and a map of layers and heads.

The page loads nothing and runs nothing: the pictures are inline SVG, and its content security policy forbids the rest.
"""

from __future__ import annotations

from html import escape

from szilard.html_page import filled
from szilard.report_page import document, heat_map
from szilard.sessions.matrix_entropy_profile import EntropyReport

_WIDTH, _HEIGHT = 720, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 16, 44  # margins of the plot in a picture


def to_html(report: EntropyReport) -> str:
    """The report as one self-contained HTML document."""
    single = len(report.heads[0]) == 1
    values = {
        "what": escape(report.what),
        "model": escape(report.model or "the model"),
        "texts": str(report.texts),
        "unit": "nats" if report.unit == "nats" else "share of log(number of dimensions): 1 is all of them used alike",
        "top": "all eigenvalues" if report.top is None else f"the {report.top} largest eigenvalues",
        "curve": _curve(report),
        "map": "" if single else f"<h2>Layers and heads</h2>{heat_map(report.heads)}",
    }
    return document("matrix entropy", filled(_BODY, values))


def _curve(report: EntropyReport) -> str:
    """The entropy of every layer as a line, and that of each of its heads as a point."""
    single = len(report.heads[0]) == 1
    everything = [*report.layers, *(value for layer in report.heads for value in layer)]
    low, high = min(everything), max(everything)
    margin = 0.05 * (high - low) or 0.05
    low, high = max(0.0, low - margin), high + margin
    count = len(report.layers)
    floor = _HEIGHT - _BOTTOM

    def x(layer: int) -> float:
        return _LEFT + (layer + 0.5) / count * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return floor - (value - low) / (high - low) * (floor - _TOP)

    shapes = []
    for step in range(5):
        value = low + step / 4 * (high - low)
        shapes.append(
            f'<line class="grid" x1="{_LEFT}" y1="{y(value):.1f}" x2="{_WIDTH - _RIGHT}" y2="{y(value):.1f}"/>'
        )
        shapes.append(f'<text class="tick" x="{_LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.2f}</text>')
    every = max(1, count // 12)
    for layer in range(0, count, every):
        shapes.append(f'<text class="tick" x="{x(layer):.1f}" y="{floor + 16}" text-anchor="middle">{layer}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    shapes.append(f'<text class="tick" x="{middle:.0f}" y="{_HEIGHT - 8}" text-anchor="middle">layer</text>')
    if not single:
        for layer, heads in enumerate(report.heads):
            for head, value in enumerate(heads):
                shapes.append(
                    f'<circle class="head" cx="{x(layer):.1f}" cy="{y(value):.1f}" r="2.5">'
                    f"<title>layer {layer}, head {head}: {value:.3f}</title></circle>"
                )
    points = " ".join(f"{x(layer):.1f},{y(value):.1f}" for layer, value in enumerate(report.layers))
    shapes.append(f'<polyline class="layers" points="{points}"/>')
    for layer, value in enumerate(report.layers):
        shapes.append(
            f'<circle class="layer" cx="{x(layer):.1f}" cy="{y(value):.1f}" r="3.5">'
            f"<title>layer {layer}: {value:.3f}</title></circle>"
        )
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="Entropy over layers">{"".join(shapes)}</svg>'


_BODY = """<h1>Matrix entropy of {{what}} in {{model}}</h1>
<p>Mean over {{texts}} texts; {{top}}; {{unit}}. The line is a layer with its heads side by side, the points are its
heads alone.</p>
{{curve}}
{{map}}"""
