"""The cost that a plainly decoded answer tells is that of the same answer decoded alone."""

from __future__ import annotations

import queue
import time
from typing import Any

import pytest
import torch

import szilard
from szilard.server.jobs import Finished, Job
from szilard.server.plain_run import PlainRun


def _told(engine: Any, prompts: list[list[int]], *, trace: bool) -> list[dict[str, Any] | None]:
    ends: list[queue.SimpleQueue[Any]] = [queue.SimpleQueue() for _ in prompts]
    jobs = [
        Job(
            ids=ids,
            method=szilard.Greedy(),
            max_new_tokens=6,
            tell=end.put,
            deadline=time.monotonic() + 60,
            trace=trace,
        )
        for ids, end in zip(prompts, ends, strict=True)
    ]
    PlainRun(engine, lambda most: [], lambda rows: None, jobs).run(8)
    found = []
    for end in ends:
        while not isinstance(event := end.get_nowait(), Finished):
            pass
        found.append(event.cost)
    return found


@pytest.mark.parametrize("place", [0, 1])
def test_the_cost_of_a_row_is_that_of_its_answer_alone(engine: Any, place: int) -> None:
    prompts = [[5, 6, 7, 8, 9], [10, 11]]
    told = _told(engine, prompts, trace=True)[place]
    alone = engine.generate(torch.tensor(prompts[place]), szilard.Greedy(), max_new_tokens=6).cost.to_dict()
    assert told is not None
    timed = {"wall_seconds", "tokens_per_second"}
    assert {name: told[name] for name in told if name not in timed} == {
        name: alone[name] for name in alone if name not in timed
    }
    assert told["wall_seconds"] > 0


def test_no_cost_is_told_where_none_is_wanted(engine: Any) -> None:
    assert _told(engine, [[5, 6, 7]], trace=False) == [None]
