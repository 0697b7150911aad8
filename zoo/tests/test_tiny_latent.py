"""The checkpoint that thinks in latent tokens, as a user loads it."""

from __future__ import annotations

import pytest

szilard = pytest.importorskip("szilard")

import szilard_zoo  # noqa: E402
from szilard.reasoning.tasks import arithmetic_chains  # noqa: E402


def test_it_answers_problems_that_it_never_saw_in_half_the_steps() -> None:
    engine = szilard.load("zoo/tiny-latent")
    assert (szilard_zoo.path("tiny-latent") / "model.safetensors").stat().st_size < 2e6
    asked = arithmetic_chains(40, seed=99, steps=(3, 4), modulus=11)
    found = engine.generate([one.problem for one in asked], method=szilard.LatentSFT(), max_new_tokens=30, raw=True)
    right = [result.text.split()[-1] == one.answer for result, one in zip(found, asked, strict=True)]
    assert sum(right) >= 38
    steps = sum(result.cost.counters["latent_steps"] for result in found[:1])
    words = sum(len(one.cot.split()) for one in asked)
    assert steps <= 0.6 * words
