"""The page that fits the runs of a command."""

from __future__ import annotations

from collections.abc import Sequence

from szilard.decoding.page import Run, render_page
from szilard.diffusion.canvas_page import has_rounds, render_canvas_page


def page_of(runs: Sequence[Run], *, title: str) -> str:
    """Canvases being filled where every run has rounds (a diffusion model's), else the usual page of steps.

    Raises:
        ValueError: there are no runs.
    """
    if runs and all(has_rounds(run.trace) for run in runs):
        return render_canvas_page(runs, title=title)
    return render_page(runs, title=title)
