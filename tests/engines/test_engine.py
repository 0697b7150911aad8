"""Prompts in, results out: the engine's doors on a tiny model."""

from __future__ import annotations

import time

import pytest
import torch
from transformers import StoppingCriteria

import szilard
from tests.conftest import VOCAB, prompt_batch, tiny_model


def test_one_prompt_gives_one_result_and_a_list_gives_a_list(engine):
    one = engine.generate("w10 w11", max_new_tokens=5)
    many = engine.generate(["w10 w11", "w12 w13 w14 w15"], max_new_tokens=5)
    assert isinstance(one.text, str) and len(one.tokens) <= 5
    assert many[0].tokens == one.tokens
    assert many[1].prompt_tokens == 6


def test_a_text_is_a_user_turn_and_raw_text_is_not(engine):
    assert engine.generate("w10", max_new_tokens=1).prompt == "<user> w10 <bot>"
    assert engine.generate([{"role": "user", "content": "w10"}], max_new_tokens=1).prompt == "<user> w10 <bot>"
    assert engine.generate("w10", max_new_tokens=1, raw=True).prompt == "w10"


def test_token_ids_are_prompts_too(engine):
    by_ids = engine.generate(torch.tensor([3, 10, 4]), max_new_tokens=6)
    assert by_ids.tokens == engine.generate("w10", max_new_tokens=6).tokens
    assert engine.generate([3, 10, 4], max_new_tokens=6).tokens == by_ids.tokens


def test_greedy_is_what_generate_gives(engine):
    inputs = prompt_batch(3)
    theirs = tiny_model("llama").generate(**inputs, max_new_tokens=10, do_sample=False)[:, 11:]
    prompts = [ids[mask.bool()] for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)]
    for ours, row in zip(engine.generate(prompts, max_new_tokens=10), theirs.tolist(), strict=True):
        assert row[: len(ours.tokens)] == ours.tokens


def test_a_seed_repeats_sampling_and_leaves_the_generator_alone(engine):
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = engine.generate("w10", do_sample=True, temperature=3.0, seed=3, max_new_tokens=20)
    assert torch.equal(before, torch.random.get_rng_state())
    assert engine.generate("w10", do_sample=True, temperature=3.0, seed=3, max_new_tokens=20).tokens == first.tokens
    assert engine.generate("w10", do_sample=True, temperature=3.0, seed=4, max_new_tokens=20).tokens != first.tokens
    own = szilard.Sampling(temperature=3.0, seed=3)
    assert (
        engine.generate("w10", own, max_new_tokens=20).tokens == engine.generate("w10", own, max_new_tokens=20).tokens
    )


def test_stop_texts_that_the_tokenizer_cannot_match_are_refused(engine):
    with pytest.raises(ValueError, match="stop texts do not work with the tokenizer of tiny"):
        engine.generate("w10", max_new_tokens=3, stop="w20")  # its words are no pieces of text


def test_sampling_by_name_takes_the_settings(engine):
    cold = engine.generate("w10", "sampling", do_sample=True, temperature=1e-5, seed=1, max_new_tokens=12)
    assert cold.tokens == engine.generate("w10", max_new_tokens=12).tokens
    assert cold.method == szilard.Sampling(temperature=1e-5)


def test_seeded_runs_in_threads_do_not_disturb_one_another(engine):
    from concurrent.futures import ThreadPoolExecutor

    def draw(_):
        return engine.generate("w10", do_sample=True, temperature=3.0, seed=1, max_new_tokens=30).tokens

    with ThreadPoolExecutor(3) as pool:
        assert len({tuple(tokens) for tokens in pool.map(draw, range(6))}) == 1


def test_a_chat_that_the_template_refuses_is_the_users_to_mend(engine):
    engine.tokenizer.chat_template = "{{ raise_exception('no system turns here') }}"
    with pytest.raises(ValueError, match="refuses this chat: no system turns here"):
        engine.generate([{"role": "system", "content": "w10"}])


def test_a_state_of_ones_own_tracks_no_gradients(engine):
    state = engine.state("w10", max_new_tokens=4)
    assert not state.prefill().requires_grad and not state.feed(torch.tensor([5])).requires_grad


def test_streamed_pieces_join_to_the_text_and_the_result_comes_last(engine):
    pieces, stream = [], engine.stream("w10", szilard.Lead(), max_new_tokens=12)
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            result = end.value
            break
    assert "".join(pieces).strip() == result.text.strip()
    assert result.tokens == engine.generate("w10", szilard.Lead(), max_new_tokens=12).tokens


def test_closing_a_stream_stops_the_generation(engine):
    class Slow(StoppingCriteria):
        steps = 0

        def __call__(self, input_ids, scores, **kwargs):
            Slow.steps += 1
            time.sleep(0.02)
            return torch.zeros(input_ids.shape[0], dtype=torch.bool)

    stream = engine.stream("w10", max_new_tokens=200, stopping_criteria=[Slow()], eos_token_id=-1)
    next(stream)
    stream.close()
    assert Slow.steps < 100


def test_an_error_inside_a_stream_reaches_the_consumer(engine):
    with pytest.raises(ValueError, match="empty"):
        list(engine.stream(""))


def test_a_state_of_ones_own_runs_the_documented_loop(engine):
    state = engine.state("w10 w11", max_new_tokens=8)
    with torch.no_grad():
        logits = state.prefill()
        while True:
            tokens = state.choose(logits)
            state.commit(tokens)
            if state.done:
                break
            logits = state.feed(tokens)[:, -1]
    assert state.generated_tokens() == [engine.generate("w10 w11", max_new_tokens=8).tokens]


def test_markers_given_as_text_are_found_with_the_tokenizer(engine):
    result = engine.generate("w10", szilard.Lead(window=0, max_switches=0), max_new_tokens=40)
    assert "</think>" in result.text


BAD = [
    ({"prompt": ""}, "prompt is empty"),
    ({"prompt": "   "}, "prompt is empty"),
    ({"prompt": []}, "prompt is empty"),
    ({"prompt": 5}, "a prompt is text"),
    ({"prompt": "w10 " * 300}, "context window of 256"),
    ({"prompt": "w10", "max_new_tokens": 255}, "at most 253 new tokens fit"),
    ({"prompt": "w10", "max_new_tokens": 0}, "max_new_tokens must be"),
    ({"prompt": torch.tensor([3, 400])}, "token id 400 is outside the vocabulary"),
    ({"prompt": torch.tensor([-1])}, "token id -1 is outside the vocabulary"),
    ({"prompt": [{"role": "user"}]}, "'role', 'content'"),
    ({"prompt": "w10", "method": "leed"}, "did you mean 'lead'"),
    ({"prompt": "w10", "method": "greedy", "do_sample": True}, "greedy never draws"),
    ({"prompt": "w10", "method": 7}, "method must be"),
    ({"prompt": "w10", "temprature": 1.0}, "did you mean 'temperature'"),
    ({"prompt": "w10", "images": "x.png"}, "text model and cannot take images"),
    ({"prompt": "w10", "stop": ""}, "stop must be text"),
    ({"prompt": "w10", "seed": "one"}, "seed must be"),
    ({"prompt": "w10", "seed": 2**64}, "seed must be"),
    ({"prompt": b"w10"}, "a prompt is text"),
    ({"prompt": torch.tensor(3)}, "1-D or 2-D"),
    ({"prompt": "w10", "stop": 5}, "stop must be text"),
    ({"prompt": "w10", "temperature": 2.0}, "only acts with do_sample=True"),
    ({"prompt": "w10", "method": szilard.Sampling(), "do_sample": True, "top_p": 0.5}, "settings of its own"),
    ({"prompt": ["w10"], "images": ["a", "b"]}, "one entry"),
]


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=[words for _, words in BAD])
def test_bad_input_is_refused_in_one_sentence_before_any_work(engine, monkeypatch, arguments, words):
    monkeypatch.setattr(engine.model, "forward", None)  # any forward would break
    with pytest.raises((ValueError, TypeError), match=words) as caught:
        engine.generate(**arguments)
    assert "\n" not in str(caught.value)


def test_the_text_keeps_its_first_space_and_stops_do_not_see_the_prompt():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from szilard.engines import TransformersEngine

    words = ["<unk>", "</s>", "\u2581", *"abcdefghijklmnopqrstuvwxyz"]
    options = {"max_new_tokens": 6, "suppress_tokens": list(range(len(words)))}
    words += [f"\u2581w{index}" for index in range(len(words), VOCAB)]
    backend = Tokenizer(models.Unigram([(word, -1.0) for word in words], unk_id=0))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")
    engine = TransformersEngine(tiny_model("llama"), tokenizer, name="tiny")
    result = engine.generate("w30 w40 w50", raw=True, **options)
    assert tokenizer.decode(result.tokens)[0] == "w" and result.text == " " + tokenizer.decode(result.tokens)
    assert "".join(result.trace["text"]) == result.text
    first, second = result.text.split()[:2]
    crossing = engine.generate("w30 w40 w50", raw=True, **options, stop=[f"w50 {first}", f"{first} {second}"])
    assert crossing.tokens == result.tokens[:2] and crossing.finish_reason == "stop"
