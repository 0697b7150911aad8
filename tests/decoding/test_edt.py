"""EDT: a temperature from every step's entropy."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import szilard
from szilard.decoding.edt import Edt, _Divide
from szilard.engines import TransformersEngine
from szilard.information import entropy
from tests.conftest import prompt_batch, tiny_model, tiny_tokenizer


def test_equation_1_by_hand() -> None:
    factors = Edt(theta=1.0, base=0.8).factor(torch.tensor([0.5, 1.0, 2.0, math.inf, 0.0]))
    assert factors[:3].tolist() == pytest.approx([0.8**2, 0.8, 0.8**0.5])
    assert factors[3] == 1 and 0 < factors[4] < 1e-5


@given(st.lists(st.floats(-60, 60, width=32), min_size=2, max_size=40), st.floats(0.01, 20))
def test_what_is_divided_stays_a_distribution_and_never_gains_entropy(values: list[float], theta: float) -> None:
    logits = torch.tensor([values])
    scores = _Divide(Edt(theta=theta).factor(entropy(logits)))(None, logits)
    assert torch.isfinite(scores.softmax(-1)).all()
    assert entropy(scores) <= entropy(logits) + 1e-4
    assert scores.argmax() == logits.argmax()


def test_sure_steps_are_colder_than_unsure_ones_and_the_trace_says_so() -> None:
    engine = TransformersEngine(tiny_model("llama"), tiny_tokenizer(), name="tiny")
    result = engine.generate("w10 w11", Edt(), do_sample=True, seed=3, max_new_tokens=16, trace=True)
    factors, entropies = result.trace["temperature_factor"], result.trace["entropy"]
    assert (factors.argsort() == entropies.argsort()).all()
    assert factors == pytest.approx([0.8 ** (1 / value) for value in entropies], rel=1e-5)


def test_filters_of_the_run_see_the_divided_logits() -> None:
    model, inputs = tiny_model("llama"), prompt_batch(2)
    options = {"max_new_tokens": 12, "do_sample": True, "top_k": 5}
    torch.manual_seed(0)
    greedy = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    cold = model.generate(**inputs, custom_generate=szilard.Edt(theta=1e3), **options)
    assert torch.equal(cold, greedy)


def test_given_text_is_scored_at_the_same_temperatures() -> None:
    method = Edt(theta=2.0)
    shape = method.shaping(None)  # type: ignore[arg-type]
    logits = torch.randn(3, 11)
    assert shape is not None and Edt.neutral().shaping(None) is None  # type: ignore[arg-type]
    expected = (logits / method.factor(entropy(logits))[:, None]).log_softmax(-1)
    torch.testing.assert_close(shape([[1]] * 3, logits).log_softmax(-1), expected)


@pytest.mark.parametrize("options", [{"theta": -1}, {"base": 0}, {"base": 1.5}, {"theta": math.nan}])
def test_what_is_no_temperature_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Edt(**options)


def test_the_tutorial_shows_the_file_as_it_is() -> None:
    root = Path(__file__).parents[2]
    source = (root / "src" / "szilard" / "decoding" / "edt.py").read_text(encoding="utf-8")
    assert f"```python\n{source}```" in (root / "docs" / "adding-a-method.md").read_text(encoding="utf-8")
