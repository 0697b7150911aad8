"""The results as one HTML file: quality-against-cost pictures, the table, and every item that was won or lost.

The page loads nothing and runs nothing: the pictures are inline SVG, and its content security policy forbids the rest.
All that comes from outside (names, models' texts) is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any
from urllib.parse import quote

import pyarrow as pa

from szilard.decoding.visible_text import is_hidden
from szilard.evaluation.drafting import POSITIONS, summarise_drafting
from szilard.evaluation.report import Change, changes, summarise
from szilard.evaluation.statistics import pareto_front
from szilard.html_page import page


def to_html(table: pa.Table, *, baseline: str = "greedy", folder: str = ".") -> str:
    """The results as one self-contained HTML document: pictures, table and the items that changed.

    Args:
        table: a store's table.
        baseline: label of the method to compare with.
        folder: where the results lie as seen from the page, for the links to the traces.

    Raises:
        ValueError: there are no results.
    """
    records, changed = summarise(table, baseline=baseline), changes(table, baseline=baseline)
    drafting = summarise_drafting(table, baseline=baseline)
    if not records:
        raise ValueError("there are no results to report yet.")
    sections = []
    for task, model in dict.fromkeys((record["task"], record["model"]) for record in records):
        group = [record for record in records if (record["task"], record["model"]) == (task, model)]
        pictures = "".join(_picture(group, column, label, baseline) for column, label in _COSTS.items())
        own = [change for change in changed if (change.task, change.model) == (task, model)]
        sections.append(
            f"<section><h2>{_text(task)} <small>with {_text(model)}</small></h2>\n"
            f'<div class="pictures">{pictures}</div>\n{_table(group, baseline)}\n'
            f"{_drafting([r for r in drafting if (r['task'], r['model']) == (task, model)], baseline)}"
            f"{_changed(own, group, baseline, folder)}</section>"
        )
    values = {"baseline": _text(baseline), "sections": "\n".join(sections)}
    return page(_PAGE, "szilard: evaluation", values)


_COSTS = {"tflops": "TFLOP per answer", "forwards": "forward passes per answer", "seconds": "seconds per answer"}
_WIDTH, _HEIGHT = 420, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 14, 14, 42  # margins of the plot in the picture


def _picture(group: Sequence[dict[str, Any]], column: str, label: str, baseline: str) -> str:
    """Score against one cost: a point per method with its interval; a line along the Pareto front of this cost."""
    costs, scores = [record[column] for record in group], [record["score"] for record in group]
    x_ticks = _ticks(0.0, max(costs))
    lowest, highest = min(record["low"] for record in group), max(record["high"] for record in group)
    y_ticks = _ticks(lowest, highest) if lowest < highest else _ticks(0.0, 1.0)
    x_end = max(x_ticks[-1], max(costs)) or 1.0
    y_start, y_end = y_ticks[0], y_ticks[-1]

    def x(cost: float) -> float:
        return _LEFT + cost / x_end * (_WIDTH - _LEFT - _RIGHT)

    def y(score: float) -> float:
        return _TOP + (y_end - score) / (y_end - y_start) * (_HEIGHT - _TOP - _BOTTOM)

    floor = _HEIGHT - _BOTTOM
    shapes = []
    for tick in y_ticks:
        shapes.append(f'<line class="grid" x1="{_LEFT}" y1="{y(tick):.1f}" x2="{_WIDTH - _RIGHT}" y2="{y(tick):.1f}"/>')
        shapes.append(
            f'<text class="tick" x="{_LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{100 * tick:g}%</text>'
        )
    for tick in x_ticks:
        shapes.append(f'<text class="tick" x="{x(tick):.1f}" y="{floor + 16}" text-anchor="middle">{tick:g}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    shapes.append(f'<text class="label" x="{middle:.0f}" y="{_HEIGHT - 6}" text-anchor="middle">{label}</text>')
    front = set(pareto_front(list(zip(costs, scores, strict=True))))
    along = sorted((costs[index], scores[index]) for index in front)
    path = f"M{x(along[0][0]):.1f} {y(along[0][1]):.1f}" + "".join(f"H{x(c):.1f}V{y(s):.1f}" for c, s in along[1:])
    shapes.append(f'<path class="front" d="{path}"/>')
    taken: list[tuple[float, float, float]] = []  # of every label: its left and right end, and its base line
    for index in sorted(range(len(group)), key=lambda index: -scores[index]):
        record, across, up = group[index], x(costs[index]), y(scores[index])
        kind = ("base " if record["method"] == baseline else "") + ("best" if index in front else "")
        title = f"{record['method']}: {_share(record['score'])} ({_share(record['low'])} to {_share(record['high'])})"
        name = _short(record["method"])
        right, height = _free_place(across, up, 6.5 * len(name), across < middle, taken)
        shapes.append(
            f'<g class="{kind.strip()}"><title>{_text(title)}, {_figure(costs[index])} {label}</title>'
            f'<line class="bar" x1="{across:.1f}" y1="{y(record["low"]):.1f}" x2="{across:.1f}" '
            f'y2="{y(record["high"]):.1f}"/><circle cx="{across:.1f}" cy="{up:.1f}" r="4.5"/>'
            f'<text x="{across + (8 if right else -8):.1f}" y="{height:.1f}" '
            f'text-anchor="{"start" if right else "end"}">{_text(name)}</text></g>'
        )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="Score against {label}">{"".join(shapes)}</svg>'
    )


def _free_place(
    across: float, up: float, width: float, right: bool, taken: list[tuple[float, float, float]]
) -> tuple[bool, float]:
    """Where the label of a point overlaps no other: on its right or left, and its base line; it joins `taken`."""
    places = [(side, up + shift) for shift in (-6, 14, -18, 26, -30, 38) for side in (right, not right)]
    free = []
    for side, height in places:
        left = across + 8 if side else across - 8 - width
        inside = _TOP < height < _HEIGHT - _BOTTOM and left > _LEFT and left + width < _WIDTH
        crossed = any(left < end and start < left + width and abs(height - other) < 11 for start, end, other in taken)
        if inside and not crossed:
            free.append((side, height))
    side, height = free[0] if free else places[0]
    left = across + 8 if side else across - 8 - width
    taken.append((left, left + width, height))
    return side, height


def _ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round values about `count` apart that span [low, high]."""
    span = high - low or abs(high) or 1.0
    unit = 10.0 ** math.floor(math.log10(span / count))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor * count >= span)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, max(last, first + 1) + 1)]


def _table(group: Sequence[dict[str, Any]], baseline: str) -> str:
    counted = [name for name in ("metrics", "model_tokens", "counters") if any(r[name] for r in group)]
    names = ["method", "items", "score", "95 % interval", f"against {baseline}", "95 % interval", "won / lost", "p"]
    names += ["tokens", "forwards", "TFLOP", "seconds", "tokens/s"]
    titles = {"metrics": "other metrics", "model_tokens": "tokens through each model", "counters": "counters"}
    names += [titles[name] for name in counted]
    body = []
    for r in group:
        compared = r["method"] != baseline and not math.isnan(r["difference"])
        cells = [r["method"] + (" ★" if r["pareto"] else ""), str(r["items"]), _share(r["score"])]
        cells.append(f"{_share(r['low'])} to {_share(r['high'])}")
        if compared:
            margin = f"{100 * r['difference_low']:+.1f} to {100 * r['difference_high']:+.1f}"
            cells += [f"{100 * r['difference']:+.1f}", margin, f"{r['wins']} / {r['losses']}", f"{r['p_value']:.3f}"]
        else:
            cells += [""] * 4
        cells += [_figure(r[name]) for name in ("tokens", "forwards", "tflops", "seconds", "tokens_per_second")]
        cells += [", ".join(f"{k}: {_figure(v)}" for k, v in r[name].items()) for name in counted]
        body.append("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in cells) + "</tr>")
    return _html_table(names, body)


def _drafting(records: Sequence[dict[str, Any]], baseline: str) -> str:
    """What the drafting methods of one task and model bought, by kind of item."""
    if not records:
        return ""
    names = ["drafting method", "kind of item", "items", "tokens per target pass", "nodes read per pass"]
    names += [f"{place} or more drafts kept" for place in range(1, POSITIONS + 1)] + [f"tokens/s over {baseline}"]
    body = []
    for r in records:
        positions = [_share(share) for share in r["by_position"]] or [""] * POSITIONS
        cells = [r["method"], r["kind"], str(r["items"]), _figure(r["tokens_per_pass"]), _figure(r["verified"])]
        cells += [*positions, "" if r["speed_up"] is None else f"{r['speed_up']:.2f}"]
        body.append("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in cells) + "</tr>")
    return _html_table(names, body) + "\n"


def _html_table(names: Sequence[str], body: Sequence[str]) -> str:
    head = "".join(f"<th>{_text(name)}</th>" for name in names)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def _changed(changed: Sequence[Change], group: Sequence[dict[str, Any]], baseline: str, folder: str) -> str:
    parts = []
    for method in (record["method"] for record in group if record["method"] != baseline):
        own = [change for change in changed if change.method == method]
        rows = "".join(_change(change, baseline, folder) for change in own)
        won = sum(change.score > change.reference_score for change in own)
        parts.append(f"<h3>{_text(method)}: {won} won, {len(own) - won} lost</h3>\n{rows}")
    return "\n".join(parts)


def _change(change: Change, baseline: str, folder: str) -> str:
    won = change.score > change.reference_score
    sides = []
    for name, score, text, trace in (
        (baseline, change.reference_score, change.reference_text, change.reference_trace),
        (change.method, change.score, change.text, change.trace),
    ):
        link = f' <a href="{escape(quote(f"{folder}/{trace}"))}">trace</a>' if trace else ""
        sides.append(f"<div><h4>{_text(name)}, {_share(score)}{link}</h4><pre>{_text(text, lines=True)}</pre></div>")
    return (
        f'<details class="{"won" if won else "lost"}"><summary><b>{"won" if won else "lost"}</b> {_text(change.item)}'
        f'</summary><div class="sides">{"".join(sides)}</div></details>\n'
    )


def _text(text: str, *, lines: bool = False) -> str:
    """Escaped text; characters that act invisibly (or, without `lines`, break the line) as their code points."""
    kept = "\n\t" if lines else ""
    return escape("".join(f"⟨U+{ord(c):04X}⟩" if c not in kept and is_hidden(c) else c for c in text))


def _short(name: str, limit: int = 24) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "…"


def _share(score: float) -> str:
    return f"{score:.1%}"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


_PAGE = """:root { --won: #1a7f4b; --lost: #b3402a; }
@media (prefers-color-scheme: dark) { :root { --won: #5fcf96; --lost: #ff8f78; } }
body { margin: 0 auto; padding: 24px clamp(14px, 2.5vw, 36px); max-width: 1480px; }
h1 { font-size: 22px; margin: 0; } h2 { font-size: 18px; margin: 36px 0 8px; overflow-wrap: anywhere; }
h2 small { font-weight: 400; color: var(--soft); } h3 { font-size: 15px; margin: 22px 0 6px; }
h4 { font-size: 13px; margin: 0 0 4px; } p { max-width: 80ch; color: var(--soft); } a { color: var(--accent); }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 14px; }
svg { width: 100%; background: var(--card); border: 1px solid var(--line); border-radius: 8px; font-size: 11px; }
svg text { fill: var(--ink); } svg .tick, svg .label { fill: var(--soft); } .grid { stroke: var(--line); }
.front { fill: none; stroke: var(--accent); stroke-dasharray: 4 3; opacity: .7; }
.bar { stroke: var(--soft); opacity: .6; } circle { fill: var(--card); stroke: var(--accent); stroke-width: 2; }
.best circle { fill: var(--accent); } .base circle { stroke: var(--soft); } .base.best circle { fill: var(--soft); }
.wide { overflow-x: auto; margin-top: 14px; }
table { border-spacing: 0; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 5px 10px; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 500; } th:first-child, td:first-child { text-align: left; padding-left: 0; }
details { border-bottom: 1px solid var(--line); padding: 4px 0; } summary { cursor: pointer; }
.won summary b { color: var(--won); } .lost summary b { color: var(--lost); }
.sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 14px;
  padding: 8px 0; }
.sides > div { min-width: 0; }
pre { margin: 0; padding: 10px 12px; background: var(--card); border: 1px solid var(--line); border-radius: 6px;
  font: 12.5px/1.5 var(--mono); white-space: pre-wrap; overflow-wrap: anywhere; max-height: 32em; overflow-y: auto; }
</style>
</head>
<body>
<h1>Evaluation</h1>
<p>The score is the mean over items; the bars and intervals are 95 % bootstrap intervals over items. Every method is
compared with {{baseline}} on the items that both answered, in percentage points; p is that of the exact two-sided sign
test of items won against items lost. Costs are means per answer. In the pictures the filled points, joined by the
dashed line, are the Pareto front: no other method is cheaper without being worse, or better without costing more; in
the table ★ marks the front by TFLOP. TFLOP are counted from the models' shapes, so they do not depend on the machine;
seconds do.</p>
{{sections}}
</body>
</html>
"""
