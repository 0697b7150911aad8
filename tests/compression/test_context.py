"""Contexts beside a prompt, as text, as vectors, and from a store."""

from __future__ import annotations

import json

import pytest
import torch

import szilard
from szilard.compression.store import StoredContext
from szilard.compression.text import CompressedText, Word
from szilard.engines import TransformersEngine
from szilard.engines.prepared_context import SoftPrompt
from tests.conftest import tiny_model, tiny_tokenizer

CONTEXT = "w20 w21 w22 w23 w24 w25"
PROMPTS = ["w30 w31", "w32", "w33 w34 w35 w36 w37"]


def soft_of(engine, text: str) -> SoftPrompt:
    ids = torch.tensor(engine.tokenizer.encode(text, add_special_tokens=False))
    return SoftPrompt(engine.model.get_input_embeddings()(ids).detach(), len(ids), "test", engine.fingerprint)


def text_of(text: str) -> CompressedText:
    return CompressedText(text, text + " w9", (Word(0, 3, 0.5, 1, True),), 7, 6, "test", "words")


def tokens_of(results) -> list[list[int]]:
    return [result.tokens for result in results]


@pytest.fixture(params=["llama", "qwen3", "gpt2"])
def engine(request):
    return TransformersEngine(tiny_model(request.param), tiny_tokenizer(), name="tiny")


def test_a_text_context_is_the_prompt_with_the_text_in_front(engine) -> None:
    alone = engine.generate(CONTEXT + " w30 w31", max_new_tokens=8)
    result = engine.generate("w30 w31", context=CONTEXT, max_new_tokens=8)
    assert result.tokens == alone.tokens and result.prompt_tokens == alone.prompt_tokens == 10
    assert engine.generate("w30 w31", context=text_of(CONTEXT), max_new_tokens=8).tokens == alone.tokens


@pytest.mark.parametrize("do_sample", [False, True])
def test_the_vectors_of_a_text_are_the_text(engine, do_sample: bool) -> None:
    options = {"max_new_tokens": 8, "do_sample": do_sample, "seed": 1}
    told = engine.generate(PROMPTS, context=CONTEXT, **options)
    soft = engine.generate(PROMPTS, context=soft_of(engine, CONTEXT), **options)
    assert tokens_of(soft) == tokens_of(told)
    assert [result.prompt_tokens for result in soft] == [result.prompt_tokens for result in told]
    assert "[6 vectors of test for 6 tokens]" in soft[0].prompt


def test_a_blank_line_stands_between_contexts_of_any_kind(engine, monkeypatch) -> None:
    monkeypatch.setattr("szilard.engines.context.SEPARATOR", " w60 ")  # the tiny tokenizer has no blank line
    told = engine.generate("w9", context=[CONTEXT, "w50 w51"], max_new_tokens=6)
    assert told.prompt_tokens == engine.generate("w9", context=CONTEXT, max_new_tokens=6).prompt_tokens + 3
    for kinds in ((soft_of, soft_of), (soft_of, lambda _, text: text), (lambda _, text: text, soft_of)):
        several = [kind(engine, text) for kind, text in zip(kinds, (CONTEXT, "w50 w51"), strict=True)]
        assert engine.generate("w9", context=several, max_new_tokens=6).tokens == told.tokens


def test_an_empty_list_of_contexts_is_plain_decoding(engine) -> None:
    plain = engine.generate(PROMPTS, max_new_tokens=8)
    assert tokens_of(engine.generate(PROMPTS, context=[None, [], None], max_new_tokens=8)) == tokens_of(plain)


def test_a_row_of_a_batch_with_contexts_gets_what_it_gets_alone(engine) -> None:
    contexts = [soft_of(engine, CONTEXT), None, [soft_of(engine, "w50"), "w51 w52", text_of("w53")]]
    batch = engine.generate(PROMPTS, context=contexts, max_new_tokens=8)
    for prompt, context, result in zip(PROMPTS, contexts, batch, strict=True):
        assert engine.generate(prompt, context=context, max_new_tokens=8).tokens == result.tokens


@pytest.mark.parametrize("kind", [soft_of, lambda engine, text: text_of(text)])
def test_stored_keys_and_values_stand_for_the_context(engine, tmp_path, kind) -> None:
    store = szilard.ContextStore(tmp_path / "store")
    told = engine.generate(PROMPTS, context=CONTEXT, max_new_tokens=8)
    store.put(kind(engine, CONTEXT), "with", engine=engine)
    store.put(kind(engine, CONTEXT), "without")
    assert list(store) == ["with", "without"] and len(store) == 2
    stored = engine.generate(PROMPTS, context=store.get("with"), max_new_tokens=8)
    assert tokens_of(stored) == tokens_of(told)
    assert tokens_of(engine.generate(PROMPTS, context=store.get("without"), max_new_tokens=8)) == tokens_of(told)
    one = engine.generate(PROMPTS[0], context=store.get("with"), max_new_tokens=8)
    assert one.tokens == told[0].tokens
    (name,) = one.cost.tokens
    computed = one.cost.tokens[name] - (len(one.tokens) - 1)
    assert computed == one.prompt_tokens - 1 - 6  # the template's first token and the context are known
    mixed = [store.get("with"), "w50 w51", [store.get("with"), "w60"]]
    batch = engine.generate(PROMPTS, context=mixed, max_new_tokens=8)
    for prompt, context, result in zip(PROMPTS, mixed, batch, strict=True):
        assert engine.generate(prompt, context=context, max_new_tokens=8).tokens == result.tokens
    again = engine.generate(PROMPTS[0], context=store.get("with"), max_new_tokens=8)
    assert again.tokens == one.tokens  # the entry is as it was


def test_stored_keys_and_values_of_another_prompt_or_method_are_left_alone(engine, tmp_path) -> None:
    store = szilard.ContextStore(tmp_path)
    store.put(soft_of(engine, CONTEXT), "doc", engine=engine)
    raw = engine.generate(PROMPTS[0], context=store.get("doc"), raw=True, max_new_tokens=8)
    assert raw.tokens == engine.generate(PROMPTS[0], context=CONTEXT, raw=True, max_new_tokens=8).tokens
    under = engine.generate(PROMPTS[0], context=store.get("doc"), attention="streaming-llm", max_new_tokens=8)
    told = engine.generate(PROMPTS[0], context=CONTEXT, attention="streaming-llm", max_new_tokens=8)
    assert under.tokens == told.tokens


def test_what_is_stored_comes_back(engine, tmp_path) -> None:
    store = szilard.ContextStore(tmp_path)
    soft, text = soft_of(engine, CONTEXT), text_of(CONTEXT)
    ids = [store.put(soft), store.put(text)]
    assert store.put(soft) == ids[0]  # the id is that of the contents
    assert store.get(ids[1]).compressed == text
    found = store.get(ids[0]).compressed
    assert torch.equal(found.embeddings, soft.embeddings) and found.model == soft.model
    store.remove(ids[0])
    assert ids[0] not in store and list(store) == [ids[1]]


def test_a_damaged_entry_is_refused_and_a_half_written_one_is_not_seen(engine, tmp_path, monkeypatch) -> None:
    store = szilard.ContextStore(tmp_path)
    store.put(soft_of(engine, CONTEXT), "doc", engine=engine)
    file = tmp_path / "doc" / "vectors.safetensors"
    good = file.read_bytes()
    for bad in (good[:-1] + bytes([good[-1] ^ 1]), good[: len(good) // 2]):
        file.write_bytes(bad)
        with pytest.raises(ValueError, match=r"damaged.*checksum of vectors\.safetensors"):
            store.get("doc")
    file.write_bytes(good)
    (tmp_path / "doc" / "cache.safetensors").unlink()
    with pytest.raises(ValueError, match="damaged"):
        store.get("doc")
    assert store.get("doc", cache=False).prefix is None
    entry = tmp_path / "doc" / "entry.json"
    whole = json.loads(entry.read_text())
    for bad in (
        whole | {"original_tokens": 7},
        whole | {"cache": whole["cache"] | {"layers": 1}},
        whole | {"sha256": {}},
        whole | {"sha256": 3},
        [],
    ):
        entry.write_text(json.dumps(bad))
        with pytest.raises(ValueError, match="damaged"):
            store.get("doc", cache=False)
    entry.write_text(json.dumps(whole))
    entry.write_text(json.dumps(json.loads(entry.read_text()) | {"format": "other"}))
    with pytest.raises(ValueError, match="its format is 'other'"):
        store.get("doc")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("szilard.compression.store._sha256", killed)
    with pytest.raises(KeyboardInterrupt):
        store.put(soft_of(engine, CONTEXT), "new")
    assert "new" not in store and list(store) == ["doc"]


@pytest.mark.parametrize("id", ["", "../up", "a/b", ".hidden", 7])
def test_ids_are_file_names(engine, tmp_path, id) -> None:
    with pytest.raises(ValueError, match="an id is 1 to 128"):
        szilard.ContextStore(tmp_path).put(text_of("w9"), id)
    with pytest.raises(ValueError, match="there is no context"):
        szilard.ContextStore(tmp_path).get(id)


def test_bad_contexts_are_told_before_work(engine) -> None:
    soft = soft_of(engine, CONTEXT)
    for wrong, message in (
        (" ", "a context is empty"),
        ([None, "w9"], "for each of the 3 prompts, not 2"),
        (SoftPrompt(soft.embeddings, 6, "test", "other"), "for a model with the weights other"),
    ):
        with pytest.raises(ValueError, match=message):
            engine.generate(PROMPTS, context=wrong)
    with pytest.raises(TypeError, match="a context is text"):
        engine.generate("w9", context=3)
    with pytest.raises(ValueError, match="context and images do not go together"):
        engine.generate("w9", context="w10", images=["x.png"])


def test_sliding_caches_are_not_stored(tmp_path) -> None:
    engine = TransformersEngine(tiny_model("gemma3"), tiny_tokenizer(), name="tiny")
    with pytest.raises(ValueError, match="cannot be stored"):
        szilard.ContextStore(tmp_path).put(soft_of(engine, CONTEXT), "doc", engine=engine)
    assert len(szilard.ContextStore(tmp_path)) == 0


def test_streams_take_contexts(engine) -> None:
    told = engine.generate("w9", context=CONTEXT, max_new_tokens=6)
    assert "".join(engine.stream("w9", context=soft_of(engine, CONTEXT), max_new_tokens=6)).split() == told.text.split()
    assert isinstance(StoredContext("x", soft_of(engine, "w9")), StoredContext)


def test_a_draft_model_cannot_read_vectors_and_says_so(engine) -> None:
    method = szilard.DraftModel(draft=engine)
    with pytest.raises(ValueError, match="draft-model needs the prompt as token ids"):
        engine.generate(PROMPTS, method, context=soft_of(engine, CONTEXT), max_new_tokens=2)


@pytest.mark.parametrize("how", ["prompt-lookup", "beam-search", "lead", "quest", "streaming-llm", "h2o", "snapkv"])
def test_vectors_are_read_under_speculation_and_attention(how: str) -> None:
    engine = TransformersEngine(tiny_model("llama"), tiny_tokenizer(), name="tiny")
    kind = "attention" if szilard.methods()[how].kind == "attention" else "method"
    options = {kind: how, "max_new_tokens": 6, "seed": 1}
    told = engine.generate(PROMPTS, context=CONTEXT, **options)
    assert tokens_of(engine.generate(PROMPTS, context=soft_of(engine, CONTEXT), **options)) == tokens_of(told)
