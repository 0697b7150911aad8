"""What holds for every compressor by being in the registry."""

from __future__ import annotations

import dataclasses
import inspect
import random

import numpy as np
import pytest
import torch

import szilard
from szilard.compression.text import CompressedText
from szilard.engines import TransformersEngine
from szilard.registry import make_compressor
from tests.compression.small import small_compressor
from tests.conftest import tiny_model, tiny_tokenizer

ENTRIES = {slug: entry for slug, entry in szilard.methods().items() if entry.kind == "compressor"}
TEXTS = tuple(slug for slug, entry in ENTRIES.items() if entry.cls.gives == "text")
SOFT = tuple(slug for slug, entry in ENTRIES.items() if entry.cls.gives == "soft prompt")
BESIDE = {"arc-encoder": 1}  # <Cont>, which its papers' factors do not count
CONTEXTS = (
    "w10 w11 w12 w13 w14 w15 w16 w17 w18 w19 w20 w21 w22 w23 w24 w25 w26 w27 w28 w29 w30 w31 w32 w33",
    "w40 w41 w42 w43 w44 w45 w46 w47",
    "w50 w51 w52 w53 w54 w55 w56 w57 w58 w59 w60 w61",
)


@pytest.fixture
def engine():
    return TransformersEngine(tiny_model("llama"), tiny_tokenizer(), name="tiny")


@pytest.mark.parametrize("slug", ENTRIES)
def test_it_says_what_it_is(slug: str) -> None:
    entry = ENTRIES[slug]
    assert entry.slug == entry.cls.slug == slug and entry.family == "compression" and entry.paper
    assert dataclasses.is_dataclass(entry.cls) and entry.cls.__dataclass_params__.frozen
    assert entry.cls.gives in ("text", "soft prompt")
    documented = inspect.getdoc(entry.cls) or ""
    for field in dataclasses.fields(entry.cls):
        owners = "".join(inspect.getdoc(base) or "" for base in entry.cls.__mro__)
        assert field.name in owners, f"{field.name} is not explained in the docstring"
    assert documented


@pytest.mark.parametrize("slug", TEXTS)
def test_the_neutral_setting_gives_the_text_back(engine, slug: str) -> None:
    for text in (*CONTEXTS, "  w10\n\n\tw11  w12 \n"):
        assert szilard.compress(text, ENTRIES[slug].neutral(), engine=engine).text == text


@pytest.mark.parametrize("slug", SOFT)
def test_the_neutral_setting_is_plain_decoding(engine, slug: str) -> None:
    neutral = ENTRIES[slug].neutral()
    told = engine.generate("w9", context=CONTEXTS[0], max_new_tokens=8)
    soft = szilard.compress(CONTEXTS[0], neutral, engine=engine)
    assert engine.generate("w9", context=soft, max_new_tokens=8).tokens == told.tokens


@pytest.mark.parametrize("budget", [0.5, 0.25, 4])
@pytest.mark.parametrize("slug", TEXTS)
def test_words_are_kept_in_order_and_within_the_budget(engine, slug: str, budget) -> None:
    for text, found in zip(
        CONTEXTS, szilard.compress(list(CONTEXTS), small_compressor(slug, engine), budget, engine=engine), strict=True
    ):
        assert isinstance(found, CompressedText) and found.original == text and found.method == slug
        original = len(engine.tokenizer.encode(text, add_special_tokens=False))
        assert found.original_tokens == original
        assert found.compressed_tokens <= (budget if isinstance(budget, int) else int(budget * original))
        assert found.compressed_tokens == len(engine.tokenizer.encode(found.text, add_special_tokens=False))
        rest = iter(text.split())
        assert all(word in rest for word in found.text.split()), "not a subsequence"
        assert [text[start:end] for start, end in found.spans] == found.text.split()


@pytest.mark.parametrize("budget", [None, 0.5])
@pytest.mark.parametrize("slug", SOFT)
def test_positions_are_within_the_budget(engine, slug: str, budget) -> None:
    before = [parameter.clone() for parameter in engine.model.parameters()]
    method = small_compressor(slug, engine)
    for text, soft in zip(CONTEXTS, szilard.compress(list(CONTEXTS), method, budget, engine=engine), strict=True):
        original = len(engine.tokenizer.encode(text, add_special_tokens=False))
        assert soft.original_tokens == original and soft.method == slug and soft.model == engine.fingerprint
        assert soft.positions < original
        if budget is not None:
            assert soft.positions <= budget * original + BESIDE.get(slug, 0)
        assert soft.embeddings.shape[1] == 32 and bool(soft.embeddings.isfinite().all())
        assert not soft.embeddings.requires_grad
        result = engine.generate("w9", context=soft, max_new_tokens=2)
        head_and_tail = 3
        assert result.prompt_tokens == soft.positions + head_and_tail
    assert all(torch.equal(old, new) for old, new in zip(before, engine.model.parameters(), strict=True))


@pytest.mark.parametrize("slug", ENTRIES)
def test_a_context_gets_in_company_what_it_gets_alone(engine, slug: str) -> None:
    method = small_compressor(slug, engine)
    together = szilard.compress(list(CONTEXTS), method, 0.5, engine=engine)
    turned = szilard.compress(list(CONTEXTS[::-1]), method, 0.5, engine=engine)[::-1]
    for text, one, other in zip(CONTEXTS, together, turned, strict=True):
        alone = szilard.compress(text, method, 0.5, engine=engine)
        for found in (one, other):
            if ENTRIES[slug].cls.gives == "text":
                assert found.text == alone.text
            else:
                torch.testing.assert_close(found.embeddings, alone.embeddings, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("slug", ENTRIES)
def test_random_streams_of_the_program_are_left_alone(engine, slug: str) -> None:
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    szilard.compress(CONTEXTS[0], small_compressor(slug, engine), 0.5, engine=engine)
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]


@pytest.mark.parametrize("slug", ENTRIES)
def test_bad_input_is_told_in_a_sentence(engine, slug: str) -> None:
    method = small_compressor(slug, engine)
    for context, budget, kind, message in (
        ("", 0.5, ValueError, "the context is empty"),
        (["w10", " \n"], 0.5, ValueError, "context 2 is empty"),
        ([], 0.5, ValueError, "no context"),
        (["w10", 3], 0.5, TypeError, "context 2 must be text"),
        (CONTEXTS[1], 0, ValueError, r"budget must be a share of the tokens in \(0, 1\]"),
        (CONTEXTS[1], 1.5, ValueError, r"budget must be a share of the tokens in \(0, 1\]"),
        (CONTEXTS[1], float("nan"), ValueError, "budget must be"),
        (CONTEXTS[1], True, TypeError, "budget must be"),
        (CONTEXTS[1], "half", TypeError, "budget must be"),
        (CONTEXTS[1], 9, ValueError, "a budget of 9 .* is larger than the context, which has 8"),
    ):
        with pytest.raises(kind, match=message):
            szilard.compress(context, method, budget, engine=engine)
    with pytest.raises(ValueError, match="has no option 'nonsense'"):
        make_compressor(slug, {"nonsense": 1})


@pytest.mark.parametrize("slug", SOFT)
def test_vectors_need_an_engine_that_takes_them(slug: str, engine) -> None:
    with pytest.raises(ValueError, match="makes vectors for one model"):
        szilard.compress("w9 w10", small_compressor(slug, engine))


def test_compressors_are_no_decoding_methods() -> None:
    with pytest.raises(ValueError, match="shortens a context"):
        szilard.make_method("mean-pool")
    with pytest.raises(ValueError, match="there is no compressor 'mean-pol'; did you mean 'mean-pool'"):
        make_compressor("mean-pol")
    with pytest.raises(TypeError, match="method must be a name, a class or an object"):
        make_compressor(3)  # type: ignore[arg-type]
