"""The narrow waist of masked diffusion: a batch of canvases in the middle of being filled.

    state.open(method)                 # blocks, rules of the end
    while not state.done:
        for look in state.look():      # a round: proposals for the unfinished rows, and how sure the model is of them
            state.commit(look, chosen) # written for good: text, trace, blocks, ends, finished rows

Invariants
- A column is open or visible. Only open columns are written, and only by `commit`; `remask` opens some again.
- Every row has its own block, its own end and its own count of rounds. A finished row is no longer computed.
- What is behind a row's end is no part of its canvas: it is neither computed for it nor seen by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from transformers import LogitsProcessorList

from szilard.decoding.cost import Cost
from szilard.decoding.recorder import TraceRecorder
from szilard.diffusion.cache import CacheRun, CanvasCache
from szilard.diffusion.canvas_forward import CanvasForward
from szilard.diffusion.canvas_model import CanvasModel
from szilard.diffusion.look import Look
from szilard.diffusion.text_ends import TextEnds

if TYPE_CHECKING:
    from szilard.diffusion.method import DiffusionMethod


class DenoisingState:
    """A batch of canvases.

    Args:
        model: gives the logits.
        canvas: int64 [batch, N], prompts left-padded to one width, then answers with the mask id where they are open.
        real: bool [batch, N]; False: padding of prompts, and columns behind the end of a shorter answer.
        prompt_width: columns of the prompts, padding included.
        temperature: of the proposals; 0: the likeliest token.
        warpers: filters of the logits that are drawn from (top-k, top-p, ...), temperature left out.
        recorder: of the trace, or None.
        generator: source of draws.
        watch: called after every round.

    Attributes:
        tokens: int64 [batch, N] (N shrinks when every row's end moves).
        masked: open columns, bool [batch, N].
        real: columns that belong to a row's canvas, bool [batch, N].
        start: first column of each row's current block, int64 [batch].
        rounds: forwards in which each row took part, int64 [batch].
        round_of, entropy_of, probability_of: of every column, in which round it was committed (0: given or open),
            with which entropy (nats) and probability; [batch, N at the beginning].
        finished: bool [batch].
        cost: the counts.
    """

    def __init__(
        self,
        model: CanvasModel,
        canvas: torch.Tensor,
        real: torch.Tensor,
        prompt_width: int,
        *,
        temperature: float = 0.0,
        warpers: LogitsProcessorList | None = None,
        recorder: TraceRecorder | None = None,
        generator: torch.Generator | None = None,
        watch: Callable[[DenoisingState], None] | None = None,
    ) -> None:
        self.model, self.prompt_width = model, prompt_width
        self.tokens, self.real = canvas.clone(), real.clone()
        self.masked = (canvas == model.config.mask_token_id) & real
        self.masked[:, :prompt_width] = False
        self.temperature, self.warpers, self.generator = temperature, warpers or LogitsProcessorList(), generator
        self.trace, self._watch = recorder, watch
        self.cost = Cost(batch_size=len(canvas))
        shape, device = canvas.shape, canvas.device
        self.round_of = torch.zeros(shape, dtype=torch.long, device=device)
        self.entropy_of = torch.zeros(shape, dtype=torch.float64, device=device)
        self.probability_of = torch.zeros(shape, dtype=torch.float64, device=device)
        self.rounds = torch.zeros(shape[0], dtype=torch.long, device=device)
        self.finished = torch.zeros_like(self.rounds, dtype=torch.bool)
        self.answer_end = real.long().cumsum(1).argmax(1) + 1  # one past the last real column
        self.start = torch.full_like(self.rounds, prompt_width)
        self.stop_criterion: Callable[[torch.Tensor], bool] | None = None  # of the ids of a finished beginning
        self.max_new_tokens = shape[1] - prompt_width
        self.stopping_criteria: list[Any] = []
        self.method: DiffusionMethod
        self.cache: CacheRun | None = None
        self._forward, self._ends = CanvasForward(self), TextEnds(self)
        self._policy: CanvasCache | None = None
        self._ready: tuple[torch.Tensor, torch.Tensor] | None = None  # places and logits that a rule computed ahead
        self._live = torch.arange(shape[0], device=device)  # unfinished rows
        self._answers: dict[int, list[int]] = {}  # of finished rows

    # ---- what a rule may ask ---------------------------------------------------------------------------------

    @property
    def batch_size(self) -> int:
        return len(self.tokens)

    @property
    def done(self) -> bool:
        """All rows are finished."""
        return not len(self._live)

    @property
    def policy(self) -> CanvasCache | None:
        """The cache policy, which says what is computed."""
        return self._policy

    @property
    def longest_answer(self) -> int:
        """Columns of the longest answer."""
        return self.tokens.shape[1] - self.prompt_width

    def block_count(self, block_length: int | None) -> int:
        """Blocks of the longest answer."""
        return -(-self.longest_answer // (block_length or self.longest_answer))

    # ---- the verbs -------------------------------------------------------------------------------------------

    def use_cache(self, policy: CanvasCache) -> None:
        """Have a cache policy say what is computed; before `open`.

        Raises:
            ValueError: the model computes whole canvases only.
        """
        if not self.model.caches:
            raise ValueError(
                f"'{policy.slug}' needs a model that computes some columns beside stored keys and values, which "
                f"{type(self.model).__name__} cannot: leave the cache out."
            )
        self._policy = policy

    def open(self, method: DiffusionMethod) -> None:
        """Begin the first blocks of a method."""
        if not self.model.config.ends and (method.end_of_text != "keep" or method.eos != "allow"):
            raise ValueError(
                f"end_of_text={method.end_of_text!r}, eos={method.eos!r}: this model has no end-of-text token that "
                "they could be about; give its id as eos_token_id, or leave them out."
            )
        self.method = method
        self.block = min(method.block_length or self.longest_answer, self.longest_answer)
        self.step = torch.zeros_like(self.rounds)
        self.opened = torch.zeros_like(self.rounds)
        self.revised = torch.zeros_like(self.rounds)
        self.blocks = -(-(self.answer_end - self.prompt_width) // self.block)  # of every row, before anything is cut
        self._left = torch.zeros_like(self.rounds)  # open columns of the blocks
        self._seen: tuple[torch.Tensor, torch.Tensor] | None = None
        self.cache = None if self._policy is None else self._policy.open(self)
        self.cost.start()
        self._advance(self._live)
        self._narrow()

    @torch.no_grad()
    def look(self) -> Iterator[Look]:
        """A round: the model runs on the unfinished rows, and what it sees comes group by group.

        Without a cache all rows are one group; with one, rows whose stored keys and values are renewed are another.
        """
        rows = self._live
        self.rounds[rows] += 1
        columns, inside = self._view()
        if self._ready is not None:
            place, logits = self._ready
            self._ready = None
            logits = logits[place[rows][:, None], columns - self.prompt_width]
            yield self.propose(rows, columns, inside, logits)
        elif self.cache is None:
            yield self.propose(rows, columns, inside, self._forward.logits(rows, columns, None))
        else:
            for own, plan in self.cache.plans(rows, columns, inside):
                logits = self._forward.logits(own, plan.wanted, plan)
                yield self.propose(own, plan.wanted, plan.inside, logits)
        self._narrow()
        if self._watch is not None:
            self._watch(self)

    def _view(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Columns of the blocks (and of those ahead that the rule looks at), and which of them exist, [rows, n]."""
        if self._seen is None:
            rows = self._live
            ahead = self.method.blocks_ahead(self)
            if self.method.end_of_text == "predicted":  # an end may be proposed anywhere
                ahead = self.block_count(self.block)
            width = min(self.block * (1 + ahead), self.longest_answer)
            columns = self.start[rows, None] + torch.arange(width, device=rows.device)
            inside = columns < self.answer_end[rows, None]
            self._seen = columns.clamp(max=self.tokens.shape[1] - 1), inside
        return self._seen

    def propose(self, rows: torch.Tensor, columns: torch.Tensor, inside: torch.Tensor, logits: torch.Tensor) -> Look:
        """A look at given logits.

        Args:
            rows: of the batch, int64 [rows].
            columns: int64 [rows, n].
            inside: columns that exist in their row and whose logits are known, bool [rows, n].
            logits: [rows, n, vocab].
        """
        self._forward.ban(logits)
        tokens, confidence, source = self._forward.draw(logits)
        begin = self.start[rows, None]
        masked = self._of(self.masked, rows).gather(1, columns) & inside
        ahead = columns.shape[1] > self.block or self.cache is not None
        return Look(
            rows=rows,
            columns=columns,
            masked=masked,
            block=inside & (columns >= begin) & (columns < begin + self.block) if ahead else inside,
            logits=source,
            tokens=tokens,
            confidence=confidence,
            known=inside,
            state=self,
            last=self.is_end(tokens) if self.method.eos == "last" and self.model.config.ends else None,
        )

    def _of(self, values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Rows of [batch, ...]; all of them are no copy."""
        return values if len(rows) == self.batch_size else values[rows]

    def commit(self, look: Look, chosen: torch.Tensor) -> None:
        """Write the proposals of chosen columns, bool [rows, n]; then blocks, ends and finished rows."""
        at, within = chosen.nonzero(as_tuple=True)
        rows, columns = look.rows[at], look.columns[at, within]
        tokens = look.tokens[at, within]
        self.tokens[rows, columns] = tokens
        self.masked[rows, columns] = tokens == self.model.config.mask_token_id
        self._left[look.rows] -= (chosen & look.block).sum(1)
        self.round_of[rows, columns] = self.rounds[rows]
        self.probability_of[rows, columns] = look.confidence[at, within].double()
        if self.trace is not None:
            self.entropy_of[rows, columns] = look.entropy_at(chosen).double()
        self.step[look.rows] += 1
        if not self.model.config.forbid_mask:
            self._left[look.rows] = self.open_in_block(look.rows)
        if self.cache is not None:
            self.cache.committed(rows, columns)
        self._ends.after(look, chosen, rows, columns, tokens)
        if self.method.revise:
            self._revise(look)
        self._advance(look.rows)

    def remask(self, rows: torch.Tensor, columns: torch.Tensor) -> None:
        """Open columns again, int64 [k] each."""
        self.tokens[rows, columns] = self.model.config.mask_token_id
        self.masked[rows, columns] = True
        self.round_of[rows, columns] = 0
        self._left[rows] = self.open_in_block(rows)
        self._ready = None  # of a canvas in which they stood
        self.cost.count("remasked", len(rows))

    def look_ahead(self, rows: torch.Tensor, canvases: torch.Tensor) -> torch.Tensor:
        """Run the model on canvases that rows may become; this is their next round's forward.

        Args:
            rows: of the batch, several times where a row has several canvases, int64 [copies].
            canvases: int64 [copies, N].

        Returns:
            Logits of all columns of the answers, [copies, G, vocab].
        """
        columns = torch.arange(self.prompt_width, canvases.shape[1], device=rows.device).expand(len(rows), -1)
        logits = self.model.predict(canvases, self.real[rows], columns)
        self._forward.count(len(rows), canvases.shape[1], canvases.shape[1])
        return self._forward.ban(logits if logits.dtype in (torch.float32, torch.float64) else logits.float())

    def use_ahead(self, rows: torch.Tensor, logits: torch.Tensor) -> None:
        """The next round of these rows takes these logits, int64 [rows], [rows, G, vocab]."""
        place = torch.zeros(self.batch_size, dtype=torch.long, device=rows.device)
        place[rows] = torch.arange(len(rows), device=rows.device)
        self._ready = place, logits

    # ---- blocks and ends -------------------------------------------------------------------------------------

    def _advance(self, rows: torch.Tensor) -> None:
        """Ends of the text, finished rows, and the blocks of those that go on."""
        self._ends.at_texts(rows)
        if bool((self._left[rows] > 0).all()):
            return
        ahead = self.masked[rows]
        first = ahead.int().argmax(1)
        block = (first - self.prompt_width) // self.block * self.block + self.prompt_width
        some = ahead.any(1)
        moved = (block != self.start[rows]) | (self.opened[rows] == 0) | ~some
        if self.method.end_of_text == "block" and self.model.config.ends:
            self._ends.behind_blocks(rows[moved])
            some = self.masked[rows].any(1)
        moved &= some
        at = rows[moved]
        self.start[at] = block[moved]
        self.step[at], self.revised[at] = 0, 0
        self.opened[at] = self._left[at] = self.open_in_block(at)
        self._seen = None
        if self.cache is not None:
            self.cache.moved(at)
        if not bool(some.all()):
            self._finish(rows[~some])

    def _finish(self, rows: torch.Tensor) -> None:
        """These rows are over; the others go on without columns behind all their ends."""
        for row in rows.tolist():
            self._answers[row] = self.tokens[row, self.prompt_width : int(self.answer_end[row])].tolist()
        self.finished[rows] = True
        self._live = (~self.finished).nonzero()[:, 0]
        self._seen = None
        if self.done:
            self.cost.generated_tokens = sum(len(answer) for answer in self._answers.values())
            self.cost.stop()

    def _narrow(self) -> None:
        """Leave out columns behind the ends of all unfinished rows."""
        width = int(self.answer_end[self._live].max()) if len(self._live) else 0
        if 0 < width < self.tokens.shape[1]:
            self._seen = None
            self.tokens, self.real, self.masked = (
                kept[:, :width].contiguous() for kept in (self.tokens, self.real, self.masked)
            )
            if self._forward.store is not None:
                self._forward.store.narrow(width)

    def open_in_block(self, rows: torch.Tensor) -> torch.Tensor:
        """Open columns of the rows' current blocks, int64 [rows]."""
        columns = torch.arange(self.tokens.shape[1], device=rows.device)
        begin = self.start[rows, None]
        return (self.masked[rows] & (columns >= begin) & (columns < begin + self.block)).sum(1)

    def is_end(self, tokens: torch.Tensor) -> torch.Tensor:
        """Whether tokens end a text, bool of their shape."""
        found = torch.zeros_like(tokens, dtype=torch.bool)
        for end in self.model.config.ends:
            found |= tokens == end
        return found

    def cut(self, row: int, end: int) -> None:
        """A row ends before this column."""
        before = int(self.answer_end[row])
        if end < before:
            self.cost.count("columns_dropped", before - end)
            self.answer_end[row] = end
            self.real[row, end:] = False
            self.masked[row, end:] = False
            self._left[row] = self.open_in_block(torch.tensor([row], device=self._left.device))[0]
            self._seen = self._ready = None  # what was computed ahead saw the tail

    def _revise(self, look: Look) -> None:
        """Open the least sure columns of a block again, once, when seven eighths of it are filled."""
        rows = look.rows
        left = self.open_in_block(rows)
        due = (self.revised[rows] == 0) & (8 * left <= self.opened[rows])
        columns = torch.arange(self.tokens.shape[1], device=rows.device)
        for row in rows[due].tolist():
            begin = int(self.start[row])
            block = (columns >= begin) & (columns < min(begin + self.block, int(self.answer_end[row])))
            filled = block & ~self.masked[row] & (self.round_of[row, : len(columns)] > 0)
            count = min(self.method.revise, int(filled.sum()))
            sure = self.probability_of[row, : len(columns)].masked_fill(~filled, torch.inf)
            worst = sure.topk(count, largest=False).indices
            self.remask(torch.full_like(worst, row), worst)
            self.revised[row] = 1

    # ---- what a run leaves -----------------------------------------------------------------------------------

    def generated_tokens(self) -> list[list[int]]:
        """The answers, cut behind the first end of text."""
        return [self._until_end(self._answers[row]) for row in range(self.batch_size)]

    def _until_end(self, tokens: list[int]) -> list[int]:
        places = [tokens.index(end) for end in self.model.config.ends if end in tokens]
        return tokens[: min(places) + 1] if places else tokens

    def canvas(self, row: int) -> list[int]:
        """The answer of a row as it stands, masks included."""
        if row in self._answers:
            return self._answers[row]
        return self.tokens[row, self.prompt_width : int(self.answer_end[row])].tolist()

    def record(self) -> None:
        """Write the trace: a record per token in reading order, with the round in which it was committed."""
        if self.trace is None:
            return
        answers = self.generated_tokens()
        longest = max(map(len, answers))
        device = self.round_of.device
        lengths = torch.tensor(list(map(len, answers)), device=device)
        ids = torch.tensor([answer + [0] * (longest - len(answer)) for answer in answers], device=device)
        for place in range(longest):
            column = self.prompt_width + place
            self.trace.add(
                token=ids[:, place],
                entropy=self.entropy_of[:, column],
                active=place < lengths,
                mode=0,
                round=self.round_of[:, column],
                probability=self.probability_of[:, column],
            )
