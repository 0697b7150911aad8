"""Runs that change a model have it to themselves; others share it."""

import copy
import threading
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

import szilard
from szilard.engines.model_use import running_on
from tests.conftest import prompt_batch, tiny_model

SETTINGS = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}


@dataclass(frozen=True)
class Shifted(szilard.Greedy):
    """Greedy decoding of a model whose output layer is turned round while it runs."""

    changes_model: ClassVar[bool] = True

    def decode(self, state):
        weight = state.model.lm_head.weight
        before = weight.data
        weight.data = before.flip(0)
        try:
            opened.set()
            go_on.wait(10)
            super().decode(state)
        finally:
            weight.data = before


opened, go_on = threading.Event(), threading.Event()


def in_a_thread(work):
    found = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    return thread, found


@pytest.mark.parametrize("other", [szilard.Greedy, Shifted])
def test_a_run_that_changes_the_model_has_it_alone(other):
    model, inputs = copy.deepcopy(tiny_model("llama")), prompt_batch(2)
    alone = {
        method: model.generate(**inputs, custom_generate=method(), **SETTINGS) for method in (szilard.Greedy, Shifted)
    }
    opened.clear(), go_on.clear()
    first, changed = in_a_thread(lambda: model.generate(**inputs, custom_generate=Shifted(), **SETTINGS))
    assert opened.wait(10)
    second, waiting = in_a_thread(lambda: model.generate(**inputs, custom_generate=other(), **SETTINGS))
    second.join(0.2)
    assert second.is_alive()
    go_on.set()
    first.join(), second.join()
    assert torch.equal(changed[0], alone[Shifted]) and torch.equal(waiting[0], alone[other])


def test_others_share_a_model():
    model, inputs = tiny_model("llama"), prompt_batch(1)
    with running_on(model):
        thread, found = in_a_thread(lambda: model.generate(**inputs, custom_generate=szilard.Greedy(), **SETTINGS))
        thread.join(10)
        assert not thread.is_alive() and len(found) == 1


def test_a_run_inside_a_run_may_not_change_the_model():
    model = copy.deepcopy(tiny_model("llama"))
    refused = pytest.raises(RuntimeError, match="cannot start inside another run")
    with running_on(model), running_on(model), refused, running_on(model, alone=True):
        pass
    with running_on(model, alone=True), running_on(model):
        pass
    with running_on(model, alone=True):
        pass
