"""The latent loop: where it stops, what it feeds, and that it is ordinary decoding where it should be."""

from html import escape

import pytest
import torch
from transformers import DynamicCache, GenerationConfig

import szilard
from szilard.decoding.page import Run, render_page
from szilard.reasoning.latent_sft.generate import latent_generate
from szilard.reasoning.latent_sft.method import LatentSFT
from szilard.reasoning.latent_sft.superposition import soft_embedding, superposition
from tests.conftest import EOS, prompt_batch, tiny_model
from tests.reasoning.latent_sft import tiny


def generate(model, inputs, method, **options):
    settings = {"max_new_tokens": 20, "do_sample": False, "return_dict_in_generate": True} | options
    return model.generate(**inputs, custom_generate=method, **settings)


def greedy(model, row, count=20):
    made = model.generate(input_ids=torch.tensor([row]), max_new_tokens=count, do_sample=False, pad_token_id=0)
    return made[0, len(row) :].tolist()


def prompts(inputs):
    pairs = zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
    return [ids[mask.bool()].tolist() for ids, mask in pairs]


def by_hand(model, row, k, close, steps=6, answer=5, feedback="soft_embedding"):
    """The published loop, which reads everything again at every step: (latent steps, answer)."""
    embed = model.get_input_embeddings()
    sequence = embed(torch.tensor([row]))
    latents = 0
    with torch.no_grad():
        while latents < steps:
            out = model(inputs_embeds=sequence, output_hidden_states=True)
            logits = out.logits[:, -1]
            if int(logits.argmax()) == close[0]:
                break
            z = soft_embedding(embed, *superposition(logits, k))
            if feedback == "hidden_state":
                z = out.hidden_states[-1][:, -1]
            sequence = torch.cat([sequence, z[:, None].to(sequence.dtype)], 1)
            latents += 1
        sequence = torch.cat([sequence, embed(torch.tensor([list(close)]))], 1)
        found = []
        while len(found) < answer and (not found or found[-1] != EOS):
            found.append(int(model(inputs_embeds=sequence).logits[:, -1].argmax()))
            sequence = torch.cat([sequence, embed(torch.tensor([[found[-1]]]))], 1)
    return latents, found


def stops_early(model, inputs, k=4):
    """An end of chain that some rows reach after a few steps."""
    method = LatentSFT(top_k=k, think_open=None, think_close=None)
    made = generate(model, inputs, method).sequences[:, inputs["input_ids"].shape[1] :]
    return int(made[0, 2])


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma3", "gpt2"])
@pytest.mark.parametrize("feedback", ["soft_embedding", "hidden_state"])
def test_the_cached_loop_is_reading_everything_again_at_every_step(architecture, feedback):
    model, inputs = tiny_model(architecture), prompt_batch(3)
    close = (stops_early(model, inputs), 5)
    method = LatentSFT(
        top_k=4,
        max_latent_steps=6,
        max_answer_tokens=5,
        think_open=None,
        think_close=close,
        stop="first_id",
        feedback=feedback,
    )
    out = generate(model, inputs, method)
    latent = out.trace["mode"] == "latent"
    for row, prompt in enumerate(prompts(inputs)):
        steps, answer = by_hand(model, prompt, 4, close, feedback=feedback)
        assert int(latent[out.trace["row"] == row].sum()) == steps
        got = out.sequences[row, inputs["input_ids"].shape[1] :].tolist()
        assert got[steps : steps + 2 + len(answer)] == [*close, *answer]
    assert out.cost.counters["latent_steps"] == int(latent.sum())


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "gpt2"])
def test_superpositions_of_one_token_are_greedy_decoding(architecture):
    model, inputs = tiny_model(architecture), prompt_batch(3)
    method = LatentSFT(top_k=1, think_open=None, think_close=(40,))
    plain = model.generate(**inputs, max_new_tokens=20, do_sample=False)
    assert torch.equal(generate(model, inputs, method).sequences, plain)


def test_a_whole_end_of_several_ids_ends_a_chain_and_half_of_one_does_not():
    model, inputs = tiny_model("llama"), prompt_batch(1)
    (prompt,) = prompts(inputs)
    text = greedy(model, prompt)
    place = next(i for i in range(2, 15) if text.index(text[i]) == i)  # says it there for the first time
    whole, half = (text[place], text[place + 1]), (text[place], text[place + 1] ^ 1)
    common = {"top_k": 1, "think_open": None, "max_latent_steps": None}
    for close, stop, steps in (
        (whole, "whole", place),
        (whole, "first_id", place),
        (half, "first_id", place),
        (half, "whole", 20),
    ):
        out = generate(model, inputs, LatentSFT(think_close=close, stop=stop, **common))
        assert out.cost.counters["latent_steps"] == steps
        assert out.sequences[0, len(prompt) :].tolist() == (
            text
            if close == whole or steps == 20
            else text[:place] + list(half) + out.sequences[0, len(prompt) + place + 2 :].tolist()
        )
    out = generate(model, inputs, LatentSFT(think_close=whole, stop="whole", **common))
    assert out.cost.forward_passes == {"LlamaForCausalLM": 21}  # one more than tokens: the look ahead


def test_a_chain_that_ends_at_once_has_no_latent_step():
    model, inputs = tiny_model("llama"), prompt_batch(1)
    (prompt,) = prompts(inputs)
    first = greedy(model, prompt, 1)[0]
    out = generate(model, inputs, LatentSFT(top_k=4, think_open=None, think_close=(first,)))
    assert "latent_steps" not in out.cost.counters
    assert out.sequences[0, len(prompt) :].tolist() == greedy(model, prompt)


@pytest.mark.parametrize("most", [0, 3])
def test_a_chain_that_does_not_end_is_ended(most):
    model, inputs = tiny_model("llama"), prompt_batch(2)
    method = LatentSFT(top_k=4, think_open=None, think_close=(90, 91), max_latent_steps=most)
    out = generate(model, inputs, method)
    width = inputs["input_ids"].shape[1]
    assert out.sequences[:, width + most : width + most + 2].tolist() == [[90, 91]] * 2
    assert out.cost.counters.get("latent_steps", 0) == 2 * most


def test_the_beginning_of_the_chain_is_put_behind_a_prompt_that_lacks_it():
    model, inputs = tiny_model("llama"), prompt_batch(2)
    method = LatentSFT(top_k=4, think_open=(5, 6), think_close=None)
    without = generate(model, inputs, method, max_new_tokens=8)
    width = inputs["input_ids"].shape[1]
    assert without.sequences[:, width : width + 2].tolist() == [[5, 6]] * 2
    opened = {
        "input_ids": torch.cat([inputs["input_ids"], torch.tensor([[5, 6]] * 2)], 1),
        "attention_mask": torch.cat([inputs["attention_mask"], torch.ones(2, 2, dtype=torch.long)], 1),
    }
    assert torch.equal(without.sequences, generate(model, opened, method, max_new_tokens=6).sequences)


def test_a_prompt_whose_chain_is_closed_is_answered_in_words():
    model = tiny_model("llama")
    ids = torch.tensor([[9, 10, 40]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    out = generate(model, inputs, LatentSFT(top_k=4, think_open=(41,), think_close=(40,)))
    assert out.sequences[0, 3:].tolist() == greedy(model, [9, 10, 40])


def test_noise_changes_chains_and_a_seed_repeats_it(engine):
    def run(scale, seed):
        method = LatentSFT(top_k=8, gumbel_scale=scale, think_open=None, think_close=None)
        return engine.generate("w20 w30 w40", method=method, max_new_tokens=16, seed=seed).tokens

    assert run(2.0, 1) == run(2.0, 1)
    assert len({tuple(run(2.0, seed)) for seed in range(4)}) > 1
    assert run(0.0, 1) == run(0.0, 2)


def test_an_answer_is_drawn_where_the_run_samples_and_a_chain_is_not(engine):
    method = LatentSFT(top_k=4, max_latent_steps=4, think_open=None, temperature=3.0, top_p=1.0)
    runs = [
        engine.generate("w20 w30 w40", method=method, max_new_tokens=16, seed=seed, do_sample=True).tokens
        for seed in range(3)
    ]
    assert len({tuple(run[:5]) for run in runs}) == 1 and len(set(map(tuple, runs))) == 3


def test_what_is_left_open_is_as_the_model_was_trained():
    model = tiny.arithmetic_model()
    assert LatentSFT().as_trained(model).top_k == 10
    model.config.latent_sft = {"top_k": 3, "think_open": "<BOT>", "think_close": "<EOT>", "feedback": "hidden_state"}
    method = LatentSFT(think_close="</think>").as_trained(model)
    assert (method.top_k, method.think_open, method.think_close) == (3, "<BOT>", "</think>")
    assert method.feedback == "hidden_state"


def test_a_trace_page_shows_the_candidates_of_every_latent_step(engine, tmp_path):
    method = LatentSFT(top_k=4, max_latent_steps=3, think_open=None)
    result = engine.generate("w20 w30 w40", method=method, max_new_tokens=8)
    steps = list(result.trace)
    assert [step.mode for step in steps[:4]] == ["latent"] * 3 + ["discrete"]
    assert [len(step.candidates or ()) for step in steps[:4]] == [4, 4, 4, 0]
    assert steps[3].text.strip() == "</think>" and result.trace.summary()["latent_steps"] == 3
    page = render_page([Run("latent-sft", result.prompt, result.trace)], title="a chain")
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    read = (tmp_path / "page.html").read_text(encoding="utf-8")
    text = read[read.index('<div class="text"') :]
    for step in steps[:3]:
        assert sum(candidate.weight for candidate in step.candidates) == pytest.approx(1)
        assert all(escape(candidate.text) in text for candidate in step.candidates[:3])  # in the text itself
        assert all(candidate.text.strip(" <>/") in read for candidate in step.candidates)  # in the details
    assert "show mixtures" in read and "latent step" in read


@pytest.fixture
def small():
    return tiny.arithmetic_model(2), tiny.tokenizer()


def test_the_door_for_plain_transformers_answers_batches_as_single_problems(small):
    model, tok = small
    asked = [one.problem for one in tiny.problems(5)]
    options = {"max_latent_steps": 6, "max_new_tokens": 4, "return_latents": 7}
    method = LatentSFT(top_k=3)
    together = latent_generate(model, tok, asked, method=method, **options)
    for problem, one in zip(asked, together, strict=True):
        alone = latent_generate(model, tok, problem, method=method, **options)
        assert (alone.tokens, alone.chain, alone.text) == (one.tokens, one.chain, one.text)
        assert one.latent_steps == len(one.chain) <= 6 and len(one.tokens) <= 4
        if one.latents is not None:
            assert one.latents.probabilities.shape == (one.latent_steps, 3) == one.latents.tokens.shape
            assert one.latents.likeliest.shape == (one.latent_steps, 7) == one.latents.shares.shape
            assert one.latents.likeliest[:, 0].tolist() == one.chain
            close = torch.allclose(alone.latents.probabilities, one.latents.probabilities, atol=1e-4)
            assert close and bool((one.latents.shares.sum(-1) <= 1 + 1e-5).all())
    assert any(one.latents is not None for one in together)


def test_the_door_takes_a_cache_and_a_configuration(small):
    model, tok = small
    problem = tiny.problems(1)[0].problem
    plain = latent_generate(model, tok, problem, max_latent_steps=3, max_new_tokens=4)
    cache = DynamicCache(config=model.config)
    same = latent_generate(model, tok, problem, max_latent_steps=3, max_new_tokens=4, past_key_values=cache)
    assert plain.tokens == same.tokens and cache.get_seq_length() > 0
    config = GenerationConfig(suppress_tokens=[plain.tokens[0]])
    other = latent_generate(model, tok, problem, max_latent_steps=3, max_new_tokens=4, generation_config=config)
    assert other.tokens[0] != plain.tokens[0]
    drawn = latent_generate(model, tok, problem, max_latent_steps=3, max_new_tokens=4, do_sample=True)
    assert drawn.latent_steps == plain.latent_steps


def test_all_of_the_vocabulary_can_be_mixed(small):
    model, tok = small
    found = latent_generate(
        model, tok, tiny.problems(1)[0].problem, method=LatentSFT(top_k=0), max_latent_steps=3, return_latents=True
    )
    assert found.latents.tokens is None and found.latents.probabilities.shape == (3, len(tok))


@pytest.mark.parametrize(
    ("made", "error"),
    [
        (lambda: LatentSFT(top_k=-1), "top_k must be at least 0, not -1"),
        (lambda: LatentSFT(stop="soon"), "stop must be one of 'whole', 'first_id', not 'soon'"),
        (lambda: LatentSFT(feedback="words"), "feedback must be one of"),
        (lambda: latent_generate(None, None, []), "prompt must be a problem"),
        (lambda: latent_generate(None, None, ["a", " "]), "prompt must be a problem"),
        (lambda: latent_generate(None, None, "a", max_new_tokens=0), "max_new_tokens must be at least 1"),
        (lambda: latent_generate(None, None, ["a"] * 3, batch_size=2, past_key_values=1), "one cache serves one batch"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(made, error):
    with pytest.raises(ValueError, match=error):
        made()


def test_an_engine_without_embeddings_is_refused(engine):
    engine.provides = engine.provides - {"embeddings_in"}
    with pytest.raises(ValueError, match="'latent-sft' needs embeddings_in"):
        engine.generate("w20", method=szilard.LatentSFT())
    engine.provides = engine.provides - {"hidden_states"} | {"embeddings_in"}
    with pytest.raises(ValueError, match="feedback='hidden_state' needs hidden states"):
        engine.generate("w20", method=szilard.LatentSFT(feedback="hidden_state"))
