"""A matrix entropy report as one HTML file: the curve over layers with its heads, and a map of layers and heads.

The page loads nothing and runs nothing: the pictures are inline SVG, and its content security policy forbids the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from szilard.html_page import filled, page
from szilard.sessions.matrix_entropy_profile import EntropyReport

_WIDTH, _HEIGHT = 720, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 16, 44  # margins of the plot in a picture
_CELL = 18.0  # height of a layer in the map


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


def document(title: str, body: str) -> str:
    """A self-contained HTML document in the style of these pages."""
    return page(_PAGE, f"szilard: {title}", {"body": body})


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


def heat_map(values: Sequence[Sequence[float]], *, rows: str = "layer", columns: str = "head") -> str:
    """An SVG with a cell per row and column: the darker the lower, the brighter the higher its value.

    Args:
        values: a row each; every row as long as the first.
        rows, columns: what a row and a column are called.
    """
    height, width_of = len(values), len(values[0])
    everything = [value for layer in values for value in layer]
    low, span = min(everything), (max(everything) - min(everything)) or 1.0
    width = (_WIDTH - _LEFT - _RIGHT) / width_of
    shapes = []
    for row, heads in enumerate(values):
        up = _TOP + row * _CELL
        if row % max(1, height // 16) == 0:
            shapes.append(
                f'<text class="tick" x="{_LEFT - 6}" y="{up + _CELL / 2 + 4:.1f}" text-anchor="end">{row}</text>'
            )
        for column, value in enumerate(heads):
            share = (value - low) / span
            shapes.append(
                f'<rect x="{_LEFT + column * width:.2f}" y="{up:.2f}" width="{width + 0.2:.2f}" '
                f'height="{_CELL + 0.2:.2f}" fill="{_colour(share)}">'
                f"<title>{rows} {row}, {columns} {column}: {value:.3f}</title></rect>"
            )
    bottom = _TOP + height * _CELL + _BOTTOM
    for column in range(0, width_of, max(1, width_of // 16)):
        across = _LEFT + (column + 0.5) * width
        shapes.append(f'<text class="tick" x="{across:.1f}" y="{bottom - 28:.0f}" text-anchor="middle">{column}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    legend = f"{columns}, from {low:.3f} (dark) to {low + span:.3f} (bright)"
    shapes.append(f'<text class="tick" x="{middle:.0f}" y="{bottom - 8:.0f}" text-anchor="middle">{legend}</text>')
    opening = f'<svg viewBox="0 0 {_WIDTH} {bottom:.0f}" role="img" aria-label="Every {rows} and {columns}">'
    return f"{opening}{''.join(shapes)}</svg>"


def _colour(share: float) -> str:
    """From indigo to yellow, its lightness rising steadily, so that the order survives without colour."""
    ramp = ((61, 43, 107), (138, 56, 139), (213, 85, 105), (249, 158, 62), (250, 208, 85))
    at = min(max(share, 0.0), 1.0) * (len(ramp) - 1)
    below = min(int(at), len(ramp) - 2)
    mixed = (a + (b - a) * (at - below) for a, b in zip(ramp[below], ramp[below + 1], strict=True))
    return "#" + "".join(f"{round(part):02x}" for part in mixed)


_PAGE = """body { margin: 0 auto; padding: 24px clamp(14px, 2.5vw, 36px); max-width: 900px; }
h1 { font-size: 22px; margin: 0; overflow-wrap: anywhere; } h2 { font-size: 18px; margin: 32px 0 8px; }
p { color: var(--soft); }
svg { width: 100%; background: var(--card); border: 1px solid var(--line); border-radius: 8px; font-size: 11px; }
.tick { fill: var(--soft); } .grid { stroke: var(--line); }
.layers { fill: none; stroke: var(--accent); stroke-width: 2; } .layer { fill: var(--accent); }
.head { fill: var(--soft); opacity: .55; }
</style>
</head>
<body>
{{body}}
</body>
</html>
"""
_BODY = """<h1>Matrix entropy of {{what}} in {{model}}</h1>
<p>Mean over {{texts}} texts; {{top}}; {{unit}}. The line is a layer with its heads side by side, the points are its
heads alone.</p>
{{curve}}
{{map}}"""
