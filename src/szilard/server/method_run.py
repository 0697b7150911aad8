"""A batch under a method with a loop of its own: rows may end or be given up at any step, none joins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import StoppingCriteria

from szilard.decoding.recorder import TraceRecorder
from szilard.decoding.stopping import StopWhen
from szilard.diffusion.engine import GivenUp
from szilard.server.jobs import Failed, Job, Step
from szilard.server.row import Row

if TYPE_CHECKING:
    from szilard.engines.engine import Engine


class Rows:
    """What the run's streamer and stopping criterion know of every row."""

    def __init__(self, jobs: Sequence[Job], engine: Engine, recorder: LiveRecorder | None) -> None:
        ends = engine.end_tokens()
        self._rows = [Row(job, engine, ends) for job in jobs]
        self._recorder = recorder
        self.began = False  # something has been told

    # ---- a streamer of transformers ----

    def put(self, _: torch.Tensor) -> None:
        """The prompt, which is not told."""

    def put_rows(self, tokens: torch.Tensor, moving: torch.Tensor | None) -> None:
        """A committed column [batch], and which rows it moves."""
        self.began = True
        moves = [True] * len(self._rows) if moving is None else moving.tolist()
        records = {} if self._recorder is None else self._recorder.taken()
        for place, (row, token, moved) in enumerate(zip(self._rows, tokens.tolist(), moves, strict=True)):
            for record in records.get(place, ())[:-1]:  # steps of the row before this token: latent ones
                row.job.tell(Step(None, record=record))
            if moved and row.reason is None:
                row.say(token, record=records.get(place, [None])[-1])
                self._end_early(row)

    def end(self) -> None:
        """All rows are over."""

    def rest(self, place: int, tokens: Sequence[int]) -> None:
        """What a method told only when it was over, as beams and canvases are: a row's whole answer."""
        row = self._rows[place]
        for token in tokens[row.tokens :]:
            if row.reason is None:
                row.say(token)

    # ---- ends ----

    def over(self) -> list[bool]:
        """Rows that go no further."""
        for row in self._rows:
            if row.give_up():
                self._end_early(row)
        return [row.reason is not None for row in self._rows]

    def is_set(self) -> bool:
        """Whether all rows are over: what ends a canvas."""
        return all(self.over())

    @staticmethod
    def _end_early(row: Row) -> None:
        """Tell a row's end at once; where a trace is wanted its cost is known only when all rows are over."""
        if row.reason is not None and not row.job.trace:
            row.finish(None)

    def finish(self, cost: dict[str, Any]) -> None:
        """Tell every job of its end."""
        for row in self._rows:
            row.finish(cost)


class RowsOver(StoppingCriteria):
    """Ends the rows that `Rows` says are over."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """bool [batch]; texts that are only being tried (drafts) end by other criteria."""
        over = self._rows.over()
        if len(over) != len(input_ids):
            over = [all(over)] * len(input_ids)  # and when nobody waits any more
        return torch.tensor(over, device=input_ids.device)


class LiveRecorder(TraceRecorder):
    """A trace that can be told of while it is made."""

    def __init__(self) -> None:
        super().__init__()
        self._told = 0

    def taken(self) -> dict[int, list[dict[str, Any]]]:
        """Records of the steps since the last call, by row."""
        found: dict[int, list[dict[str, Any]]] = {}
        for step in self._steps[self._told :]:
            active = [True] * len(step.token) if step.active is None else step.active.tolist()
            columns = {name: _listed(value, len(active)) for name, value in step.columns.items() if value is not None}
            measured = step.entropy.tolist()
            for place, here in enumerate(active):
                if here:
                    record = {"entropy": measured[place]} | {name: values[place] for name, values in columns.items()}
                    found.setdefault(place, []).append(_named(record))
        self._told = len(self._steps)
        return found


def _listed(value: Any, rows: int) -> list[Any]:
    if isinstance(value, torch.Tensor):
        return value.tolist()
    return list(value) if isinstance(value, list) else [value] * rows


def _named(record: dict[str, Any]) -> dict[str, Any]:
    """With the mode's name, and null for what is no finite number: JSON has no NaN."""
    for name, value in record.items():
        if isinstance(value, float) and not math.isfinite(value):
            record[name] = None
    record["mode"] = "latent" if record.get("mode") in (1, True, "latent") else "discrete"
    return record


def run_method(engine: Engine, jobs: Sequence[Job]) -> None:
    """Decode jobs of one group, and tell of everything. Errors of the request are told, others raised."""
    first, window = jobs[0], engine.context_window
    most = first.max_new_tokens
    if window is not None and len(jobs) > 1 and max(len(job.ids) for job in jobs) + most > window:
        for job in jobs:  # each fits with its own limit, but not the longest prompt with the longest answer
            run_method(engine, [job])
        return
    recorder = LiveRecorder() if first.trace else None
    rows = Rows(jobs, engine, recorder)
    by_step = engine.kind != "diffusion"  # a canvas has no next token
    try:
        results = engine.generate(
            [torch.tensor(job.ids) if job.prompt is None else job.prompt for job in jobs],
            first.method,
            images=[job.images for job in jobs] if any(job.images for job in jobs) else None,
            max_new_tokens=most,
            seed=first.seed,
            trace=False if recorder is None else recorder,
            streamer=rows if by_step else None,
            stopping_criteria=[RowsOver(rows) if by_step else StopWhen(rows)],
            **first.sampling,
        )
    except GivenUp:
        rows.finish({})
        return
    except (ValueError, TypeError) as error:
        if len(jobs) > 1 and not rows.began:  # one of them may be at fault: the others are to have their answers
            for job in jobs:
                run_method(engine, [job])
            return
        for job in jobs:
            job.tell(Failed(str(error)))
        return
    for place, result in enumerate(results):
        rows.rest(place, result.tokens)
    rows.finish(results[0].cost.to_dict())
