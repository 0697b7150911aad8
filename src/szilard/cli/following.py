"""What a stream yields, on stdout: text as it comes, a canvas redrawn in place."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from szilard.decoding.visible_text import visible_text
from szilard.diffusion.engine import Canvas
from szilard.engines.result import Result

_MASK = "░"  # as `Canvas.text` writes it


def follow(pieces: Iterator[Any]) -> Result:
    """Write what `Engine.stream` yields and return its result.

    Pieces of text are written as they come. A canvas is redrawn every round where stdout is a terminal, and gives way
    to its final text, which is all that is written elsewhere.
    """
    live: Live | None = None
    filled = False
    try:
        while True:
            try:
                piece = next(pieces)
            except StopIteration as end:
                result: Result = end.value
                break
            if not isinstance(piece, Canvas):
                sys.stdout.write(piece)
                sys.stdout.flush()
                continue
            filled = True
            if live is None and sys.stdout.isatty():
                live = Live(console=Console(), auto_refresh=False, transient=True)
                live.start()
            if live is not None:
                live.update(drawn(piece), refresh=True)
    finally:
        if live is not None:
            live.stop()
    sys.stdout.write((result.text if filled else "") + "\n")
    return result


def drawn(canvas: Canvas) -> Text:
    """A canvas for a terminal, on which nothing in it acts: open places dim, and a line that counts the rounds."""
    text = Text(visible_text(canvas.text))
    text.highlight_regex(f"{_MASK}+", "dim")
    many = "token" if len(canvas.committed) == 1 else "tokens"
    text.append(f"\nround {canvas.round}, {len(canvas.committed)} {many} committed", style="dim")
    return text
