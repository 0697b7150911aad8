"""The embedded SmolLM2-135M: where only a real model will do."""

from __future__ import annotations

import pytest
import torch

import szilard
from szilard.engines.transformers_state import TransformersState

pytestmark = pytest.mark.embedded
PROMPTS = ["Why is the sky blue?", "What is 12 times 7? Think step by step.", "Name two metals.", "Hi"]


def test_greedy_is_exactly_what_generate_gives(embedded):
    inputs = embedded.encode(PROMPTS[:2])
    theirs = embedded.model.generate(**inputs, max_new_tokens=24, do_sample=False)
    ours = embedded.model.generate(**inputs, max_new_tokens=24, do_sample=False, custom_generate=szilard.Greedy())
    assert torch.equal(theirs, ours)


@pytest.mark.parametrize("prompts", [PROMPTS[:1], PROMPTS])
@pytest.mark.parametrize("do_sample", [False, True])
def test_neutral_lead_gives_exactly_the_tokens_of_plain_decoding(embedded, prompts, do_sample):
    inputs = embedded.encode(prompts)
    settings = {"max_new_tokens": 16, "do_sample": do_sample, "temperature": 0.8 if do_sample else None}
    torch.manual_seed(2)
    theirs = embedded.model.generate(**inputs, **settings)
    torch.manual_seed(2)
    ours = embedded.model.generate(**inputs, **settings, custom_generate=szilard.Lead.neutral())
    assert torch.equal(theirs, ours)


def test_the_vector_of_a_latent_step_is_the_weighted_sum_of_embedding_rows(embedded, monkeypatch):
    fed, original = [], TransformersState.feed

    def feed(self, tokens=None, embeddings=None, **options):
        fed.append(embeddings)
        return original(self, tokens, embeddings, **options)

    monkeypatch.setattr(TransformersState, "feed", feed)
    out = embedded.model.generate(
        **embedded.encode(PROMPTS[1:2]),
        custom_generate=szilard.Lead(window=4),
        max_new_tokens=16,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
    )
    table = embedded.model.get_input_embeddings().weight.double()
    latent = out.trace["mode"] == "latent"
    assert latent.any()
    for step, embeddings in enumerate(fed):
        if latent[step]:
            exact = torch.softmax(out.logits[step][0].double(), -1) @ table
            assert torch.allclose(embeddings[0, 0].double(), exact, atol=1e-5)


def test_a_stop_text_ends_the_row(embedded):
    free = embedded.generate(PROMPTS[0], max_new_tokens=24)
    word = free.text.split()[5]
    stopped = embedded.generate(PROMPTS[0], max_new_tokens=24, stop=word)
    assert stopped.finish_reason == "stop" and word in stopped.text
    assert len(stopped.tokens) < len(free.tokens) and stopped.tokens == free.tokens[: len(stopped.tokens)]


def test_the_trace_spells_the_text(embedded):
    result = embedded.generate(PROMPTS[0], szilard.Lead(), max_new_tokens=16)
    assert "".join(result.trace["text"]) == embedded.tokenizer.decode(result.tokens)


def test_a_second_load_takes_its_weights_from_the_converted_folder(embedded):
    from szilard.engines.gguf import converted
    from szilard.engines.loading import find

    path, _ = find(None)
    folder = converted(path)
    assert (folder / "model.safetensors").is_file()
    assert embedded.model.name_or_path == str(folder)
