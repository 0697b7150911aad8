"""A Markov report as one HTML file: the tables, the entropy over the window, and the spectrum of predictions."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from szilard.analysis.markov_lm.report import MarkovReport
from szilard.report_page import document

_GIVEN = {"all": "the tokens between", "next": "the next token", "nothing": "frequencies"}
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 640, 240, 48, 34


def to_html(report: MarkovReport) -> str:
    """The report as one self-contained document."""
    parts = [
        f"<h1>{escape(report.model)}</h1>",
        f"<p>{report.tokens:,} tokens of {report.texts} texts; nats; ± is a standard error over texts.</p>",
        "<h2>How stochastic the head is</h2>",
        _table(
            ["", "mean", "95 %"],
            [
                *([f"entropy, {name}", str(one), _range(one)] for name, one in report.entropy.items()),
                ["loss", str(report.loss), _range(report.loss)],
                ["loss minus entropy", str(report.calibration_gap), _range(report.calibration_gap)],
            ],
        ),
        _curves(
            [place for place, _, _ in report.by_place],
            {"loss": [b for _, _, b in report.by_place], "entropy": [a for _, a, _ in report.by_place]},
            "tokens read (from)",
        ),
    ]
    if report.surplus:
        parts += [
            "<h2>What a state tells about tokens beyond the next one</h2>",
            _table(
                ["layer", "tokens ahead", "A", "by", "B", "C", "A - B", "(A - B) / (A - C)", "top-1", "without state"],
                [
                    [
                        str(row.layer),
                        str(row.offset),
                        str(row.without),
                        row.baseline,
                        str(row.with_state),
                        str(row.model),
                        str(row.surplus),
                        "" if row.recovered is None else f"{row.recovered:.2f}",
                        str(row.top1_agreement),
                        str(row.top1_without),
                    ]
                    for row in report.surplus
                ],
            ),
            f"<p>A: {_GIVEN[report.surplus[0].given]} alone; B: a probe with the state; C: the model with everything. "
            "A - B is V-information of the probes, a difference of two upper bounds and no bound itself. A draft of "
            f"{report.draft_length} tokens has at least 0.3 of what the past tells.</p>",
        ]
    if report.geometry is not None:
        parts += [
            "<h2>Which directions matter</h2>",
            _table(
                ["of the mean pullback metric", ""],
                [[name.replace("_", " "), f"{value:.3f}"] for name, value in report.geometry.items()],
            ),
        ]
    if report.alignment:
        parts += [
            f"<h2>Contexts that predict alike ({escape(str(report.kernel))}, {escape(str(report.source))})</h2>",
            _table(
                ["layer", "rho", "CKA", "permuted: mean, largest", "untrained"],
                [
                    [
                        str(row.layer),
                        f"{row.rho:.3f}",
                        f"{row.cka:.3f}",
                        "" if row.null is None else f"{row.null[0]:.3f}, {row.null[1]:.3f}",
                        "" if row.untrained is None else f"{row.untrained:.3f}",
                    ]
                    for row in report.alignment
                ],
            ),
            _curves(
                list(range(1, len(report.spectrum) + 1)), {"eigenvalue": report.spectrum}, "eigenvalues of the operator"
            ),
            _table(
                ["projection on directions", "Dirichlet energy"], [[a, f"{b:.3f}"] for a, b in report.dirichlet.items()]
            ),
        ]
    return document("Markov diagnostics", "".join(parts))


def _range(one: object) -> str:
    return f"{one.low:.3f} to {one.high:.3f}"  # type: ignore[attr-defined]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return f"<table>{line(head, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"


def _curves(across: Sequence[int], curves: dict[str, Sequence[float]], label: str) -> str:
    """Lines over evenly spaced steps, from 0 to the largest value."""
    top = max((value for values in curves.values() for value in values), default=1.0) or 1.0
    right, down = _WIDTH - 16, _HEIGHT - _BOTTOM

    def x(at: int) -> float:
        return _LEFT + (right - _LEFT) * at / max(1, len(across) - 1)

    def y(value: float) -> float:
        return down - (down - 14) * value / top

    shapes = []
    for mark in (0.0, 0.5, 1.0):
        shapes.append(
            f'<text class="tick" x="{_LEFT - 6}" y="{y(mark * top) + 4:.1f}" text-anchor="end">{mark * top:.3g}</text>'
        )
    for at in range(0, len(across), max(1, len(across) // 12)):
        shapes.append(f'<text class="tick" x="{x(at):.1f}" y="{down + 16}" text-anchor="middle">{across[at]}</text>')
    for number, (name, values) in enumerate(curves.items()):
        points = " ".join(f"{x(at):.1f},{y(max(0.0, value)):.1f}" for at, value in enumerate(values))
        colour = ("#4269d0", "#d1495b")[number % 2]
        shapes.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        place = f'x="{right - 4}" y="{18 + 15 * number}" text-anchor="end"'
        shapes.append(f'<text class="tick" {place} fill="{colour}">{escape(name)}</text>')
    middle = f'x="{(_LEFT + right) / 2:.0f}" y="{_HEIGHT - 2}" text-anchor="middle"'
    shapes.append(f'<text class="tick" {middle}>{escape(label)}</text>')
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">{"".join(shapes)}</svg>'
