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
    assert broken.wait() == Failed("this prompt is too short.", ours=False)


def test_beams_end_when_nobody_waits_for_them(tiny_engine: Any) -> None:
    listener = Listener([4], BeamSearch(beams=2, length_penalty=5.0), 200)
    listener.job.deadline = time.monotonic() - 1
    run_method(tiny_engine, [listener.job])
    assert listener.wait().tokens < 200
