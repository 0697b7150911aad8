"""Rows under a method: one that fails does not take the others along, and nobody is decoded for nobody."""

from __future__ import annotations

import time
from typing import Any

import pytest

from szilard.decoding.beam_search import BeamSearch
from szilard.decoding.lead import Lead
from szilard.server.jobs import Failed, Finished
from szilard.server.method_run import run_method
from tests.server.test_scheduler import Listener, alone


def test_a_row_that_a_method_refuses_fails_alone(tiny_engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, broken = Listener([4, 5], Lead(), 6), Listener([6], Lead(), 6)
    real = type(tiny_engine).generate

    def refuses(self: Any, prompts: Any, *args: Any, **options: Any) -> Any:
        if any(prompt.tolist() == [6] for prompt in prompts):
            raise ValueError("this prompt is too short.")
        return real(self, prompts, *args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(type(tiny_engine), "generate", refuses)
        run_method(tiny_engine, [whole.job, broken.job])
    assert isinstance(whole.wait(), Finished) and whole.tokens == alone(tiny_engine, [4, 5], Lead(), 6)
    assert broken.wait() == Failed("this prompt is too short.")


def test_beams_end_when_nobody_waits_for_them(tiny_engine: Any) -> None:
    listener = Listener([4], BeamSearch(beams=2, length_penalty=5.0), 200)
    listener.job.deadline = time.monotonic() - 1
    run_method(tiny_engine, [listener.job])
    assert listener.wait().tokens < 200


def test_a_row_that_ends_early_is_told_at_once(tiny_engine: Any) -> None:
    short = Listener([4, 5], Lead(), 30, stop=("w",))
    long = Listener([4, 5, 6], Lead(), 30)
    seen: list[int] = []
    long.job.tell = lambda event: (seen.append(len(short.events)) if short.over.is_set() else None, long.tell(event))[1]
    run_method(tiny_engine, [short.job, long.job])
    assert isinstance(short.wait(), Finished) and isinstance(long.wait(), Finished)
    assert len(seen) > 10  # steps of the other row after its end was told
    assert sum(isinstance(event, Finished) for event in short.events) == 1


def test_a_canvas_is_left_when_nobody_waits_for_it() -> None:
    from szilard.diffusion.unmask import TopKUnmask
    from tests.diffusion.tiny import tiny_engine as canvas_engine

    engine = canvas_engine(eos=None)
    calls: list[int] = []
    listener = Listener([5, 6, 7], TopKUnmask(), 40)
    real = engine.canvas_model.predict

    def counted(*args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            listener.job.cancelled = True
        return real(*args, **options)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(engine.canvas_model, "predict", counted)
        run_method(engine, [listener.job])
    assert isinstance(listener.wait(), Finished) and len(calls) < 10
