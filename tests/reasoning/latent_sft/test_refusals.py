"""What latent reasoning refuses, and which labels it does not take for its own."""

import json

import pytest
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from szilard.engines import TransformersEngine
from szilard.reasoning.examples import Reasoning
from szilard.reasoning.latent_sft.config import LatentSFTConfig
from szilard.reasoning.latent_sft.encoder import LatentTokenEncoder
from szilard.reasoning.latent_sft.generate import latent_generate
from szilard.reasoning.latent_sft.labels import weights_digest
from szilard.reasoning.latent_sft.method import LatentSFT
from szilard.reasoning.latent_sft.samples import as_samples
from szilard.reasoning.latent_sft.training import train_latent_sft
from szilard.reasoning.supervised import Chains, SupervisedConfig
from szilard.reasoning.tasks import number_tokenizer
from tests.reasoning.latent_sft.tiny import arithmetic_model, config, problems, tokenizer


@pytest.fixture(scope="module")
def small():
    return arithmetic_model(), tokenizer()


def _untied(vocab: int) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            tie_word_embeddings=False,
        )
    )


def test_a_delimiter_that_the_tokenizer_lacks_is_refused() -> None:
    tokenizer = number_tokenizer(5)
    with pytest.raises(ValueError, match="think_close='</nothing>' is not in this tokenizer"):
        latent_generate(_untied(len(tokenizer)), tokenizer, "1 + 2 =", method=LatentSFT(think_close="</nothing>"))


@pytest.mark.parametrize(("readout", "counts"), [("lm_head", True), ("input_embedding", False)])
def test_labels_depend_on_the_head_that_they_are_read_out_with(readout: str, counts: bool) -> None:
    model = _untied(20)
    encoder = LatentTokenEncoder.from_pretrained(model, LatentSFTConfig(readout=readout))
    before = weights_digest(encoder)
    with torch.no_grad():
        model.lm_head.weight += 1
    assert (weights_digest(encoder) != before) is counts


def test_a_generation_config_is_followed_and_what_is_given_beside_it_goes_before_it(small) -> None:
    model, tok = small
    long = GenerationConfig(max_new_tokens=6, do_sample=False)
    problem = problems(1)[0].problem
    most = [
        len(latent_generate(model, tok, problem, max_latent_steps=2, generation_config=long, **given).tokens)
        for given in ({}, {"max_new_tokens": 2})
    ]
    assert most[0] <= 6 and most[1] <= 2 and long.max_new_tokens == 6
    hot, greedy = LatentSFT(temperature=9.0), latent_generate(model, tok, problem, max_latent_steps=2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = GenerationConfig(do_sample=True)
        found = latent_generate(model, tok, problem, method=hot, max_latent_steps=2, generation_config=drawn)
    assert found.tokens != greedy.tokens


def test_any_of_several_end_tokens_ends_an_answer(small) -> None:
    model, tok = small
    whole = latent_generate(model, tok, problems(1)[0].problem, max_latent_steps=2, max_new_tokens=6)
    first = whole.tokens[0]
    cut = latent_generate(
        model, tok, problems(1)[0].problem, max_latent_steps=2, max_new_tokens=6, eos_token_id=[tok.eos_token_id, first]
    )
    assert cut.tokens == [first]


@pytest.mark.parametrize("prompt", [5, None, [], ["1 + 2 =", ""], {"a": 1}])
def test_what_is_no_problem_is_refused(small, prompt) -> None:
    with pytest.raises((ValueError, TypeError), match="prompt must be a problem"):
        latent_generate(*small, prompt)


@pytest.mark.parametrize("cot", ["<think> 1 + 2 = 3 </think>", "1 + 2 = 3 </think>", " <think>1 + 2 = 3"])
def test_delimiters_at_the_ends_of_a_chain_are_taken_off(cot) -> None:
    tok = tokenizer()
    plain, marked = (Reasoning("1 + 2 =", text, "3") for text in ("1 + 2 = 3", cot))
    assert as_samples([marked], tok, config()) == as_samples([plain], tok, config())
    assert Chains([marked], tok, SupervisedConfig()).rows == Chains([plain], tok, SupervisedConfig()).rows


def test_a_delimiter_inside_a_chain_is_refused() -> None:
    bad = [Reasoning("1 + 2 =", "1 + </think> 2 = 3", "3")]
    with pytest.raises(ValueError, match="holds think_close='</think>' inside"):
        as_samples(bad, tokenizer(), config())
    with pytest.raises(ValueError, match="holds think_close='</think>' inside"):
        Chains(bad, tokenizer(), SupervisedConfig())


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"max_latent_steps": 80, "max_answer_tokens": 30}, "lower one of them"),
        ({"lora": False}, "loses small steps"),
    ],
)
def test_what_training_refuses_it_refuses_before_it_makes_a_folder(tmp_path, settings, told) -> None:
    data = tmp_path / "data.jsonl"
    rows = [{"problem": one.problem, "cot": one.cot, "answer": one.answer} for one in problems(20)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    model = arithmetic_model()
    if not settings.get("lora", True):
        model = model.to(torch.bfloat16)
    engine = TransformersEngine(model, tokenizer(), name="small")
    with pytest.raises(ValueError, match=told):
        train_latent_sft(engine, data, config(**settings), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_method_with_a_delimiter_that_the_tokenizer_lacks_is_refused() -> None:
    engine = TransformersEngine(arithmetic_model(), tokenizer(), name="small")
    with pytest.raises(ValueError, match="think_close='</nothing>' is not in this tokenizer"):
        engine.generate("1 + 2 =", method=LatentSFT(think_close="</nothing>"), max_new_tokens=4, raw=True)
