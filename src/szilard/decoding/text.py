"""The committed text of a batch: what is final, right-aligned, with the rows that are finished."""

from __future__ import annotations

from typing import Any

import torch
from transformers import StoppingCriteriaList
from transformers.generation.stopping_criteria import MaxLengthCriteria

from szilard.decoding.stopping import InNewText


class CommittedText:
    """Tokens of every row, the length limit, stopping criteria, the streamer, and the scores of the choices.

    Args:
        prompt: committed prompt tokens, int64 [batch, prompt], left-padded.
        stopping_criteria: Hugging Face criteria; a length limit is taken out and kept per row.
        pad_token_id: what finished rows are filled with.
        streamer: gets every committed token (`put`); one with `put_rows` gets whole columns and which rows they move.
        keep_scores / keep_logits: keep the processed / raw logits of every choice (off: no second copy).

    Attributes:
        prompt_width: columns of the prompt.
        finished: rows that are at their end, bool [batch].
        generated: new tokens of every row, int64 [batch].
        done: all rows are finished.
    """

    def __init__(
        self,
        prompt: torch.Tensor,
        *,
        stopping_criteria: StoppingCriteriaList | None = None,
        pad_token_id: int = 0,
        streamer: Any = None,
        keep_scores: bool = False,
        keep_logits: bool = False,
    ) -> None:
        criteria = stopping_criteria if stopping_criteria is not None else StoppingCriteriaList()
        limits = [int(item.max_length) for item in criteria if isinstance(item, MaxLengthCriteria)]
        self.max_length: int | None = min(limits) if limits else None
        self.stopping_criteria = StoppingCriteriaList(c for c in criteria if not isinstance(c, MaxLengthCriteria))
        self.pad_token_id = pad_token_id
        self.streamer = streamer
        self.scores: list[torch.Tensor] | None = [] if keep_scores else None
        self.raw_logits: list[torch.Tensor] | None = [] if keep_logits else None
        batch, width = prompt.shape
        self.prompt_width = width
        capacity = self.max_length if self.max_length is not None else width + 256
        self._buffer = prompt.new_full((batch, max(capacity, width)), pad_token_id)
        self._buffer[:, :width] = prompt
        self._width = width
        self._shift = torch.zeros(batch, dtype=torch.long, device=prompt.device)  # extra left padding per row
        self._ragged = False
        self.finished = torch.zeros(batch, dtype=torch.bool, device=prompt.device)
        self.generated = torch.zeros(batch, dtype=torch.long, device=prompt.device)
        self.done = False
        self._some_finished = False  # what the host knows of `finished`: saves operations while it is False
        self._most_generated = 0  # no row has more new tokens than this
        self._watched: torch.Tensor | None = None

    @property
    def tokens(self) -> torch.Tensor:
        """All committed tokens, int64 [batch, width], right-aligned (a view: do not write)."""
        return self._buffer[:, : self._width]

    @property
    def batch_size(self) -> int:
        """Rows of the batch, finished ones included."""
        return self._buffer.shape[0]

    @property
    def device(self) -> torch.device:
        """Where tokens and logits live."""
        return self._buffer.device

    @property
    def max_new_tokens(self) -> int | None:
        """The length limit per row in new tokens; None when there is none."""
        return None if self.max_length is None else self.max_length - self.prompt_width

    def pad(self, tokens: torch.Tensor) -> torch.Tensor:
        """`tokens` [batch], with the padding token in finished rows."""
        return torch.where(self.finished, self.pad_token_id, tokens) if self._some_finished else tokens

    def watch(self, values: torch.Tensor) -> None:
        """Have `commit` refuse the step if these numbers hold NaN (read with the stop flags: no extra sync)."""
        self._watched = values

    def keep_scores(self, scores: torch.Tensor, logits: torch.Tensor, *, ahead: int | None = None) -> None:
        """Keep processed and raw logits of a choice, where the run asked for them.

        Args:
            scores, logits: [batch, vocab].
            ahead: None: a step of plain decoding; else the choice follows so many drafted tokens, and belongs to
                each row's own place (what is drafted in vain is overwritten when the place is reached again).
        """
        for kept, values in ((self.scores, scores), (self.raw_logits, logits)):
            if kept is None:
                continue
            if ahead is None:
                kept.append(values if kept is self.scores else values.to(torch.float32, copy=True))
                continue
            for row, (place, over) in enumerate(zip(self.generated.tolist(), self.finished.tolist(), strict=True)):
                if not over:
                    while len(kept) <= place + ahead:
                        kept.append(torch.zeros_like(values, dtype=torch.float32))
                    kept[place + ahead][row] = values[row]

    def cut_scores(self) -> None:
        """Forget the scores of drafts behind the end of the longest text."""
        for kept in (self.scores, self.raw_logits):
            if kept is not None:
                del kept[int(self.generated.max()) :]

    def commit(self, tokens: torch.Tensor, counts: torch.Tensor | None = None) -> None:
        """These tokens are final: text, streamer, stopping criteria, finished rows.

        Args:
            tokens: int64 [batch] or [batch, k].
            counts: how many of the k each row really commits, int64 [batch]; None: all. A row that finishes inside
                drops the rest.
        """
        if tokens.dim() == 1:
            tokens = tokens[:, None]
        for column in range(tokens.shape[1]):
            self._commit_column(tokens[:, column], None if counts is None else counts > column)
            if self.done:
                break

    def stop(self, rows: torch.Tensor) -> None:
        """End these rows (bool [batch]) without a further token."""
        self.finished = self.finished | rows
        self._read_finished()

    def _commit_column(self, tokens: torch.Tensor, rows: torch.Tensor | None) -> None:
        moving = stalled = None  # None: all, none
        if rows is not None:
            moving, stalled = ~self.finished & rows, ~self.finished & ~rows
            some_move, some_stall = torch.stack([moving.any(), stalled.any()]).tolist()
            if not some_move:
                return
            if not some_stall:
                stalled = None
        elif self._some_finished:
            moving = ~self.finished
        self._reserve(self._width + 1)
        column = self.pad(tokens)
        if stalled is None:
            self._buffer[:, self._width] = column
        else:  # a row that stays behind moves one column to the right: all rows end in the same column
            self._ragged = True
            self._buffer[stalled, 1 : self._width + 1] = self._buffer[stalled, : self._width]
            self._buffer[stalled, 0] = self.pad_token_id
            self._shift[stalled] += 1
            self._buffer[~stalled, self._width] = column[~stalled]
        self._width += 1
        self.generated += 1 if moving is None else moving
        self._most_generated += 1
        if hasattr(self.streamer, "put_rows"):
            self.streamer.put_rows(tokens.cpu(), None if moving is None else moving.cpu())
        elif self.streamer is not None:
            self.streamer.put((tokens if rows is None else tokens[moving]).cpu())
        stopped = self._stopped()
        if stopped is not None:
            self.finished = stopped if moving is None else self.finished | (moving & stopped)
        self._read_finished()

    def _stopped(self) -> torch.Tensor | None:
        """Rows that are at their end, by the criteria and the length limit, bool [batch]; None: not one."""
        stopped = self.ended(self.tokens, self.generated)
        if self.max_new_tokens is not None and self._most_generated >= self.max_new_tokens:
            full = self.generated >= self.max_new_tokens
            stopped = full if stopped is None else stopped | full
        return stopped

    def ended(self, tokens: torch.Tensor, generated: torch.Tensor) -> torch.Tensor | None:
        """Which texts the run's criteria end, bool [rows]; None: there are no criteria.

        Args:
            tokens: right-aligned texts, int64 [rows, width].
            generated: how many of a row's last tokens are new, int64 [rows].
        """
        scores = None if self.scores is None else tuple(self.scores)  # as Hugging Face passes them
        ended = None
        for criterion in self.stopping_criteria:
            known = {"generated": generated} if isinstance(criterion, InNewText) else {}
            says = criterion(tokens, scores, **known)
            ended = says if ended is None else ended | says
        return ended

    def _read_finished(self) -> None:
        """Bring what the host must know of this step over, in one synchronisation."""
        flags = self.finished
        if self._watched is not None:
            flags = torch.cat([flags, self._watched.isnan().flatten()])
            self._watched = None
        read = flags.tolist()
        finished = read[: self.batch_size]
        self.done, self._some_finished = all(finished), any(finished)
        if any(read[self.batch_size :]):
            raise ValueError(NAN_LOGITS)

    def _select_text(self, rows: torch.Tensor) -> None:
        """The text side of `select`: new row i is old row `rows[i]`."""
        self._buffer, self._shift = self._buffer[rows], self._shift[rows]
        self.finished, self.generated = self.finished[rows], self.generated[rows]
        self._read_finished()

    def _join_text(self, other: CommittedText) -> None:
        """The text side of `join`: such states read for another one, which keeps the text, and hold prompts only."""
        self._buffer = torch.cat([self._buffer[:, : self.prompt_width], other._buffer[:, : self.prompt_width]])
        self._width, self._ragged = self.prompt_width, False
        self._shift = torch.cat([self._shift, other._shift]).zero_()
        self.finished = torch.cat([self.finished, other.finished])
        self.generated = torch.cat([self.generated, other.generated])
        self._read_finished()

    def _extend_text(self, other: CommittedText) -> None:
        """The text side of `extend`: rows of other prompts, right-aligned beside these."""
        prompts = max(self.prompt_width, other.prompt_width)
        generated = torch.cat([self.generated, other.generated])
        width = prompts + int(generated.max())
        buffer = self._buffer.new_full((len(generated), width + 256), self.pad_token_id)
        above = 0
        for state in (self, other):
            kept = min(state._width, width)  # what is left out is padding
            buffer[above : above + state.batch_size, width - kept : width] = state.tokens[:, state._width - kept :]
            above += state.batch_size
        self._buffer, self._width, self.prompt_width = buffer, width, prompts
        self.generated, self._most_generated = generated, int(generated.max())
        self._shift = self._most_generated - generated
        self._ragged = True
        self.finished = torch.cat([self.finished, other.finished])
        self._read_finished()

    def _reserve(self, width: int) -> None:
        if width > self._buffer.shape[1]:
            extra = self._buffer.new_full((self.batch_size, max(256, width)), self.pad_token_id)
            self._buffer = torch.cat([self._buffer, extra], dim=1)

    @property
    def sequences(self) -> torch.Tensor:
        """Prompt (left-padded) and generated tokens (right-padded), int64 [batch, width], as `generate` returns."""
        if not self._ragged:
            return self.tokens.clone()
        longest = self.prompt_width + int(self.generated.max())
        columns = torch.arange(longest, device=self.device)[None] + self._shift[:, None]
        rows = torch.gather(self.tokens, 1, columns.clamp(max=self._width - 1))
        end = self.prompt_width + self.generated[:, None]
        return torch.where(torch.arange(longest, device=self.device)[None] < end, rows, self.pad_token_id)

    def generated_tokens(self) -> list[list[int]]:
        """The new tokens of every row, the stop token included, padding not."""
        rows = self.sequences[:, self.prompt_width :].tolist()
        return [row[:count] for row, count in zip(rows, self.generated.tolist(), strict=True)]


NAN_LOGITS = (
    "the model (or a logits processor) returned NaN logits, so no token can be chosen: check the checkpoint and its "
    "dtype (float16 often overflows on a CPU; try dtype='float32' or 'bfloat16')."
)
