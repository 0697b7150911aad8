"""What fails is told to those whom it concerns, and to everybody of them."""

from __future__ import annotations

import time
from typing import Any

import pytest

from szilard.server.jobs import Failed, Finished
from szilard.server.scheduler import Scheduler
from szilard.server.settings import ServerSettings
from tests.server.test_scheduler import Listener, alone


def running_and_joining(scheduler: Scheduler) -> list[Listener]:
    """Two rows that decode, the second of which joined; the third is yet to come."""
    rows = [Listener([4], None, 100), Listener([5], None, 100), Listener([6])]
    for listener in rows[:2]:
        scheduler.submit([listener.job])
        assert listener.began.wait(60)
    return rows


def test_a_prompt_that_cannot_be_read_is_told_and_the_others_decode_on(
    tiny_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = Scheduler(tiny_engine, ServerSettings(wait_ms=0))
    first, second, third = running_and_joining(scheduler)
    with monkeypatch.context() as patched:
        patched.setattr(type(tiny_engine), "state", lambda *_, **__: 1 / 0)
        scheduler.submit([third.job])
        end = third.wait()
    assert isinstance(end, Failed) and end.status == 500 and "Zero" not in end.message
    for listener in (first, second):
        assert isinstance(listener.wait(), Finished)
        assert listener.tokens == alone(tiny_engine, listener.job.ids, None, 100)
    assert scheduler.close(20)


def test_a_step_that_fails_is_told_to_every_row_old_and_new(tiny_engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from szilard.engines.transformers_state import TransformersState

    scheduler = Scheduler(tiny_engine, ServerSettings(wait_ms=0))
    rows = running_and_joining(scheduler)
    with monkeypatch.context() as patched:
        patched.setattr(TransformersState, "extend", lambda *_: 1 / 0)
        scheduler.submit([rows[2].job])
        assert all(isinstance(listener.wait(), Failed) for listener in rows)
    assert scheduler.close(20)


def test_what_is_over_is_not_kept_while_the_batch_goes_on(tiny_engine: Any) -> None:
    scheduler = Scheduler(tiny_engine, ServerSettings(wait_ms=0))
    first = running_and_joining(scheduler)[0]
    short = Listener([7], None, 1)
    scheduler.submit([short.job])
    short.wait()
    steps = len(first.events) + 2  # its end is told in the middle of a step
    while len(first.events) < steps and not first.over.is_set():
        time.sleep(0.001)
    assert first.over.is_set() or short.job not in scheduler._running()
    assert scheduler.close(20)
