"""Where the rows of a canvas end: at end-of-text tokens, as the method says, and at stop texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from szilard.diffusion.look import Look

if TYPE_CHECKING:
    from szilard.diffusion.state import DenoisingState


class TextEnds:
    """Cuts the rows of a state.

    Args:
        state: whose rows.
    """

    def __init__(self, state: DenoisingState) -> None:
        self.state = state
        self._searched: dict[int, int] = {}  # columns of each row that hold no stop text

    def after(
        self, look: Look, chosen: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, tokens: torch.Tensor
    ) -> None:
        """Cut rows behind an end of text, under "committed" and "predicted"."""
        rule = self.state.method.end_of_text
        if rule == "committed":
            ends = self.state.is_end(tokens)
            if bool(ends.any()):
                self._cut_at_first(rows[ends], columns[ends])
        elif rule == "predicted":
            ends = self.state.is_end(look.tokens)
            accepted = ends & chosen & self.state.method.accepted_ends(look, chosen)
            at, within = accepted.nonzero(as_tuple=True)
            self._cut_at_first(look.rows[at], look.columns[at, within])
            proposed = ends & look.masked & ~accepted.any(1, keepdim=True)
            some = proposed.any(1)
            best = look.confidence.masked_fill(~proposed, -torch.inf).argmax(1)
            self._cut_at_first(look.rows[some], look.columns[some, best[some]])

    def _cut_at_first(self, rows: torch.Tensor, columns: torch.Tensor) -> None:
        """Each of these rows ends with the first of its columns, int64 [k] each."""
        first: dict[int, int] = {}
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            first[row] = min(column, first.get(row, column))
        for row, column in first.items():
            self.state.cut(row, column + 1)

    def behind_blocks(self, rows: torch.Tensor) -> None:
        """Rows whose beginning, up to the first open column, holds an end of text are over."""
        for row in rows.tolist():
            found = self.state.is_end(self.state.tokens[row, self.state.prompt_width : self._filled(row)]).nonzero()
            if len(found):
                self.state.cut(row, self.state.prompt_width + int(found[0]) + 1)

    def at_texts(self, rows: torch.Tensor) -> None:
        """Rows whose beginning, up to the first open column, holds a stop text are over."""
        state, holds = self.state, self.state.stop_criterion
        if holds is None:
            return
        for row in rows.tolist():
            known, filled = self._searched.get(row, state.prompt_width), self._filled(row)
            self._searched[row] = filled
            if filled == known or not holds(state.tokens[row, state.prompt_width : filled]):
                continue
            ends = range(known + 1, filled + 1)
            self.state.cut(row, next(end for end in ends if holds(state.tokens[row, state.prompt_width : end])))

    def _filled(self, row: int) -> int:
        """The first open column of a row, or its end."""
        open_ = self.state.masked[row].nonzero()
        return int(open_[0]) if len(open_) else int(self.state.answer_end[row])
