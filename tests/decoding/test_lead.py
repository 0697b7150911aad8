"""LEAD against its equations and the spec's worked examples."""

from __future__ import annotations

import math

import pytest
import torch

import szilard
from szilard.decoding.latent import Marker
from szilard.decoding.lead import ModeSwitch
from tests.conftest import prompt_batch, tiny_model


def run(model, method, rows=1, **options):
    torch.manual_seed(0)
    settings = {
        "max_new_tokens": 40,
        "do_sample": False,
        "return_dict_in_generate": True,
        "eos_token_id": None,
    } | options
    return model.generate(**prompt_batch(rows), custom_generate=method, **settings)


class _Rows:
    """Just enough of a state for the mode machine."""

    def __init__(self, rows: int) -> None:
        self.batch_size, self.device = rows, torch.device("cpu")


def modes(method, entropies):
    switch, seen, switched = ModeSwitch(method, _Rows(1)), "", []
    for step, entropy in enumerate(entropies):
        flips = switch.step(torch.tensor([entropy]), torch.tensor([False]))
        seen += "L" if switch.latent.item() else "D"
        if flips[0].item() or flips[1].item():
            switched.append(step)
    return seen, switched


WORKED = [0.9, 1.1, 0.7, 0.3, 0.5, 0.8, 0.6, 0.2, 1.6, 0.9]


def test_the_mode_machine_follows_the_worked_trace():
    assert modes(szilard.Lead(window=2), WORKED) == ("LLDDDLDDLD", [2, 5, 6, 8, 9])


def test_an_infinite_window_switches_once_and_stays_discrete():
    assert modes(szilard.Lead(window=math.inf), WORKED) == ("LLDDDDDDDD", [2])


def test_a_constant_threshold_of_zero_is_always_latent_and_of_infinity_always_discrete():
    assert modes(szilard.Lead(threshold=0.0), WORKED)[0] == "L" * 10
    assert modes(szilard.Lead(threshold=math.inf), WORKED)[0] == "D" * 10


def test_the_gates_of_the_released_code_hold_back_both_switches():
    method = szilard.Lead(window=0, enter_entropy=1.0, exit_entropy=0.2)
    assert modes(method, [0.9, 0.5, 0.1, 0.8, 1.2])[0] == "LLDDL"


def test_a_mixture_is_the_closed_form_of_the_paper():
    model = tiny_model("llama")
    out = {}

    class Probe(szilard.Method):
        slug, paper = "probe", "none"

        @classmethod
        def neutral(cls):
            return cls()

        def decode(self, state):
            state.model.set_input_embeddings(
                torch.nn.Embedding.from_pretrained(torch.tensor([[1.0, 0], [0, 1], [-1, 1]]))
            )
            out["mixture"] = state.mix(torch.tensor([[0.5, 0.3, 0.2]]))
            state.stop(torch.ones_like(state.finished))

    saved = model.get_input_embeddings()
    try:
        model.generate(**prompt_batch(1), custom_generate=Probe(), max_new_tokens=1)
    finally:
        model.set_input_embeddings(saved)
    assert torch.allclose(out["mixture"], torch.tensor([[0.3, 0.5]]))


def recorded_feeds(monkeypatch):
    from szilard.engines.transformers_state import TransformersState

    fed, original = [], TransformersState.feed

    def feed(self, tokens=None, embeddings=None, **options):
        fed.append((tokens, embeddings))
        return original(self, tokens, embeddings, **options)

    monkeypatch.setattr(TransformersState, "feed", feed)
    return fed


def test_a_latent_step_feeds_the_probability_weighted_embeddings(model, monkeypatch):
    fed = recorded_feeds(monkeypatch)
    out = run(model, szilard.Lead(window=3, max_switches=None), output_logits=True)
    layer = model.get_input_embeddings()
    table = layer(torch.arange(layer.weight.shape[0]))
    latent = out.trace["mode"] == "latent"
    assert latent.any() and not latent.all()
    for step, (tokens, embeddings) in enumerate(fed):
        if latent[step]:
            expected = torch.softmax(out.logits[step][0].double(), -1) @ table
            assert torch.allclose(embeddings[0, 0], expected, atol=1e-5)
        else:
            assert tokens is not None and tokens.tolist() == [out.trace["token"][step]]


def test_a_one_hot_distribution_mixes_to_exactly_that_tokens_embedding(model):
    checked = []

    class Probe(szilard.Method):
        slug, paper = "probe", "none"

        @classmethod
        def neutral(cls):
            return cls()

        def decode(self, state):
            tokens = torch.tensor([5, 42])
            one_hot = torch.nn.functional.one_hot(tokens, state.vocab_size).double()
            assert torch.allclose(state.mix(one_hot), state.embed(tokens), atol=1e-12)
            half = torch.tensor([[0.5, 0.5]]).expand(2, 2)
            both = state.mix(half, torch.tensor([[5, 42], [5, 42]]))
            assert torch.allclose(both[0], state.embed(tokens).mean(0), atol=1e-12)
            checked.append(True)
            state.stop(torch.ones_like(state.finished))

    model.generate(**prompt_batch(2), custom_generate=Probe(), max_new_tokens=1)
    assert checked


def test_the_anchor_is_blended_in_by_its_strength(llama, monkeypatch):
    fed = recorded_feeds(monkeypatch)
    anchor = torch.linspace(-1, 1, 32, dtype=torch.float64)
    out = run(llama, szilard.Lead(window=2, anchor=anchor, max_switches=None), output_logits=True)
    table = llama.get_input_embeddings().weight
    steps = [step for step in out.trace["anchored"].nonzero()[0] if step < len(fed)]
    assert steps
    for step in steps:
        mixture = torch.softmax(out.logits[step][0].double(), -1) @ table
        assert torch.allclose(fed[step][1][0, 0], 0.6 * mixture + 0.4 * anchor, atol=1e-5)


def test_the_released_schedules_decay_the_anchor_and_mix_the_marker_in(llama, monkeypatch):
    fed = recorded_feeds(monkeypatch)
    anchor = torch.full((32,), 0.5, dtype=torch.float64)
    method = szilard.Lead(
        window=2, anchor=anchor, anchor_decay=True, closing_mix=0.7, end_of_thinking=[9], max_switches=None
    )
    out = run(llama, method, output_logits=True, max_new_tokens=40)
    table, seen = llama.get_input_embeddings().weight, set()
    for step, (_, embeddings) in enumerate(fed):
        here = out.trace[step]
        mixture = torch.softmax(out.logits[step][0].double(), -1) @ table
        if here.anchored:
            strength = 0.4 * (1 - step / 40)
            assert torch.allclose(embeddings[0, 0], (1 - strength) * mixture + strength * anchor, atol=1e-5)
            seen.add("anchored")
        elif here.switched and here.mode == "discrete":
            beta = 0.7 + 0.3 * step / 40
            assert torch.allclose(embeddings[0, 0], beta * mixture + (1 - beta) * table[9], atol=1e-5)
            seen.add("closed")
    assert seen == {"anchored", "closed"}


def test_full_anchor_strength_feeds_the_anchor_itself(llama, monkeypatch):
    fed = recorded_feeds(monkeypatch)
    anchor = torch.full((32,), 0.25, dtype=torch.float64)
    out = run(llama, szilard.Lead(window=2, anchor=anchor, anchor_strength=1.0, max_switches=None))
    anchored = out.trace["anchored"].astype(bool)
    to_latent = (out.trace["switched"].astype(bool)) & (out.trace["mode"] == "latent")
    assert anchored.any() and (anchored == to_latent).all()
    for step in anchored.nonzero()[0]:
        if step < len(fed):
            assert torch.allclose(fed[step][1][0, 0], anchor)


def test_without_strength_or_anchor_nothing_is_anchored(llama):
    for method in (szilard.Lead(window=2, anchor=[5, 6], anchor_strength=0.0), szilard.Lead(window=2)):
        assert not run(llama, method).trace["anchored"].any()


def test_the_first_phase_is_anchored_only_on_request(llama):
    first = run(llama, szilard.Lead(anchor=[5, 6], anchor_first_phase=True)).trace["anchored"]
    assert first[0] and not run(llama, szilard.Lead(anchor=[5, 6])).trace["anchored"][0]


def test_latent_mode_is_entered_only_after_the_window(llama):
    trace = run(llama, szilard.Lead(window=4, max_switches=None), max_new_tokens=80).trace
    since, entered = None, 0
    for step in trace:
        if step.switched and step.mode == "discrete":
            since = step.step
        if step.switched and step.mode == "latent":
            entered += 1
            assert step.step - since >= 4
    assert entered > 0


def test_after_the_end_of_thinking_no_step_is_latent(llama):
    plain = run(llama, szilard.Lead(window=0, end_of_thinking=None, max_switches=None))
    marker = int(plain.trace["token"][4])
    trace = run(llama, szilard.Lead(window=0, end_of_thinking=[marker], max_switches=None)).trace
    first = trace["token"].tolist().index(marker)
    assert (trace["mode"][first:] == "discrete").all()
    assert (trace["mode"][:first] == "latent").any()


def test_a_marker_of_several_tokens_is_matched_as_a_whole(llama):
    plain = run(llama, szilard.Lead(window=0, end_of_thinking=None, max_switches=None))
    pair = plain.trace["token"][3:5].tolist()
    trace = run(llama, szilard.Lead(window=0, end_of_thinking=pair, max_switches=None)).trace
    tokens = trace["token"].tolist()
    first = next(i for i in range(1, len(tokens)) if tokens[i - 1 : i + 1] == pair)
    assert (trace["mode"][first:] == "discrete").all()


def test_too_many_switches_force_the_end_of_thinking(llama):
    trace = run(llama, szilard.Lead(window=0, end_of_thinking=[11, 12], max_switches=2), max_new_tokens=60).trace
    second = next(i for i, step in enumerate(trace) if step.switches == 2)
    assert trace["token"][second + 1 : second + 3].tolist() == [11, 12]
    assert (trace["mode"][second + 2 :] == "discrete").all()


def test_twice_too_many_switches_force_the_answer_and_end_the_row_within_the_budget(engine):
    method = szilard.Lead(window=0, end_of_thinking=None, max_switches=1, answer_prefix="w20 w21", answer_budget=8)
    result = engine.generate("w10", method, max_new_tokens=120, eos_token_id=-1)
    trace = result.trace
    trigger = next(i for i, step in enumerate(trace) if step.switches == 3)
    assert trace["token"][trigger + 1 : trigger + 3].tolist() == [20, 21]
    assert len(trace) == trigger + 8  # the triggering step is the first of the budget
    assert (trace["mode"][trigger:] == "discrete").all()


def test_forced_text_is_said_in_one_piece_and_fed_as_it_is(llama):
    marker = [11, 12, 13, 14, 15]
    trace = run(llama, szilard.Lead(window=0, end_of_thinking=marker, max_switches=1), max_new_tokens=60).trace
    first = next(i for i, step in enumerate(trace) if step.switches == 1)
    assert trace["token"][first + 1 : first + 6].tolist() == marker
    assert (trace["mode"][first + 1 :] == "discrete").all()


def test_the_step_that_ends_thinking_still_counts_its_switch():
    switch = ModeSwitch(szilard.Lead(), _Rows(1))
    for entropy, locked in ((1.0, False), (1.2, False), (0.3, True), (2.0, True)):
        flips = switch.step(torch.tensor([entropy]), torch.tensor([locked]))
        if entropy == 0.3:
            assert flips[1].item() and switch.switches.item() == 1
    assert not switch.latent.item()


def test_a_prompt_that_closes_thinking_is_answered_discretely(engine):
    open_, closed = engine.generate("w10", szilard.Lead()), engine.generate("w10 </think>", szilard.Lead())
    assert open_.trace["mode"][0] == "latent"
    assert (closed.trace["mode"] == "discrete").all()


def test_a_marker_is_found_in_the_spelling_that_its_neighbours_cause():
    class State:
        """Spells "</think>" as 5 6 7, and as 5 6 8 before a blank line."""

        tokens = torch.tensor([[1, 5, 6]])
        finished, generated, vocab_size = torch.tensor([False]), torch.tensor([3]), 20
        device = torch.device("cpu")

        def encode(self, text):
            words = {"": [], " ": [2], ".": [3], "\n": [4], ")": [9], "\n\n": [10], "</think>": [5, 6, 7]}
            if text in words:
                return words[text]
            before, after = text.split("</think>")
            return words[before] + ([5, 6, 8] if after == "\n\n" else [5, 6, 7] + words[after])

    marker = Marker(State(), "</think>", name="end_of_thinking")
    for last, found in ((7, True), (8, True), (4, False)):
        assert marker.completed_by(torch.tensor([last]), State()).item() is found
    assert marker.ids == (5, 6, 7)


def test_structural_tokens_are_fed_as_themselves(llama, monkeypatch):
    everything = list(range(97))
    fed = recorded_feeds(monkeypatch)
    trace = run(llama, szilard.Lead(structural_tokens=everything)).trace
    assert (trace["mode"] == "discrete").all()
    assert all(embeddings is None for _, embeddings in fed)


def test_rows_of_a_batch_switch_on_their_own(llama):
    trace = run(llama, szilard.Lead(window=3), rows=4).trace
    patterns = {tuple(trace.row(row)["mode"]) for row in range(4)}
    assert len(patterns) > 1


def test_a_method_keeps_a_copy_of_its_ids_and_can_be_hashed():
    ids = [1, 2]
    method = szilard.Lead(anchor=ids, end_of_thinking=ids)
    ids.append(3)
    assert method.anchor == (1, 2) and method == szilard.Lead(anchor=(1, 2), end_of_thinking=(1, 2))
    assert len({method, szilard.Lead(anchor=(1, 2), end_of_thinking=(1, 2))}) == 1


def test_the_released_constants_are_those_of_the_authors_code():
    released = szilard.Lead.released()
    assert (released.window, released.enter_entropy, released.exit_entropy) == (256, 1.0, 0.2)
    assert (released.closing_mix, released.anchor_decay, released.anchor_strength) == (0.7, True, 0.4)
    assert released.anchor == "image"
    assert szilard.SwiReasoning.released() == szilard.SwiReasoning()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"anchor_strength": 1.5}, "anchor_strength must be between 0 and 1"),
        ({"window": -1}, "window must be at least 0"),
        ({"window": "long"}, "window must be a number"),
        ({"initial_mode": "dreaming"}, "initial_mode must be one of"),
        ({"threshold": "high"}, "threshold must be 'dynamic' or"),
        ({"max_switches": 1.5}, "max_switches must be a whole number or None"),
        ({"window": 10**30}, "window must be"),
        ({"anchor": [1.5]}, "anchor must be text, token ids"),
        ({"anchor": 5}, "anchor must be text, token ids"),
        ({"end_of_thinking": ["a"]}, "end_of_thinking must be"),
        ({"anchor": torch.full((3,), torch.nan)}, "finite"),
        ({"structural_tokens": "words"}, "structural_tokens must be"),
    ],
)
def test_a_bad_hyperparameter_is_refused_by_name(options, words):
    with pytest.raises((TypeError, ValueError), match=words):
        szilard.Lead(**options)
