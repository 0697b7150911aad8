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
from szilard.diffusion.cache import CacheRun, CanvasCache, Plan
from szilard.diffusion.canvas_model import CanvasModel
from szilard.diffusion.canvas_store import CanvasStore
from szilard.diffusion.look import Look

if TYPE_CHECKING:
    from szilard.diffusion.method import DiffusionMethod

NAN_LOGITS = "the model's logits hold NaN: nothing can be chosen from them; check the weights and their precision."


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
        self.store: CanvasStore | None = None
        self._policy: CanvasCache | None = None
        self._ready: tuple[torch.Tensor, torch.Tensor] | None = None  # places and logits that a rule computed ahead
        self._live = torch.arange(shape[0], device=device)  # unfinished rows
        self._answers: dict[int, list[int]] = {}  # of finished rows
        self._checked: dict[int, int] = {}  # columns that were searched for stop texts

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
            yield self.propose(rows, columns, inside, self._logits(rows, columns, None))
        else:
            for own, plan in self.cache.plans(rows, columns, inside):
                logits = self._logits(own, plan.wanted, plan)
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
        self._ban(logits)
        tokens, confidence, source = self._draw(rows, logits)
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
        self._end_text(look, chosen, rows, columns, tokens)
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
        self._count(len(rows), canvases.shape[1], canvases.shape[1])
        return self._ban(logits if logits.dtype in (torch.float32, torch.float64) else logits.float())

    def use_ahead(self, rows: torch.Tensor, logits: torch.Tensor) -> None:
        """The next round of these rows takes these logits, int64 [rows], [rows, G, vocab]."""
        place = torch.zeros(self.batch_size, dtype=torch.long, device=rows.device)
        place[rows] = torch.arange(len(rows), device=rows.device)
        self._ready = place, logits

    # ---- the model -------------------------------------------------------------------------------------------

    def _ban(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits without what may not be proposed (written in place)."""
        config = self.model.config
        if config.forbid_mask:
            logits[..., config.mask_token_id] = -torch.inf
        if self.method.eos == "forbid" and config.ends:
            logits[..., list(config.ends)] = -torch.inf
        return logits

    def _logits(self, rows: torch.Tensor, columns: torch.Tensor, plan: Plan | None) -> torch.Tensor:
        """Logits of columns of some rows, guidance included, [rows, n, vocab] (a tensor of our own)."""
        everyone = len(rows) == self.batch_size
        tokens, real = (self.tokens, self.real) if everyone else (self.tokens[rows], self.real[rows])
        weight = self.method.guidance
        if weight:
            blind = tokens.clone()
            blind[:, : self.prompt_width] = self.model.config.mask_token_id
            tokens, real, columns = torch.cat([tokens, blind]), torch.cat([real, real]), torch.cat([columns, columns])
        if plan is None:
            logits = self.model.predict(tokens, real, columns)
            new = keys = tokens.shape[1]
        else:
            logits, new, keys = self._stored(rows, everyone, tokens, real, columns, plan, twice=bool(weight))
        if logits.dtype not in (torch.float32, torch.float64):
            logits = logits.float()
        self._count(len(tokens), new, keys)
        if weight:
            conditioned, blind_logits = logits.chunk(2)
            logits = blind_logits + (weight + 1) * (conditioned - blind_logits)
        return logits

    def _stored(
        self,
        rows: torch.Tensor,
        everyone: bool,
        tokens: torch.Tensor,
        real: torch.Tensor,
        columns: torch.Tensor,
        plan: Plan,
        *,
        twice: bool,
    ) -> tuple[torch.Tensor, int, int]:
        """A forward through the store: logits, columns computed per row, keys read per row."""
        model: Any = self.model
        batch = self.batch_size * (2 if twice else 1)
        if self.store is None:
            self.store = CanvasStore(model.layers, batch, self.tokens.shape[1])
        place = None if everyone else torch.cat([rows, rows + self.batch_size]) if twice else rows
        if plan.computed is None:
            self.store.aim_at_all(place)
            return model.compute(tokens, real, columns, store=self.store), tokens.shape[1], tokens.shape[1]
        computed, visible = plan.computed, plan.visible
        if twice:
            computed = torch.cat([computed, computed])
            visible = None if visible is None else torch.cat([visible, visible])
        self.store.aim_at_some(place, visible)
        logits = model.compute(tokens, real, columns, store=self.store, columns=computed)
        keys = self.tokens.shape[1] if self.store.read is None else self.store.read.shape[1]
        return logits, computed.shape[1], keys

    def _count(self, rows: int, new: int, keys: int) -> None:
        """Add a forward to the counts: `new` columns computed in each row, each of which read `keys`."""
        size, cost = self.model.size, self.cost
        cost.forward_passes[size.name] = cost.forward_passes.get(size.name, 0) + 1
        cost.tokens[size.name] = cost.tokens.get(size.name, 0) + rows * new
        cost.layer_tokens[size.name] = cost.layer_tokens.get(size.name, 0) + rows * new * size.layers
        cost.flops += rows * new * (2 * size.layer_parameters + 4 * size.attention_width * size.layers * keys)
        cost.count("row_rounds", rows)
        if self.store is not None:
            cost.kv_bytes_held = max(cost.kv_bytes_held, self.store.bytes_held)
            cost.kv_bytes_read += rows * keys * size.kv_bytes_per_token

    def _draw(self, rows: torch.Tensor, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Proposals and their probabilities, [rows, n] each, and the logits whose these are."""
        shape = logits.shape[:-1]
        drawn_from = logits
        if self.warpers:
            flat = logits.flatten(0, 1)
            text = self.tokens[rows].repeat_interleave(shape[1], 0)
            drawn_from = self.warpers(text, flat / max(self.temperature, 1e-6) if self.temperature else flat)  # type: ignore[arg-type]
            drawn_from = drawn_from.view(logits.shape)
        elif self.temperature and self.method.tempered:
            drawn_from = logits / self.temperature
        if self.temperature:
            # Gumbel-max in float64: coarser noise measurably hurts. Scaled logits are not scaled again.
            scale = 1.0 if drawn_from is not logits else self.temperature
            noise = torch.rand(logits.shape, generator=self.generator, device=logits.device, dtype=torch.float64)
            tokens = (drawn_from.double() - scale * noise.log_().neg_().log_()).argmax(-1)
            source = drawn_from if self.method.tempered else logits
        else:
            source, tokens = drawn_from if self.method.tempered else logits, drawn_from.argmax(-1)
        confidence = source.softmax(-1).gather(-1, tokens[..., None])[..., 0]
        if bool(confidence.isnan().any()):
            raise ValueError(NAN_LOGITS)
        return tokens, confidence, source

    # ---- blocks and ends -------------------------------------------------------------------------------------

    def _advance(self, rows: torch.Tensor) -> None:
        """Ends of the text, finished rows, and the blocks of those that go on."""
        if self.stop_criterion is not None:
            self._stop_at_texts(rows)
        if bool((self._left[rows] > 0).all()):
            return
        ahead = self.masked[rows]
        first = ahead.int().argmax(1)
        block = (first - self.prompt_width) // self.block * self.block + self.prompt_width
        some = ahead.any(1)
        moved = (block != self.start[rows]) | (self.opened[rows] == 0) | ~some
        if self.method.end_of_text == "block" and self.model.config.ends:
            self._stop_behind_blocks(rows[moved])
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
            if self.store is not None:
                self.store.narrow(width)

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

    def _end_text(
        self, look: Look, chosen: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, tokens: torch.Tensor
    ) -> None:
        """Cut rows behind an end of text, under "committed" and "predicted"."""
        rule = self.method.end_of_text
        if rule == "committed":
            ends = self.is_end(tokens)
            if bool(ends.any()):
                self._cut_at_first(rows[ends], columns[ends])
        elif rule == "predicted":
            ends = self.is_end(look.tokens)
            accepted = ends & chosen & self.method.accepted_ends(look, chosen)
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
            self._cut(row, column + 1)

    def _stop_behind_blocks(self, rows: torch.Tensor) -> None:
        """Rows whose beginning, up to the first open column, holds an end of text are over."""
        for row in rows.tolist():
            found = self.is_end(self.tokens[row, self.prompt_width : self._filled(row)]).nonzero()
            if len(found):
                self._cut(row, self.prompt_width + int(found[0]) + 1)

    def _stop_at_texts(self, rows: torch.Tensor) -> None:
        """Rows whose beginning, up to the first open column, holds a stop text are over."""
        assert self.stop_criterion is not None
        for row in rows.tolist():
            for end in range(self._checked.get(row, self.prompt_width) + 1, self._filled(row) + 1):
                self._checked[row] = end
                if self.stop_criterion(self.tokens[row, self.prompt_width : end]):
                    self._cut(row, end)
                    break

    def _filled(self, row: int) -> int:
        """The first open column of a row, or its end."""
        open_ = self.masked[row].nonzero()
        return int(open_[0]) if len(open_) else int(self.answer_end[row])

    def _cut(self, row: int, end: int) -> None:
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
        lengths = torch.tensor([len(answer) for answer in answers], device=device)
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
