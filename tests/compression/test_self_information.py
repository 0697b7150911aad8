"""Selective Context and LLMLingua: what a language model says of tokens, and what is dropped for it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from szilard.compression.llmlingua import LlmLingua
from szilard.compression.selective_context import SelectiveContext, phrases, units
from szilard.compression.self_information import self_information
from szilard.compression.words import as_spans
from szilard.registry import make_compressor

BOTH = ["selective-context", "llmlingua"]
ENDED = 2  # the id of <bos> of the tiny tokenizer


def words(count: int, seed: int = 0) -> str:
    return " ".join(f"w{number}" for number in np.random.default_rng(seed).integers(10, 90, count))


@torch.no_grad()
def nats(model, ids: list[int], before: list[int] | None = None) -> np.ndarray:
    """From one plain forward."""
    before = before or [ENDED]
    logits = model(torch.tensor([[*before, *ids]])).logits[0, len(before) - 1 : -1]
    chosen = torch.log_softmax(logits.double(), -1).gather(1, torch.tensor(ids)[:, None])
    return -chosen[:, 0].numpy()


@torch.no_grad()
def test_the_self_information_is_that_of_a_plain_forward(engine):
    rows = [engine.tokenizer.encode(words(count, count)) for count in (40, 3, 1)]
    found, cost = self_information(engine, rows)
    for row, own in zip(rows, found, strict=True):
        np.testing.assert_allclose(own, nats(engine.model, row), atol=1e-4)
    assert cost["tokens"] == 3 * (1 + 40)


@torch.no_grad()
def test_long_texts_are_read_in_windows_that_overlap(engine):
    row = engine.tokenizer.encode(words(50))
    found, _ = self_information(engine, [row], window=24, overlap=8)
    whole = nats(engine.model, row)
    np.testing.assert_allclose(found[0][:24], whole[:24], atol=1e-4)
    np.testing.assert_allclose(found[0][24:40], nats(engine.model, row[16:40])[8:], atol=1e-4)
    assert len(found[0]) == 50 and (found[0] > 0).all()


@pytest.mark.parametrize("slug", BOTH)
def test_the_finished_text_fits_the_budget_and_keeps_the_order(slug, engine):
    text = words(90)
    for budget in (0.2, 0.5, 17):
        (left,) = make_compressor(slug).compress([text], budget, engine=engine)
        limit = budget if isinstance(budget, int) else int(budget * 90)
        whole = 8 if slug == "selective-context" else 1  # words of a phrase
        assert limit - whole < left.compressed_tokens == len(left.text.split()) <= limit
        rest = iter(text.split())
        assert all(word in rest for word in left.text.split())


@pytest.mark.parametrize("slug", BOTH)
def test_a_text_alone_is_shortened_as_in_a_batch(slug, engine):
    texts = [words(count, count) for count in (70, 9, 31, 120)]
    options = {"segment": 20, "window": 60} if slug == "llmlingua" else {"window": 60, "overlap": 10}
    compressor = make_compressor(slug, options)
    together = compressor.compress(texts, 0.4, engine=engine)
    for text, left in zip(texts, together, strict=True):
        assert compressor.compress([text], 0.4, engine=engine)[0].text == left.text


@pytest.mark.parametrize("slug", BOTH)
def test_what_must_stay_stays(slug, engine):
    text = words(60)
    wanted = text.split()[7]
    (left,) = make_compressor(slug, {"keep": [wanted], "unit": "word"}).compress([text], 0.1, engine=engine)
    assert wanted in left.text.split() and left.compressed_tokens <= 6


@pytest.mark.parametrize("slug", BOTH)
def test_without_a_language_model_everything_stays_or_a_sentence_tells(slug, engine):
    cls = type(make_compressor(slug))
    assert cls.neutral().compress(["w10  w11"])[0].text == "w10  w11"
    for refused in (lambda: cls().compress(["w10 w11"]), lambda: cls.neutral().compress(["w10 w11"], 0.5)):
        with pytest.raises(ValueError, match="scorer"):
            refused()
    (left,) = cls(scorer=engine, unit="word").compress([words(20)], 0.5)
    assert left.counted_by == "words" and left.compressed_tokens == 10


def test_selective_context_keeps_the_largest_means(engine):
    text = words(40)
    method = SelectiveContext(unit="word")
    (left,) = method.compress([text], 0.25, engine=engine)
    own = nats(engine.model, engine.tokenizer.encode(text))
    assert sorted(np.flatnonzero(left.kept)) == sorted(np.argsort(-own, kind="stable")[:10])
    (sums,) = SelectiveContext(unit="sentence", total=True).compress(["w11 w12. w13 w14 w15"], 1.0, engine=engine)
    (means,) = SelectiveContext(unit="sentence").compress(["w11 w12. w13 w14 w15"], 1.0, engine=engine)
    tokens = [word.tokens for word in means.words]
    assert [a.score for a in sums.words] == pytest.approx(
        [b.score * count for b, count in zip(means.words, tokens, strict=True)], rel=1e-5
    )


def test_units_cover_the_text_but_for_white_space():
    text = "The code of the old door, by the way, is 4817 now.\nAsk Berta."
    places = as_spans([(0, 3), (3, 8), (8, 11)])
    assert [text[a:b] for a, b in units(text, places, "token")] == ["The", "code", "of"]
    for unit in ("word", "phrase", "sentence"):
        found = units(text, places, unit)
        assert "".join(text[a:b] for a, b in found).replace(" ", "") == text.replace(" ", "").replace("\n", "")
    assert [text[a:b] for a, b in phrases(text)[:6]] == [
        "The code",
        "of the old door",
        ",",
        "by the way",
        ",",
        "is 4817",
    ]


@torch.no_grad()
def test_llmlingua_scores_a_segment_behind_what_was_kept(engine):
    text, segment = words(50), 10
    ids = engine.tokenizer.encode(text)
    kept: list[int] = []
    scores: list[float] = []
    for start in range(0, 50, segment):
        own = nats(engine.model, ids[start : start + segment], [ENDED, *kept])
        scores += own.tolist()
        stay = sorted(np.argsort(-own, kind="stable")[:4])
        kept += [ids[start + index] for index in stay]
    (left,) = LlmLingua(segment=segment).compress([text], 0.4, engine=engine)
    np.testing.assert_allclose([word.score for word in left.words], scores, atol=1e-4)
    assert engine.tokenizer.encode(left.text) == kept


def test_llmlingua_keeps_an_equal_share_of_every_segment(engine):
    (left,) = LlmLingua(segment=20).compress([words(100)], 0.3, engine=engine)
    assert [sum(left.kept[start : start + 20]) for start in range(0, 100, 20)] == [6] * 5


def test_llmlingua_reads_texts_longer_than_its_window(engine):
    (left,) = LlmLingua(segment=16, window=40).compress([words(400)], 0.5, engine=engine)
    assert left.compressed_tokens == 200 and left.cost["tokens"] > 400


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="half of window"):
        LlmLingua(segment=100, window=150)
    with pytest.raises(ValueError, match="thresholds are of segments"):
        LlmLingua(selection="corpus")
    with pytest.raises(ValueError, match="unit must be one of"):
        SelectiveContext(unit="clause")


def test_a_tokenizer_that_does_not_tell_places_is_refused(engine, monkeypatch):
    monkeypatch.setattr(type(engine.tokenizer), "is_fast", False)
    with pytest.raises(ValueError, match="another scorer"):
        SelectiveContext(scorer=engine, count_tokens=len).compress([words(10)], 5)


@pytest.mark.llama
def test_llama_cpp_tells_the_same(embedded):
    pytest.importorskip("llama_cpp")
    import szilard

    other = szilard.load(engine="llama.cpp")
    text = "The access code of Berta is 4817, and it was a day like any other day."
    mine, theirs = (self_information(one, [one.tokenizer.encode(text)])[0][0] for one in (embedded, other))
    assert np.corrcoef(mine, theirs)[0, 1] > 0.95
    (left,) = LlmLingua(segment=8, window=64).compress([text], 0.5, engine=other)
    assert left.compressed_tokens <= left.original_tokens // 2
