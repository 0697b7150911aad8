"""Traces as one self-contained HTML page: the runs of every prompt side by side.

The page loads nothing: style, script and data are inside, and its content security policy forbids the rest. The text is
rendered here, so it can be read without scripts; the script adds the details on hover and focus. All that comes from
outside (prompts, tokens, titles, facts) is escaped, and characters that act invisibly are shown as their code points.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from importlib.resources import files
from typing import Any

import numpy as np

from szilard.decoding.trace import Candidate, Trace, TraceStep, entropy_maximum
from szilard.decoding.visible_text import is_hidden, named_hidden
from szilard.html_page import page

__all__ = ["Run", "render_page"]

_RAMP_CELLS = 20
_MIXED = 3  # candidates of a mixture named in the text; the details on hover have more
_NAME_LENGTH = 20  # characters of a candidate's text shown in the text
_TURN = {"latent": ("↘", "switch to latent mode"), "discrete": ("↗", "switch to discrete mode")}


@dataclass(frozen=True)
class Run:
    """One answer to one prompt, to be drawn.

    A trace with several batch rows is drawn as one run per row.
    """

    title: str  # usually the method: "lead"
    prompt: str
    trace: Trace
    facts: Mapping[str, str | int | float] = field(default_factory=dict)  # shown as a table, in this order
    subtitle: str = ""


def render_page(runs: Sequence[Run], *, title: str) -> str:
    """One HTML document that shows every run, grouped by prompt in order of first appearance.

    The colour scale and the curves are the same for all runs, so they can be compared by eye.

    Args:
        runs: what to draw; runs with equal prompts stand side by side.
        title: heading of the page.

    Returns:
        A complete document; write it with UTF-8 encoding.

    Raises:
        ValueError: there are no runs.
    """
    if not runs:
        raise ValueError("A page needs at least one run to show; the list of runs is empty.")
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.prompt, []).extend(_rows(run))
    ordered = [run for group in groups.values() for run in group]
    maximum = math.ceil(entropy_maximum(*(run.trace for run in ordered)) * 20) / 20  # a step of the slider
    template = files("szilard.decoding").joinpath("page.html").read_text(encoding="utf-8")
    values = {
        "heading": _inline(title),
        "maximum": f"{maximum:.2f}",
        "maximum_text": f"{maximum:.2f}",
        "slider_maximum": f"{math.ceil(maximum * 1.25)}",
        "legend": _legend(ordered),
        "ramp": "".join(
            f'<i class="t" style="--e:calc(var(--max)*{cell / (_RAMP_CELLS - 1):.3f})"></i>'
            for cell in range(_RAMP_CELLS)
        ),
        "body": "\n".join(_prompt(prompt, group, maximum) for prompt, group in groups.items()),
        "data": _embedded_json([_data(run.trace, maximum) for run in ordered]),
    }
    return page(template, named_hidden(title), values)


# ------------------------------------------------------------------------------------------------------- structure


def _rows(run: Run) -> Iterable[Run]:
    rows = run.trace.rows
    if len(rows) < 2:
        return [run]
    return [replace(run, title=f"{run.title} · row {row}", trace=run.trace.row(row)) for row in rows]


def _prompt(prompt: str, runs: Sequence[Run], maximum: float) -> str:
    question = ""
    if prompt:
        question = f'<div class="question"><h2>Prompt</h2><pre dir="auto">{_marked(prompt)}</pre></div>\n'
    return (
        f'<section class="prompt">\n{question}<div class="runs">\n'
        + "\n".join(_run(run, maximum) for run in runs)
        + "\n</div>\n</section>"
    )


def _run(run: Run, maximum: float) -> str:
    steps = list(run.trace)
    subtitle = f"<p>{_inline(run.subtitle)}</p>" if run.subtitle else ""
    rows = "".join(f"<tr><th>{_inline(str(k))}</th><td>{_inline(_number(v))}</td></tr>" for k, v in run.facts.items())
    facts = f"<table><tbody>{rows}</tbody></table>" if rows else ""
    text = "".join(_token(step, turn) for step, turn in zip(steps, _turns(steps), strict=True))
    return (
        f'<article class="run">\n<header><h3>{_inline(run.title)}</h3>{subtitle}</header>\n'
        f'<div class="facts">{facts}</div>\n'
        f'<div class="spark">{_spark(steps, maximum)}</div>\n'
        f'<div class="text" dir="auto">{text or "<span class=none>no steps</span>"}</div>\n</article>'
    )


def _legend(runs: Sequence[Run]) -> str:
    """The keys of the marks that occur on this page, and no others."""
    steps = [step for run in runs for step in run.trace]
    turns = any(turn for run in runs for turn in _turns(list(run.trace)))
    parts = []
    if any(step.mode == "latent" for step in steps):
        parts.append('<span class="key"><b>latent step</b></span>')
    if turns:
        marks = "".join(f'<i class="turn-mark" data-mark="{mark}"></i>' for mark, _ in _TURN.values())
        parts.append(f'<span class="key">{marks}switch</span>')
    if any(step.anchored for step in steps):
        parts.append(f'<span class="key">{_ANCHOR}anchored</span>')
    if any(step.mode == "latent" and step.candidates for step in steps):
        parts.append('<label><input type="checkbox" id="mixtures">show mixtures</label>')
    return f'<div class="group" style="gap:16px">{"".join(parts)}</div>' if parts else ""


# ------------------------------------------------------------------------------------------------------------ text

_ANCHOR = '<svg class="anchor" role="img" aria-label="anchored"><use href="#anchor"/></svg>'


def _token(step: TraceStep, turn: str | None) -> str:
    """The marks of one step and its text as a span; --e is its entropy in nats, which the style sheet colours."""
    latent = step.mode == "latent"
    marks = ""
    if turn:
        mark, label = _TURN[turn]
        marks += f'<i class="turn-mark" data-mark="{mark}" title="{label}"></i>'
    if step.anchored:
        marks += _ANCHOR
    if step.text is None:
        text = f'<span class="id">{step.token}</span>'
    else:
        text = _marked(step.text) or '<span class="mark">·</span>'
    mixture = ""
    if latent and step.candidates:
        parts = [f"{_name(c)} <small>{_percent(c.weight)}</small>" for c in step.candidates[:_MIXED]]
        mixture = f'<span class="mix">[{" · ".join(parts)}]</span>'
    entropy = _css_number(step.entropy)
    return f'{marks}<span class="t{" latent" if latent else ""}" style="--e:{entropy}">{text}</span>{mixture}'


def _name(candidate: Candidate) -> str:
    if candidate.text is None:
        return f"⟨{candidate.token}⟩"
    text = candidate.text.strip(" ") or "␣"
    return _inline(text if len(text) <= _NAME_LENGTH else text[: _NAME_LENGTH - 1] + "…")


def _percent(weight: float) -> str:
    return f"{weight:.0%}" if math.isfinite(weight) else str(weight)


def _turns(steps: Sequence[TraceStep]) -> list[str | None]:
    """[steps] the mode a step switched to, or None; taken from the modes where the method recorded no `switched`."""
    turns: list[str | None] = []
    for index, step in enumerate(steps):
        switched = step.switched
        if switched is None and index:
            switched = step.mode != steps[index - 1].mode and None not in (step.mode, steps[index - 1].mode)
        turns.append(("latent" if step.mode == "latent" else "discrete") if switched else None)
    return turns


def _marked(text: str) -> str:
    """Escaped text in which a newline has a visible mark and a real break, and hidden characters have a name."""
    return "".join(_character(character) for character in text)


def _character(character: str) -> str:
    if character == "\n":
        return '<span class="mark">⏎</span>\n'
    if character == "\t":
        return '<span class="mark">⇥</span>\t'
    if is_hidden(character):
        return f'<span class="code">U+{ord(character):04X}</span>'
    return escape(character)


def _inline(text: str) -> str:
    """Escaped text on one line."""
    return _marked(text.replace("\n", "⏎").replace("\t", "⇥"))


def _attribute(text: str) -> str:
    """Escaped text for an attribute or a title, where no markup is possible."""
    return escape(named_hidden(text))


# ------------------------------------------------------------------------------------------------------- the curve


def _spark(steps: Sequence[TraceStep], maximum: float) -> str:
    """Entropy per step as inline SVG, one unit per step and 100 units high; latent stretches are shaded."""
    if not steps:
        return ""
    count = len(steps)
    shapes: list[str] = []
    start: int | None = None
    for index in range(count + 1):
        latent = index < count and steps[index].mode == "latent"
        if latent and start is None:
            start = index
        if not latent and start is not None:
            shapes.append(f'<rect class="stretch" x="{start}" y="0" width="{index - start}" height="100"/>')
            start = None
    shapes += [
        f'<line class="turn" x1="{index}" y1="0" x2="{index}" y2="100"/>'
        for index, turn in enumerate(_turns(steps))
        if turn
    ]
    heights = [_height(step.entropy, maximum) for step in steps]
    area, curve = [], []
    for first, last in _known_stretches(heights):
        points = [(index + 0.5, 100 - (heights[index] or 0.0)) for index in range(first, last)]
        points = [(first, points[0][1]), *points, (last, points[-1][1])]
        line = "L".join(f"{x:g} {y:.1f}" for x, y in points)
        curve.append(f"M{line}")
        area.append(f"M{first} 100L{line}L{last} 100Z")
    shapes.append(f'<path class="area" d="{"".join(area)}"/><path class="curve" d="{"".join(curve)}"/>')
    references = [_height(step.reference, maximum) for step in steps]
    has_reference = any(height is not None for height in references)
    if has_reference:
        path = [
            f"M{first} {100 - (references[first] or 0.0):.1f}"
            + "".join(f"V{100 - (references[index] or 0.0):.1f}H{index + 1}" for index in range(first, last))
            for first, last in _known_stretches(references)
        ]
        shapes.append(f'<path class="reference" d="{"".join(path)}"/>')
    dash = '<span class="dash">╌ reference</span>' if has_reference else ""
    return (
        f'<div class="plot"><svg viewBox="0 0 {count} 100" preserveAspectRatio="none" role="img" '
        f'aria-label="Entropy of {count} steps, 0 to {maximum:.2f} nats">{"".join(shapes)}</svg></div>'
        f'<div class="axis"><span>entropy, 0 to {maximum:.2f} nats</span>{dash}'
        f"<span>{count} {'step' if count == 1 else 'steps'}</span></div>"
    )


def _height(entropy: float | None, maximum: float) -> float | None:
    if entropy is None or math.isnan(entropy):
        return None
    return round(100 * min(max(entropy / maximum, 0.0), 1.0), 1)


def _known_stretches(values: Sequence[float | None]) -> list[tuple[int, int]]:
    """The maximal ranges [first, last) without None."""
    known = np.array([False, *(value is not None for value in values), False])
    edges = np.flatnonzero(known[1:] != known[:-1]).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


# ---------------------------------------------------------------------------------------------------- values as text


def _number(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def _css_number(entropy: float | None) -> str:
    """Unknown is 0 (no colour), infinite is beyond the end of every scale."""
    if entropy is None or math.isnan(entropy):
        return "0"
    return f"{min(max(entropy, 0.0), 1e6):.4f}".rstrip("0").rstrip(".")


def _data(trace: Trace, maximum: float) -> dict[str, Any]:
    """What the script needs of a trace: its columns, and the heights of the curve (percent)."""
    columns: dict[str, list[Any]] = {name: [] for name in trace.columns}
    for step in trace:
        for name, values in columns.items():
            value = getattr(step, name)
            if name == "candidates" and value is not None:
                value = [[c.token, c.text, _short(c.weight)] for c in value]
            values.append(_short(value) if isinstance(value, float) else value)
    heights = [_height(step.entropy, maximum) for step in trace]
    return {"columns": columns, "heights": heights}


def _short(value: float) -> float | str:
    return float(f"{value:.6g}") if math.isfinite(value) else str(value)


def _embedded_json(value: object) -> str:
    """JSON that cannot end the script element around it: without "<", neither "</script" nor "<!--" can occur."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
