"""A report on the entropy of attention as one HTML file: a map of layers and heads, and a histogram."""

from __future__ import annotations

from html import escape

from szilard.html_page import filled
from szilard.report_page import document, heat_map
from szilard.sessions.head_entropies import MANY, NEAR_UNIFORM, NEAR_ZERO, HeadEntropyReport

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 720, 220, 56, 44, 16
_BINS = 20


def to_html(report: HeadEntropyReport) -> str:
    """The report as one self-contained HTML document."""
    names = ("lowest quarter", "second", "third", "highest")
    quarters = ", ".join(f"{name} {share:.0%}" for name, share in zip(names, report.quarters, strict=True))
    values = {
        "model": escape(report.model or "the model"),
        "texts": str(report.texts),
        "tokens": str(report.tokens),
        "verdict": escape(verdict(report)),
        "max": f"{report.max:.3f}",
        "uniform": f"{max(report.uniform):.3f}",
        "quarters": quarters,
        "map": heat_map(report.heads),
        "histogram": _histogram(report),
        "near_uniform": f"{NEAR_UNIFORM:.0%}",
        "near_zero": f"{NEAR_ZERO:.0%}",
    }
    return document("entropy of attention", filled(_BODY, values))


def verdict(report: HeadEntropyReport) -> str:
    """What the flags say, in a sentence."""
    found = []
    if report.overloaded:
        found.append(f"overloaded: {report.near_uniform:.0%} of the heads look everywhere alike")
    if report.collapsed:
        found.append(f"collapsed: {report.near_zero:.0%} of the heads look at one token")
    if found:
        return "; ".join(found) + "."
    return (
        f"neither overloaded nor collapsed: {report.near_uniform:.0%} of the heads look everywhere alike, "
        f"{report.near_zero:.0%} at one token (from {MANY:.0%} on it would be)."
    )


def _histogram(report: HeadEntropyReport) -> str:
    """Heads over their share of the uniform entropy."""
    counts = report.histogram(_BINS)
    most, floor = max(counts), _HEIGHT - _BOTTOM
    width = (_WIDTH - _LEFT - 16) / _BINS
    shapes = []
    for place, count in enumerate(counts):
        tall = count / most * (floor - _TOP)
        x = _LEFT + place * width
        shapes.append(
            f'<rect class="bar" x="{x + 1:.1f}" y="{floor - tall:.1f}" width="{width - 2:.1f}" height="{tall:.1f}" '
            f'fill="#6d4fd8"><title>{place / _BINS:.0%} to {(place + 1) / _BINS:.0%}: {count} heads</title></rect>'
        )
    for step in range(5):
        x = _LEFT + step / 4 * _BINS * width
        shapes.append(f'<text class="tick" x="{x:.1f}" y="{floor + 16}" text-anchor="middle">{step / 4:.0%}</text>')
    shapes.append(f'<text class="tick" x="{_LEFT - 6}" y="{_TOP + 8}" text-anchor="end">{most}</text>')
    middle = _LEFT + _BINS * width / 2
    label = "entropy as a share of that of a head that looks everywhere alike"
    shapes.append(f'<text class="tick" x="{middle:.0f}" y="{_HEIGHT - 8}" text-anchor="middle">{label}</text>')
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="Histogram of heads">{"".join(shapes)}</svg>'


_BODY = """<h1>Entropy of attention in {{model}}</h1>
<p>The model is {{verdict}} Mean over {{tokens}} tokens of {{texts}} texts, in nats. Largest head {{max}}; a head that
looks everywhere alike {{uniform}}. Heads by quarters of the largest: {{quarters}}.</p>
<h2>Layers and heads</h2>
{{map}}
<h2>How many heads look how widely</h2>
{{histogram}}
<p>Above {{near_uniform}} a head looks everywhere alike, below {{near_zero}} at one token.</p>"""
