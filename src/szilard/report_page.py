"""Pages of reports, which load nothing and run nothing: their one look, and a map of a table's values as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence

from szilard.html_page import page

_WIDTH, _CELL = 720, 18.0  # of the picture; height of a row
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 16, 44  # margins


def document(title: str, body: str) -> str:
    """A self-contained HTML document in the style of these pages."""
    return page(_PAGE, f"szilard: {title}", {"body": body})


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
