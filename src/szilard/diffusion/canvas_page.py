"""Canvases being filled, as one self-contained HTML page: several runs side by side, round by round.

As of `szilard.decoding.page`: the page loads nothing, its content security policy forbids the rest, and all that comes
from outside is escaped. Without scripts it shows the filled canvases and the bits of every round; the script takes the
tokens away again and commits them in the order in which the model did.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from szilard.decoding.page import (
    Run,
    _css_number,
    _embedded_json,
    _inline,
    _marked,
    _number,
    _rows,
    _short,
)
from szilard.decoding.trace import Trace, TraceStep, entropy_maximum
from szilard.decoding.visible_text import named_hidden
from szilard.diffusion.bits import bits_per_round, rounds_lower_bound
from szilard.html_page import page

__all__ = ["has_rounds", "render_canvas_page", "rounds_at_least"]

_RAMP_CELLS = 20


def has_rounds(trace: Trace) -> bool:
    """Whether a trace is that of a filled canvas."""
    return "round" in trace.columns and "probability" in trace.columns


def rounds_at_least(bits: Sequence[float]) -> int | None:
    """The bound of `rounds_lower_bound` for the bits of every round of one run.

    None: there is none, because a token counted as impossible (a probability of 0 has endless bits).
    """
    if not all(map(math.isfinite, bits)):
        return None
    return rounds_lower_bound(sum(bits), max(bits, default=0.0))


def render_canvas_page(runs: Sequence[Run], *, title: str) -> str:
    """One HTML document in which the canvases of all runs are filled in lock-step.

    Runs of one prompt stand side by side. All share one colour scale (entropy in nats), one scale of bits, and one
    axis of rounds, so that a shorter row of bars is a faster run.

    Args:
        runs: of diffusion models: their traces have the columns `round` and `probability`.
        title: heading of the page.

    Returns:
        A complete document; write it with UTF-8 encoding.

    Raises:
        ValueError: there are no runs, or one of a model that writes from left to right.
    """
    if not runs:
        raise ValueError("A page needs at least one run to show; the list of runs is empty.")
    for run in runs:
        if not has_rounds(run.trace):
            raise ValueError(
                f"the run {run.title!r} has no rounds: its model writes from left to right; draw it with "
                "szilard.decoding.page.render_page."
            )
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.prompt, []).extend(_rows(run))
    ordered = [run for group in groups.values() for run in group]
    bits = {id(run): bits_per_round(run.trace) for run in ordered}
    rounds = max(map(len, bits.values()))
    tallest = max((height for heights in bits.values() for height in heights if math.isfinite(height)), default=0.0)
    template = files("szilard.diffusion").joinpath("canvas_page.html").read_text(encoding="utf-8")
    body = [
        _prompt(prompt, [_run(run, bits[id(run)], rounds, tallest) for run in group])
        for prompt, group in groups.items()
    ]
    values = {
        "heading": _inline(title),
        "maximum": f"{math.ceil(entropy_maximum(*(run.trace for run in ordered)) * 20) / 20:.2f}",
        "ramp": "".join(
            f'<i class="t" style="--e:calc(var(--max)*{cell / (_RAMP_CELLS - 1):.3f})"></i>'
            for cell in range(_RAMP_CELLS)
        ),
        "legend": _legend(ordered),
        "rounds": str(rounds),
        "body": "\n".join(body),
        "data": _embedded_json({"rounds": rounds, "runs": [_data(run.trace, bits[id(run)]) for run in ordered]}),
    }
    return page(template, named_hidden(title), values)


# ------------------------------------------------------------------------------------------------------- structure


def _legend(runs: Sequence[Run]) -> str:
    given = any((run.trace["round"] == 0).any() for run in runs)
    return '<span class="key"><span class="t given">given</span></span>' if given else ""


def _prompt(prompt: str, runs: Sequence[str]) -> str:
    question = ""
    if prompt:
        question = f'<div class="question"><h2>Prompt</h2><pre dir="auto">{_marked(prompt)}</pre></div>\n'
    return f'<section class="prompt">\n{question}<div class="runs">\n' + "\n".join(runs) + "\n</div>\n</section>"


def _run(run: Run, bits: Sequence[float], rounds: int, tallest: float) -> str:
    subtitle = f"<p>{_inline(run.subtitle)}</p>" if run.subtitle else ""
    rows = "".join(f"<tr><th>{_inline(str(k))}</th><td>{_inline(_number(v))}</td></tr>" for k, v in run.facts.items())
    facts = f"<table><tbody>{rows}</tbody></table>" if rows else ""
    cells = "<wbr>".join(map(_cell, run.trace))  # lines break between cells, never in one
    said = "".join(f"<b>{word}</b>" if bold else word for word, bold in _said(run.trace, bits))
    return (
        f'<article class="run">\n<header><h3>{_inline(run.title)}</h3>{subtitle}</header>\n'
        f'<div class="canvas" dir="auto">{cells or "<span class=none>no tokens</span>"}</div>\n'
        f'<div class="count">{said}</div>\n'
        f'<div class="bits">{_bars(bits, rounds, tallest)}</div>\n'
        f'<div class="facts">{facts}</div>\n</article>'
    )


def _cell(step: TraceStep) -> str:
    """A token with its entropy in nats (--e), which the style sheet colours."""
    text = f'<span class="id">{step.token}</span>' if step.text is None else _marked(step.text)
    name = "t" if step.round else "t given"
    return f'<span class="{name}" style="--e:{_css_number(step.entropy)}">{text or "·"}</span>'


def _said(trace: Trace, bits: Sequence[float]) -> list[tuple[str, bool]]:
    """Rounds and tokens per round of a filled canvas, in words: (text, whether it stands out)."""
    committed = int((trace["round"] > 0).sum())
    if not bits:
        return [("nothing was open", False)]
    words = f"{len(bits)} {'round' if len(bits) == 1 else 'rounds'}"
    return [(words, True), (f", {committed / len(bits):.2f} tokens per round, ", False), (_mean_of(bits), False)]


def _mean_of(bits: Sequence[float]) -> str:
    mean = sum(bits) / len(bits)
    return f"{mean:.2f} bits per round" if math.isfinite(mean) else "bits per round without bound"


def _bars(bits: Sequence[float], rounds: int, tallest: float) -> str:
    """Bits per round as inline SVG, one unit per round and 100 units high, and the least number of rounds."""
    if not bits:
        return ""
    gap = 0.14  # of a bar's unit
    shapes = []
    for number, height in enumerate(bits):
        endless = not math.isfinite(height)
        share = 100.0 if endless else max(100 * height / (tallest or 1.0), 1.0)  # 0 bits: a line, not nothing
        shapes.append(
            f'<rect{" class=endless" if endless else ""} x="{number + gap / 2:g}" y="{100 - share:.1f}" '
            f'width="{1 - gap:g}" height="{share:.1f}"/>'
        )
    bound = rounds_at_least(bits)
    said = "no bound: a token had probability 0"
    if bound is not None:
        shapes.append(f'<line class="bound" x1="{bound}" y1="0" x2="{bound}" y2="100"/>')
        said = (
            f"╎ at least {bound} {'round' if bound == 1 else 'rounds'}: {sum(bits):.1f} bits, at most {max(bits):.1f} "
            "in one"
        )
    label = f"Bits of {len(bits)} rounds, 0 to {tallest:.1f}"
    return (
        f'<div class="plot"><svg viewBox="0 0 {rounds} 100" preserveAspectRatio="none" role="img" '
        f'aria-label="{label}">{"".join(shapes)}</svg></div>'
        f'<div class="axis"><span>bits per round, 0 to {tallest:.1f}</span><span class="dash">{said}</span></div>'
    )


def _data(trace: Trace, bits: Sequence[float]) -> dict[str, Any]:
    """What the script needs of a run: columns of its trace, how many rounds it had, and what is said of them."""
    columns: dict[str, list[Any]] = {name: [] for name in ("token", "text", "round", "entropy", "probability")}
    for step in trace:
        for name, values in columns.items():
            value = getattr(step, name)
            values.append(_short(value) if isinstance(value, float) else value)
    columns["round"] = [number or 0 for number in columns["round"]]
    return columns | {"rounds": len(bits), "said": _said(trace, bits)}
