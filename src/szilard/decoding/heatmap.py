"""A trace in the terminal: the generated text, coloured by the entropy of every step.

`heat_text` gives a rich `Text` to print on any rich console, `to_ansi` the string. Without colour the same information
stands in lines under the text: a bar per token for its entropy, `~` under latent steps.
"""

from __future__ import annotations

import io
import os
import shutil
from typing import Literal

import numpy as np
from rich.cells import cell_len
from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text

from szilard.decoding.trace import Trace, TraceStep, entropy_maximum
from szilard.decoding.visible_text import visible_text

__all__ = ["heat_text", "to_ansi"]

# Background colours from low to high entropy: lightness rises steadily (Oklab 0.36 to 0.88) while the hue turns from
# indigo over magenta to yellow, so the order survives a grey-scale display and every kind of colour blindness. Each
# comes with its own foreground, hence readable on dark and on light terminals.
RAMP = (
    (61, 43, 107),
    (96, 49, 133),
    (138, 56, 139),
    (178, 66, 127),
    (213, 85, 105),
    (238, 117, 79),
    (249, 158, 62),
    (250, 208, 85),
)
DARK_TEXT_FROM = 4  # of the ramp: black letters from here on, white ones before
UNCOLOURED = 0.04  # share of the maximum below which a step is certain and its token stays plain
_BARS = " ▁▂▃▄▅▆▇█"


def heat_text(trace: Trace, *, max_entropy: float | None = None) -> Text:
    """The text with entropy as background and latent steps underlined, one paragraph per batch row, and a legend.

    Args:
        trace: what to draw.
        max_entropy: nats at the hot end of the scale; None: the trace's largest, see `entropy_maximum`.

    Raises:
        ValueError: max_entropy is not above zero.
    """
    maximum = _checked(max_entropy) or entropy_maximum(trace)
    text = Text(no_wrap=False)
    for row in trace.rows:
        if len(trace.rows) > 1:
            text.append(f"row {row}\n", Style(dim=True))
        for step in trace.row(row):
            text.append(_shown(step), _style(step, maximum))
        text.append("\n\n")
    text.append("entropy 0 ", Style(dim=True))
    for index in range(len(RAMP)):
        text.append("  ", _heat(index))
    text.append(f" {maximum:.2f} nats", Style(dim=True))
    if trace.summary()["latent_steps"]:
        text.append("  ")
        text.append("latent step", Style(underline=True))
    text.append(f"\n{facts_of(trace)}", Style(dim=True))
    return text


def to_ansi(
    trace: Trace,
    *,
    width: int | None = None,
    color: bool = True,
    max_entropy: float | None = None,
) -> str:
    """The trace as a string for a terminal, ending in a newline.

    Args:
        trace: what to draw.
        width: columns to wrap at; None: the width of the terminal (80 when there is none).
        color: escape sequences for 24-bit colour where the environment announces it (COLORTERM), else for 256 colours.
            False: no escape sequences; bars and marks under the text say the same.
        max_entropy: nats at the hot end of the scale; None: the trace's largest, see `entropy_maximum`.

    Raises:
        ValueError: max_entropy or width is not above zero.
    """
    if width is not None and width < 1:
        raise ValueError(f"The width is a number of terminal columns, at least 1; got {width}.")
    columns = width or shutil.get_terminal_size().columns
    if not color:
        return _plain(trace, columns, _checked(max_entropy) or entropy_maximum(trace))
    output = io.StringIO()
    depth: Literal["truecolor", "256"] = (
        "truecolor" if os.environ.get("COLORTERM", "").lower() in ("truecolor", "24bit") else "256"
    )
    console = Console(
        file=output, width=columns, force_terminal=True, color_system=depth, no_color=False, highlight=False
    )
    console.print(heat_text(trace, max_entropy=max_entropy), soft_wrap=False)
    return output.getvalue()


def _plain(trace: Trace, width: int, maximum: float) -> str:
    """Lines of text, each followed by a line of entropy bars and, where there are latent steps, a line of `~`."""
    blocks: list[str] = []
    for row in trace.rows:
        if len(trace.rows) > 1:
            blocks.append(f"row {row}")
        for line in broken_lines(trace.row(row), width):
            bars = "".join(
                _BARS[round(share_of(step, maximum) * (len(_BARS) - 1))] * cell_len(text) for text, step in line
            )
            marks = "".join(("~" if step.mode == "latent" else " ") * cell_len(text) for text, step in line)
            blocks.append(
                "\n".join(line for line in ("".join(text for text, _ in line), bars.rstrip(), marks.rstrip()) if line)
            )
    legend = f"entropy: no bar = 0, █ = {maximum:.2f} nats"
    if trace.summary()["latent_steps"]:
        legend += "; ~ latent step"
    return "\n".join([*blocks, "", legend, facts_of(trace), ""])


def broken_lines(trace: Trace, width: int) -> list[list[tuple[str, TraceStep]]]:
    """Break the tokens of one row into lines of at most `width` cells, at newlines and otherwise before a word."""
    lines: list[list[tuple[str, TraceStep]]] = [[]]
    for step in trace:
        for index, part in enumerate(_shown(step).split("\n")):
            if index:
                lines.append([])
            while part:
                room = width - sum(cell_len(text) for text, _ in lines[-1])
                if cell_len(part) <= room:
                    lines[-1].append((part, step))
                    break
                if lines[-1]:  # the next line begins with this token, or with the word that it continues
                    line = lines[-1]
                    word = next((i for i in range(len(line) - 1, 0, -1) if line[i][0].startswith(" ")), len(line))
                    start = len(line) if part.startswith(" ") else word
                    lines[-1:] = [line[:start], line[start:]]
                    continue
                head = part[0]  # a token longer than a line
                while len(head) < len(part) and cell_len(part[: len(head) + 1]) <= width:
                    head = part[: len(head) + 1]
                lines[-1].append((head, step))
                lines.append([])
                part = part[len(head) :]
    return [line for line in lines if line]


def _shown(step: TraceStep) -> str:
    return f"⟨{step.token}⟩" if step.text is None else visible_text(step.text)


def facts_of(trace: Trace) -> str:
    summary = trace.summary()
    facts = [f"{summary['steps']} steps"]
    if summary["mean_entropy"] is not None:
        facts.append(f"mean entropy {summary['mean_entropy']:.2f} nats")
    if summary["latent_steps"]:
        facts.append(f"{summary['latent_steps']} latent ({summary['latent_share']:.0%})")
        facts.append(f"{summary['switches']} {'switch' if summary['switches'] == 1 else 'switches'}")
    return " · ".join(facts)


def share_of(step: TraceStep, maximum: float) -> float:
    """Entropy as a share of the scale, 0..1; an unknown one is 0."""
    entropy = step.entropy
    return 0.0 if entropy is None or np.isnan(entropy) else float(np.clip(entropy / maximum, 0.0, 1.0))


def _style(step: TraceStep, maximum: float) -> Style:
    share = share_of(step, maximum)
    style = Style() if share < UNCOLOURED else _heat(min(int(share * len(RAMP)), len(RAMP) - 1))
    return style + Style(underline=True) if step.mode == "latent" else style


def _heat(index: int) -> Style:
    foreground = Color.from_rgb(0, 0, 0) if index >= DARK_TEXT_FROM else Color.from_rgb(255, 255, 255)
    return Style(bgcolor=Color.from_rgb(*RAMP[index]), color=foreground)


def _checked(max_entropy: float | None) -> float | None:
    if max_entropy is not None and not (max_entropy > 0 and np.isfinite(max_entropy)):
        raise ValueError(f"max_entropy is the hot end of the scale in nats and must be above zero; got {max_entropy}.")
    return max_entropy
