"""What models predict of texts: loss, entropy, first choices, and temperatures."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from szilard.training.hyperfitting.prediction import (
    entropy_matched_temperature,
    held_out_predictions,
    predictive_entropy,
    ranks_of,
    top1_agreement,
    top_tokens,
)
from tests.conftest import VOCAB, tiny_model

IDS = torch.randint(3, VOCAB, (5, 12), generator=torch.Generator().manual_seed(0))


class Fixed(nn.Module):
    """A model that predicts the same whatever it reads: logits [vocab]."""

    device = torch.device("cpu")

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
        return SimpleNamespace(logits=self.logits.expand(*input_ids.shape, -1))


def at_temperature(model: Any, temperature: float) -> Any:
    """The model with its logits divided."""
    heated = copy.deepcopy(model)
    heated.lm_head.weight.data /= temperature
    return heated


def test_entropy_is_log_v_for_uniform_and_zero_for_one_hot_logits() -> None:
    uniform = held_out_predictions(Fixed(torch.zeros(50)), torch.zeros(2, 6, dtype=torch.int64))
    assert uniform.entropy == pytest.approx(math.log(50)) and uniform.loss == pytest.approx(math.log(50))
    assert uniform.perplexity == pytest.approx(50)
    assert (uniform.top_1, uniform.top_3, uniform.top_5) == pytest.approx((0.02, 0.06, 0.1))
    one_hot = torch.full((50,), float("-inf"))
    one_hot[7] = 0.0
    sure = held_out_predictions(Fixed(one_hot), torch.full((2, 6), 7))
    assert sure.entropy == sure.loss == 0.0 and sure.top_1 == sure.top_5 == 1.0


def test_means_are_those_of_a_plain_computation_in_any_batches() -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        log_p = model(input_ids=IDS).logits[:, :-1].log_softmax(-1)
    p = log_p.exp()
    expected = {
        "loss": -log_p.gather(-1, IDS[:, 1:, None]).mean(),
        "entropy": -(p * log_p).sum(-1).mean(),
        **{f"top_{k}": p.topk(k).values.sum(-1).mean() for k in (1, 3, 5)},
    }
    for batch_size in (1, 2, 8):
        found = held_out_predictions(model, IDS, batch_size=batch_size)
        for name, value in expected.items():
            assert getattr(found, name) == pytest.approx(float(value)), name
    assert predictive_entropy(model, IDS) == pytest.approx(float(expected["entropy"]))


def test_half_precision_is_measured_in_float32() -> None:
    logits = torch.zeros(30_000, dtype=torch.float16)
    assert predictive_entropy(Fixed(logits), torch.zeros(1, 4, dtype=torch.int64)) == pytest.approx(
        math.log(30_000), rel=1e-5
    )


@pytest.mark.parametrize("temperature", [0.1, 0.59, 3.0])
def test_a_temperature_changes_no_first_choice_and_no_greedy_text(temperature) -> None:
    model = tiny_model("llama")
    heated = at_temperature(model, temperature)
    assert top1_agreement(model, heated, IDS) == 1.0
    assert not ranks_of(model, IDS, top_tokens(heated, IDS)).any()
    one, two = (each.generate(IDS[:2], max_new_tokens=12, do_sample=False) for each in (model, heated))
    assert torch.equal(one, two)
    assert predictive_entropy(model, IDS) != pytest.approx(predictive_entropy(heated, IDS))


@pytest.mark.parametrize("temperature", [0.05, 0.4, 1.0, 4.0])
def test_the_matched_temperature_gives_the_entropy(temperature) -> None:
    model = tiny_model("qwen2")
    target = predictive_entropy(at_temperature(model, temperature), IDS)
    found = entropy_matched_temperature(model, IDS, target)
    assert found == pytest.approx(temperature, rel=5e-3)


def test_an_entropy_out_of_reach_is_told() -> None:
    with pytest.raises(ValueError, match=r"no temperature between 0\.02 and 50 gives a mean entropy of 99 nats"):
        entropy_matched_temperature(tiny_model("llama"), IDS, 99.0)


def test_agreement_and_ranks_are_those_of_a_sort() -> None:
    one, two = tiny_model("llama"), tiny_model("gpt2")
    with torch.no_grad():
        logits, others = (model(input_ids=IDS).logits[:, :-1] for model in (one, two))
    same = (logits.argmax(-1) == others.argmax(-1)).double().mean()
    assert top1_agreement(one, two, IDS) == pytest.approx(float(same)) and top1_agreement(one, one, IDS) == 1.0
    order = logits.argsort(-1, descending=True)
    places = (order == others.argmax(-1)[..., None]).nonzero()[:, -1].view(5, 11)
    assert torch.equal(ranks_of(one, IDS, top_tokens(two, IDS), batch_size=2), places)


def test_training_mode_is_given_back() -> None:
    model = copy.deepcopy(tiny_model("gpt2")).train()
    first, second = (held_out_predictions(model, IDS).loss for _ in range(2))
    assert model.training and first == second


def test_bad_texts_are_told_in_a_sentence() -> None:
    model = tiny_model("llama")
    with pytest.raises(ValueError, match="rows of at least 2 token ids"):
        held_out_predictions(model, IDS[:, :1])
    with pytest.raises(ValueError, match="rows of at least 2 token ids"):
        top_tokens(model, IDS[:0])
    with pytest.raises(ValueError, match="tokens has the shape"):
        ranks_of(model, IDS, IDS)
