"""`model.generate(custom_generate=method)` keeps what users know of `generate`."""

from __future__ import annotations

import pytest
import torch
from transformers import StoppingCriteria, StoppingCriteriaList, T5Config, T5ForConditionalGeneration
from transformers.generation import LogitsProcessor

import szilard
from szilard.engines.transformers_state import TransformersState
from szilard.speculative.lud.adapter import LudAdapter
from szilard.speculative.trained import TrainedDrafts
from tests.conftest import prompt_batch, tiny_model


class Collect:
    """A streamer that keeps what it gets."""

    def __init__(self):
        self.pieces, self.ended = [], False

    def put(self, value):
        self.pieces.append(value.tolist())

    def end(self):
        self.ended = True


class StopAfter(StoppingCriteria):
    def __init__(self, width):
        self.width = width

    def __call__(self, input_ids, scores, **kwargs):
        return torch.full((input_ids.shape[0],), input_ids.shape[1] >= self.width)


class Forbid(LogitsProcessor):
    def __init__(self, token):
        self.token = token

    def __call__(self, input_ids, scores):
        scores[:, self.token] = -torch.inf  # in place, as users do
        return scores


def test_a_streamer_gets_the_prompt_every_token_and_the_end(llama):
    streamer, inputs = Collect(), prompt_batch(1)
    out = llama.generate(**inputs, custom_generate=szilard.Lead(), max_new_tokens=6, do_sample=False, streamer=streamer)
    assert streamer.pieces[0] == inputs["input_ids"].tolist()
    assert [piece[0] for piece in streamer.pieces[1:]] == out[0, 11:].tolist()
    assert streamer.ended


def test_stopping_criteria_are_obeyed(llama):
    criteria = StoppingCriteriaList([StopAfter(15)])
    out = llama.generate(
        **prompt_batch(2),
        custom_generate=szilard.Lead(),
        max_new_tokens=50,
        do_sample=False,
        stopping_criteria=criteria,
    )
    assert out.shape[1] == 15


def test_processors_shape_the_choice_but_not_the_entropy(llama):
    inputs, settings = prompt_batch(1), {"max_new_tokens": 1, "do_sample": False, "return_dict_in_generate": True}
    free = llama.generate(**inputs, custom_generate=szilard.Lead(), **settings)
    token = int(free.sequences[0, -1])
    bound = llama.generate(**inputs, custom_generate=szilard.Lead(), logits_processor=[Forbid(token)], **settings)
    assert int(bound.sequences[0, -1]) != token
    assert bound.trace["entropy"][0] == free.trace["entropy"][0]


def test_scores_logits_and_cache_are_those_of_generate(model):
    inputs = prompt_batch(3)
    settings = {
        "max_new_tokens": 12,
        "do_sample": False,
        "return_dict_in_generate": True,
        "output_scores": True,
        "output_logits": True,
        "output_hidden_states": True,
        "repetition_penalty": 1.3,
    }
    theirs = model.generate(**inputs, **settings)
    ours = model.generate(**inputs, custom_generate=szilard.Greedy(), **settings)
    assert torch.equal(ours.sequences, theirs.sequences)
    for name in ("scores", "logits"):
        assert len(ours[name]) == len(theirs[name])
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(ours[name], theirs[name], strict=True))
    assert len(ours.hidden_states) == len(theirs.hidden_states)
    assert ours.past_key_values.get_seq_length() == theirs.past_key_values.get_seq_length()


def test_no_logits_are_kept_unless_asked_for(llama, monkeypatch):
    kept = []
    original = TransformersState.finish

    def finish(self):
        kept.append((self.scores, self.raw_logits, self.trace))
        original(self)

    monkeypatch.setattr(TransformersState, "finish", finish)
    llama.generate(**prompt_batch(1), custom_generate=szilard.Lead(), max_new_tokens=4)
    assert kept == [(None, None, None)]


def test_every_method_keeps_scores_and_logits_of_every_step(llama):
    needed = {"adadec": {"threshold": 0.0}, "ead": {"threshold": 0.0, "large": llama, "min_duration": 2}}
    needed |= {"draft-model": {"draft": llama}, "ladir": {"max_blocks": 0}}
    needed["lud"] = {"adapter": LudAdapter(base={"hidden_size": 32, "vocab_size": 97}, shapes={}), "beta": 0.0}
    for slug, entry in szilard.methods().items():
        if issubclass(entry.cls, TrainedDrafts):
            needed[slug] = {"max_nodes": 0}
    for slug in (
        slug for slug, entry in szilard.methods().items() if entry.kind == "method" and "denoising" not in entry.needs
    ):
        out = llama.generate(
            **prompt_batch(1),
            custom_generate=szilard.make_method(slug, needed.get(slug)),
            max_new_tokens=7,
            return_dict_in_generate=True,
            output_scores=True,
            output_logits=True,
        )
        assert len(out.scores) == len(out.logits) == out.sequences.shape[1] - 11


def test_prompts_may_come_as_embeddings(llama):
    inputs = prompt_batch(2)
    vectors = llama.get_input_embeddings()(inputs["input_ids"])
    by_ids = llama.generate(**inputs, custom_generate=szilard.Lead(), max_new_tokens=8, do_sample=False)
    by_vectors = llama.generate(
        inputs_embeds=vectors,
        attention_mask=inputs["attention_mask"],
        custom_generate=szilard.Lead(),
        max_new_tokens=8,
        do_sample=False,
    )
    assert torch.equal(by_ids[:, 11:], by_vectors)


def test_a_conversation_continues_from_the_returned_cache(llama):
    inputs = prompt_batch(1)
    settings = {"do_sample": False, "eos_token_id": None, "return_dict_in_generate": True}
    whole = llama.generate(**inputs, custom_generate=szilard.Greedy(), max_new_tokens=10, **settings)
    first = llama.generate(**inputs, custom_generate=szilard.Greedy(), max_new_tokens=4, **settings)
    second = llama.generate(
        first.sequences,
        past_key_values=first.past_key_values,
        custom_generate=szilard.Greedy(),
        max_new_tokens=6,
        **settings,
    )
    assert torch.equal(whole.sequences, second.sequences)
    assert second.cost.tokens["LlamaForCausalLM"] == 6


def test_a_static_cache_gives_the_same_logits(llama):
    settings = {"max_new_tokens": 10, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    settings |= {"eos_token_id": None}
    dynamic = llama.generate(**prompt_batch(2), custom_generate=szilard.Greedy(), **settings)
    static = llama.generate(
        **prompt_batch(2), custom_generate=szilard.Greedy(), cache_implementation="static", **settings
    )
    assert torch.equal(dynamic.sequences, static.sequences)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(dynamic.logits, static.logits, strict=True))


def test_half_precision_models_run(llama):
    model = type(llama)(llama.config).bfloat16().eval()
    out = model.generate(**prompt_batch(2), custom_generate=szilard.Lead(window=2), max_new_tokens=8, do_sample=False)
    assert out.shape == (2, 19)


def test_nan_logits_are_refused_in_one_sentence(llama):
    class Poison(LogitsProcessor):
        def __call__(self, input_ids, scores):
            return torch.full_like(scores, torch.nan)

    for method in (szilard.Greedy(), szilard.Lead(), szilard.Sampling(), szilard.SoftThinking()):
        with pytest.raises(ValueError, match="NaN logits"):
            llama.generate(
                **prompt_batch(1),
                custom_generate=method,
                max_new_tokens=3,
                do_sample=False,
                logits_processor=[Poison()],
            )


@pytest.mark.parametrize(
    ("options", "words"),
    [({"num_beams": 2}, "do not search beams"), ({"use_cache": False}, "use_cache=True")],
)
def test_what_the_state_cannot_carry_is_refused(llama, options, words):
    with pytest.raises(ValueError, match=words):
        llama.generate(**prompt_batch(1), custom_generate=szilard.Lead(), max_new_tokens=3, **options)


def test_encoder_decoder_models_are_refused():
    config = T5Config(vocab_size=40, d_model=16, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0)
    model = T5ForConditionalGeneration(config)
    with pytest.raises(ValueError, match="encoder-decoder"):
        model.generate(torch.tensor([[3, 4]]), custom_generate=szilard.Lead(), max_new_tokens=3)


def test_marker_ids_outside_the_vocabulary_are_refused(llama):
    with pytest.raises(ValueError, match="token id 400 is outside"):
        llama.generate(**prompt_batch(1), custom_generate=szilard.Lead(end_of_thinking=[400]), max_new_tokens=3)


def test_a_method_that_needs_what_the_model_lacks_is_refused_by_both_names(llama):
    class NeedsSight(szilard.Greedy):
        slug, needs = "needs-sight", frozenset({"logits", "vision"})

    with pytest.raises(ValueError, match=r"'needs-sight' needs vision, which LlamaForCausalLM"):
        tiny_model("llama").generate(**prompt_batch(1), custom_generate=NeedsSight(), max_new_tokens=3)
