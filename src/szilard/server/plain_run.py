"""Plain decoding of many requests at once: rows join and leave between steps (continuous batching)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from szilard.decoding.cost import Cost, ModelSize
from szilard.decoding.sampling import Sampling
from szilard.information import entropy
from szilard.server.jobs import Failed, Job, failure_of_ours
from szilard.server.row import Row
from szilard.server.row_choice import RowSettings, choose_rows

if TYPE_CHECKING:
    from szilard.engines.engine import Engine


class PlainRow(Row):
    """A row with settings, a random stream and a cost of its own."""

    def __init__(self, job: Job, engine: Engine, ends: frozenset[int]) -> None:
        super().__init__(job, engine, ends)
        self.cost = Cost(batch_size=1)  # as if it were decoded alone, but for the time
        self.cost.start()
        sampling = job.method if isinstance(job.method, Sampling) else None
        if sampling is None and job.sampling.get("do_sample"):
            filters = {name: value for name, value in job.sampling.items() if name != "do_sample"}
            sampling = Sampling(**filters)
        stream = None
        if sampling is not None and job.seed is not None:
            stream = torch.Generator(device=engine.device).manual_seed(job.seed)
        self.settings = RowSettings(sampling, stream)

    def count(self, size: ModelSize) -> None:
        """Count a forward: of the prompt, and then of a token."""
        known = len(self.job.ids) + self.tokens - 1 if self.tokens else 0
        self.cost.add_forward(size, rows=1, new=1 if self.tokens else len(self.job.ids), cached=known)

    def leave(self) -> None:
        """Tell of the end, with the row's own cost."""
        self.cost.stop()
        self.cost.generated_tokens = self.tokens
        self.finish(self.cost.to_dict() if self.job.trace else None)


class PlainRun:
    """A batch that goes on as long as there is somebody in it.

    Args:
        engine: whose states can be extended; on others rows only leave.
        more: asked between steps: jobs that may join, at most so many.
        count: told how many rows a step had.
        jobs: with whom it begins.
    """

    def __init__(
        self, engine: Engine, more: Callable[[int], list[Job]], count: Callable[[int], None], jobs: Sequence[Job]
    ) -> None:
        self._engine, self._more, self._count = engine, more, count
        self._ends = engine.end_tokens()
        self._state: Any = None
        self._rows: list[PlainRow] = []
        self._tokens = torch.zeros(0, dtype=torch.long)
        self._joining = list(jobs)  # those whose prompt is being read

    @property
    def jobs(self) -> list[Job]:
        """Those that have not been told of their end: in the batch, or about to join it."""
        return [*(row.job for row in self._rows), *self._joining]

    @torch.no_grad()
    def run(self, most: int) -> None:
        """Decode the first jobs and those that join, until nobody is left; at most so many at once."""
        try:
            self._admit(self._joining)
            while self._rows:
                self._count(len(self._rows))
                logits = self._state.feed(self._tokens)[:, -1]
                for row in self._rows:
                    row.count(self._state.size)
                self._step(logits)
                if self._rows and self._state.can_extend and len(self._rows) < most:
                    self._admit(self._more(most - len(self._rows)))
        finally:
            if self._state is not None:
                self._state.close()

    def _admit(self, jobs: Sequence[Job]) -> None:
        """Read the prompts, choose first tokens, and add rows."""
        self._joining = [job for job in jobs if not job.forgotten()]
        if not self._joining:
            return
        try:
            rows = [PlainRow(job, self._engine, self._ends) for job in self._joining]
            state = self._engine.state(
                [torch.tensor(job.ids) for job in self._joining],
                max_new_tokens=1,  # each was checked against the window with its own limit
                raw=True,
                trace=False,
            )
            if self._state is None:
                self._state = state  # closed whatever happens
            state.max_length = None  # every row has a limit of its own
            logits = state.prefill()
            for row in rows:
                row.count(state.size)
        except Exception as error:  # those who decode already have lost nothing, and go on
            told = Failed(str(error)) if isinstance(error, ValueError) else failure_of_ours()
            for job in self._joining:
                job.tell(told)
            self._joining = []
            return
        rows, tokens = self._chosen(state, rows, logits)
        if rows and self._rows:
            self._state.extend(state)
        self._rows, self._joining = [*self._rows, *rows], []
        self._tokens = torch.cat([self._tokens.to(tokens.device), tokens])

    def _step(self, logits: torch.Tensor) -> None:
        """A token for everybody in the batch."""
        self._rows, self._tokens = self._chosen(self._state, self._rows, logits)

    def _chosen(self, state: Any, rows: list[PlainRow], logits: torch.Tensor) -> tuple[list[PlainRow], torch.Tensor]:
        """Choose, tell, and let rows go that are at their end: those that stay, and their tokens."""
        tokens = choose_rows(logits, [row.settings for row in rows])
        found = self._measured(rows, logits, tokens)
        state.commit(tokens)
        kept = []
        for place, (row, token) in enumerate(zip(rows, tokens.tolist(), strict=True)):
            row.say(token, **found[place])
            if row.give_up():
                row.leave()
            else:
                kept.append(place)
        if len(kept) < len(rows):
            rows, tokens = [rows[place] for place in kept], tokens[kept]
            if kept:
                state.select(torch.tensor(kept, device=tokens.device))
                if hasattr(state, "trim"):
                    state.trim()
        return rows, tokens

    @staticmethod
    def _measured(rows: list[PlainRow], logits: torch.Tensor, tokens: torch.Tensor) -> list[dict[str, Any]]:
        """What jobs want to know of this step, as arguments of `Step`."""
        jobs = [row.job for row in rows]
        found: list[dict[str, Any]] = [{} for _ in jobs]
        if any(job.trace for job in jobs):
            for place, value in enumerate(entropy(logits).tolist()):
                if jobs[place].trace:
                    found[place]["record"] = {"mode": "discrete", "entropy": value}
        wanted = [place for place, job in enumerate(jobs) if job.logprobs is not None]
        if wanted:
            scores = logits[wanted].float().log_softmax(-1)
            chosen = scores.gather(-1, tokens[wanted][:, None])[:, 0].tolist()
            most = max(jobs[place].logprobs or 0 for place in wanted)
            best = scores.topk(most, dim=-1) if most else None
            for line, place in enumerate(wanted):
                top: tuple[tuple[int, float], ...] = ()
                if best is not None:
                    pairs = zip(best.indices[line].tolist(), best.values[line].tolist(), strict=True)
                    top = tuple(pairs)[: jobs[place].logprobs]
                found[place] |= {"logprob": chosen[line], "top": top}
        return found
