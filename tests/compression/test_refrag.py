"""REFRAG reads chunks as vectors or as tokens, in their place, whatever stands beside them."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import szilard
from szilard.compression.refrag.add_on import RefragParts, new_parts
from szilard.compression.refrag.arrangement import arrange, expanded_count
from szilard.compression.refrag.chunks import cut_chunks, leading_specials
from szilard.compression.refrag.cost import (
    effective_rate,
    first_token_gain,
    first_token_seconds,
    kv_bytes,
    next_token_seconds,
)
from szilard.compression.refrag.reader import Reader
from szilard.compression.refrag.selection import chunk_nats, pick
from szilard.compression.refrag.store import ChunkStore
from szilard.compression.refrag.text_encoder import fitting_pooling
from szilard.engines import TransformersEngine
from szilard.training.target import Target
from tests.conftest import tiny_model, tiny_tokenizer

PASSAGES = [" ".join(f"w{7 + (7 * i) % 90}" for i in range(a, b)) for a, b in ((0, 22), (30, 39))]
CHUNK = 4


def _engine(architecture: str = "llama") -> TransformersEngine:
    return TransformersEngine(tiny_model(architecture), tiny_tokenizer(), name="tiny")


def _parts(engine: TransformersEngine, chunk: int = CHUNK) -> RefragParts:
    torch.manual_seed(5)
    made = new_parts(Target(engine).base, engine.tokenizer, encoder="small", chunk=chunk, width=16)
    torch.nn.init.normal_(made.policy.head.weight)
    made.policy_steps += 1
    return made.eval()


@pytest.fixture(scope="module")
def reader() -> Reader:
    engine = _engine()
    return Reader(_parts(engine), engine)


# ---- neutral -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "gpt2"])
@torch.no_grad()
def test_everything_expanded_is_the_plain_prompt(architecture: str) -> None:
    engine = _engine(architecture)
    reader = Reader(_parts(engine), engine)
    cache = reader.encode(PASSAGES)
    plain = [engine._chat_ids([{"role": "user", "content": "\n\n".join([*PASSAGES, asked])}]) for asked in ("w9", "w8")]
    prepared = reader.prepare(["w9", "w8"], cache, keep=1.0)
    logits = engine.model(**prepared).logits[:, -1]
    for row, ids in zip(logits, plain, strict=True):
        torch.testing.assert_close(row, engine.model(torch.tensor([ids])).logits[0, -1], atol=1e-5, rtol=0)
    for text, ids in zip(reader.generate(["w9", "w8"], cache, keep=1.0, max_new_tokens=6), plain, strict=True):
        tokens = engine.model.generate(torch.tensor([ids]), max_new_tokens=6, do_sample=False)[0, len(ids) :]
        assert text == engine.tokenizer.decode(tokens, skip_special_tokens=True)


def test_the_neutral_setting_needs_no_parts_and_gives_the_tokens_own_vectors(engine) -> None:
    (soft,) = szilard.Refrag.neutral().compress(PASSAGES[:1], engine=engine)
    ids = torch.tensor(engine.tokenizer.encode(PASSAGES[0], add_special_tokens=False))
    assert torch.equal(soft.embeddings, engine.model.get_input_embeddings()(ids))
    assert soft.rate == 1.0 and soft.model == engine.fingerprint


# ---- arrangement -------------------------------------------------------------------------------------------------


@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=9),
    data=st.data(),
)
@settings(max_examples=40, deadline=None)
def test_positions_are_one_per_compressed_chunk_and_the_tokens_of_the_others_in_place(lengths, data) -> None:
    expanded = torch.tensor([data.draw(st.booleans()) for _ in lengths])
    embed = torch.nn.Embedding(100, 3)
    ids = torch.arange(sum(lengths))
    vectors = torch.arange(len(lengths) * 3.0).view(-1, 3) + 1000
    out = arrange(embed, ids, torch.tensor(lengths), vectors, expanded)
    expected, first = [], 0
    for index, length in enumerate(lengths):
        expected.append(embed(ids[first : first + length]) if expanded[index] else vectors[index : index + 1])
        first += length
    torch.testing.assert_close(out, torch.cat(expected))


@pytest.mark.parametrize("policy", ["learned", "perplexity", "perplexity-asc", "random", "none"])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.7, 1.0])
def test_decoder_positions_are_counted(reader, policy: str, keep: float) -> None:
    cache = reader.encode(PASSAGES)
    prepared = reader.prepare("w9 w10", cache, keep=keep, policy=policy)
    (cost,), (trace,) = prepared.cost, prepared.trace
    chosen = 0 if policy == "none" else math.floor(keep * len(cache) + 1e-9)
    assert sum(trace["expanded"]) == chosen
    kept = sum(n for n, own in zip(trace["tokens"], trace["expanded"], strict=True) if own)
    real = len(reader.engine._chat_ids([{"role": "user", "content": "w9 w10"}]))
    assert cost.decoder_positions == prepared["inputs_embeds"].shape[1] == real + len(cache) - chosen + kept
    assert cost.plain_positions == real + 31
    assert cost.kv_bytes * cost.plain_positions == cost.kv_bytes_plain * cost.decoder_positions
    assert cost.encoder_tokens == cache.fresh_tokens and cost.scored_tokens in (0, 31)


@torch.no_grad()
def test_passages_are_compressed_anywhere(reader) -> None:
    one, two = (reader.encode(text) for text in PASSAGES)
    prepared = reader.arrange([["w9", one, torch.tensor([3, 4]), two, "w10 w11"], ["w9 w12"]], keep=0.0)
    vectors = prepared["inputs_embeds"]
    assert prepared["attention_mask"].sum(1).tolist() == [1 + 6 + 2 + 3 + 2, 2]
    torch.testing.assert_close(vectors[0, 1:7].float(), reader.parts.project(one.embeddings))
    torch.testing.assert_close(vectors[0, 9:12].float(), reader.parts.project(two.embeddings))
    embed = reader.model.get_input_embeddings()
    assert torch.equal(vectors[0, 7:9], embed(torch.tensor([3, 4])))
    assert prepared["position_ids"][0].tolist() == list(range(14))


def test_a_share_is_rounded_down_as_it_is_written() -> None:
    assert [expanded_count(*pair) for pair in ((0.29, 100), (0.1, 19), (1 / 15, 128), (1 / 15, 256))] == [29, 1, 8, 17]


# ---- chunks and their embeddings ---------------------------------------------------------------------------------


def test_a_chunk_gives_the_same_embedding_in_any_company_and_order(reader) -> None:
    cache = reader.encode(PASSAGES)
    alone = torch.cat([reader.parts.embed([text]).detach() for text in cache.chunks.texts])
    turned = reader.parts.embed(list(cache.chunks.texts[::-1])).detach().flip(0)
    torch.testing.assert_close(cache.embeddings, alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(cache.embeddings, turned, atol=1e-5, rtol=0)
    one = reader.encode(PASSAGES[1])
    torch.testing.assert_close(cache.passage(1).embeddings, one.embeddings, atol=1e-5, rtol=0)
    assert one.chunks.lengths.tolist() == [4, 4, 1]


def _byte_tokenizer() -> SimpleNamespace:
    def decode(tokens: list[int], **_: object) -> str:
        return bytes(tokens).decode(errors="replace")

    return SimpleNamespace(decode=decode)


@given(st.text(max_size=40), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_chunks_are_the_tokens_and_end_with_whole_characters(text: str, size: int) -> None:
    ids = torch.tensor(list(text.encode()), dtype=torch.int64)
    chunks = cut_chunks(_byte_tokenizer(), ids, size)
    assert torch.equal(chunks.ids, ids) and int(chunks.lengths.sum()) == len(ids)
    assert all(0 < length <= size for length in chunks.lengths.tolist())
    if size >= 4:  # a character has at most 4 bytes
        assert "".join(chunks.texts) == text


def test_special_tokens_in_front_stay_tokens(engine) -> None:
    ids = torch.tensor([2, 9, 10, 11, 12, 13])
    assert leading_specials(engine.tokenizer, ids) == 1
    refrag = szilard.Refrag(checkpoint=_parts(engine), policy="none")
    (soft,) = refrag.compress([ids], engine=engine)
    assert soft.positions == 3 and soft.original_tokens == 6
    assert torch.equal(soft.embeddings[0], engine.model.get_input_embeddings()(ids[:1])[0])


def test_the_first_state_of_a_model_that_looks_back_is_refused() -> None:
    assert fitting_pooling("auto", {"model_type": "llama"}) == "last"
    assert fitting_pooling("auto", {"model_type": "bert"}) == "first"
    with pytest.raises(ValueError, match="take pooling 'last'"):
        fitting_pooling("first", {"model_type": "llama"})


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_a_decoder_can_encode_chunks(pooling: str, model_folder: str) -> None:
    engine = _engine()
    parts = new_parts(Target(engine).base, engine.tokenizer, encoder=model_folder, chunk=CHUNK, pooling=pooling).eval()
    texts = ["w9 w10 w11", "w12"]
    both, alone = parts.embed(texts), torch.cat([parts.embed([text]) for text in texts])
    torch.testing.assert_close(both, alone, atol=1e-5, rtol=0)


@torch.no_grad()
def test_vectors_begin_as_large_as_token_embeddings() -> None:
    engine = _engine("gemma3")  # whose embeddings are scaled inside
    parts = _parts(engine)
    texts = ["w9 w10 w11", "w12", "w30 w31"]
    vectors = engine.model.get_input_embeddings()(torch.arange(7, 90))
    parts.match_scale(texts, vectors)
    made = parts.project(parts.embed(texts))
    torch.testing.assert_close(made.pow(2).mean().sqrt(), vectors.pow(2).mean().sqrt().float())


# ---- the store ---------------------------------------------------------------------------------------------------


def test_a_store_comes_back_from_its_file_and_a_damaged_one_is_refused(reader, tmp_path) -> None:
    cache, file = reader.encode(PASSAGES), tmp_path / "below" / "cache.safetensors"
    cache.save(file)
    again = ChunkStore.load(file)
    assert again.chunks.texts == cache.chunks.texts and torch.equal(again.embeddings, cache.embeddings)
    assert torch.equal(again.chunks.ids, cache.chunks.ids) and torch.equal(again.passages, cache.passages)
    assert again.encoder == cache.encoder and again.fresh_tokens == 0
    assert [path.name for path in file.parent.iterdir()] == ["cache.safetensors"]
    whole = file.read_bytes()
    for place in range(0, len(whole), 97):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"is damaged|no chunk store"):
            ChunkStore.load(file)
    file.write_bytes(whole[:-5])
    with pytest.raises(ValueError, match="is damaged"):
        ChunkStore.load(file)
    with pytest.raises(ValueError, match="there is no chunk store"):
        ChunkStore.load(tmp_path / "nothing")


def test_what_is_known_is_not_encoded_again(reader) -> None:
    first = reader.encode(PASSAGES[0])
    both = reader.encode(PASSAGES, known=first)
    assert first.fresh_tokens == 22 and both.fresh_tokens == 9
    (cost,) = reader.prepare("w9", both, policy="none").cost
    assert (cost.encoder_tokens, cost.encoder_tokens_cached) == (9, 22)
    again = reader.encode([PASSAGES[0], PASSAGES[0]])
    assert again.fresh_tokens == 22 and again.count == 2
    joined = ChunkStore.joined([first, reader.encode(PASSAGES[1])])
    assert joined.passages.tolist() == both.passages.tolist()


def test_a_store_of_another_encoder_is_refused(reader) -> None:
    engine = _engine()
    other = Reader(_parts(engine, chunk=5), engine).encode(PASSAGES[0])
    with pytest.raises(ValueError, match="encode its passages again"):
        reader.prepare("w9", other)


# ---- policies ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_perplexity_is_the_decoders_own(model) -> None:
    ids, lengths = torch.tensor([9, 10, 11, 12, 13, 14, 15]), torch.tensor([3, 3, 1])
    for start in ([], [2]):
        row = torch.tensor([*start, *ids.tolist()])
        chances = model(row[None]).logits[0].log_softmax(-1)
        nats = [-chances[place - 1, row[place]] for place in range(1, len(row))]
        nats = [None, *nats] if not start else nats
        known = [[n for n in nats[a:b] if n is not None] for a, b in ((0, 3), (3, 6), (6, 7))]
        expected = torch.stack([torch.stack(own).mean() for own in known]).float()
        torch.testing.assert_close(chunk_nats(model, ids, lengths, start), expected, atol=1e-4, rtol=1e-4)


def test_heuristics_choose_the_ends_of_the_scale() -> None:
    scores, generator = torch.tensor([0.3, 2.0, 1.0, 0.1]), torch.Generator().manual_seed(0)
    assert pick("perplexity", 2, scores, generator).tolist() == [False, True, True, False]
    assert pick("learned", 2, scores, generator).tolist() == [False, True, True, False]
    assert pick("perplexity-asc", 2, scores, generator).tolist() == [True, False, False, True]
    assert not pick("none", 2, scores, generator).any()
    assert int(pick("random", 2, scores, generator).sum()) == 2


def test_a_policy_that_was_not_trained_is_refused(engine) -> None:
    parts = _parts(engine)
    parts.policy_steps.zero_()
    with pytest.raises(ValueError, match="was not trained"):
        Reader(parts, engine).prepare("w9", Reader(parts, engine).encode(PASSAGES[0]), keep=0.5)
    with pytest.raises(ValueError, match="was not trained"):
        szilard.Refrag(checkpoint=parts).check(engine)


# ---- the method --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["learned", "random", "perplexity"])
@given(budget=st.integers(6, 22))
@settings(max_examples=10, deadline=None)
def test_a_budget_of_positions_is_kept(policy: str, budget: int) -> None:
    engine = _engine()
    refrag = szilard.Refrag(checkpoint=_parts(engine), policy=policy)
    (soft,) = refrag.compress(PASSAGES[:1], budget, engine=engine)
    assert budget - CHUNK + 1 < soft.positions <= budget or soft.positions == 22


def test_budgets_that_cannot_be_met_are_refused(engine) -> None:
    refrag = szilard.Refrag(checkpoint=_parts(engine), policy="random")
    with pytest.raises(ValueError, match="take at least 6"):
        refrag.compress(PASSAGES[:1], 5, engine=engine)
    with pytest.raises(ValueError, match="larger than the context"):
        refrag.compress(PASSAGES[:1], 23, engine=engine)
    with pytest.raises(ValueError, match="a context is empty"):
        refrag.compress([""], engine=engine)
    with pytest.raises(ValueError, match="needs trained parts"):
        szilard.Refrag().compress(PASSAGES[:1], engine=engine)


def test_the_trace_says_what_was_expanded_and_why(engine) -> None:
    refrag = szilard.Refrag(checkpoint=_parts(engine), keep=0.5)
    (soft,) = refrag.compress(PASSAGES[:1], engine=engine)
    assert soft.trace["tokens"] == [4, 4, 4, 4, 4, 2] and sum(soft.trace["expanded"]) == 3
    least = min(s for s, own in zip(soft.trace["logits"], soft.trace["expanded"], strict=True) if own)
    assert all(s <= least for s, own in zip(soft.trace["logits"], soft.trace["expanded"], strict=True) if not own)
    assert soft.cost["encoder_tokens"] == 22 and soft.cost["decoder_positions"] == soft.positions


def test_parts_are_one_file_that_works_offline_and_only_for_their_decoder(tmp_path, engine) -> None:
    parts = _parts(engine)
    parts.save_pretrained(tmp_path)
    again = szilard.Refrag.from_pretrained(tmp_path)
    assert again.parts().fingerprint == parts.fingerprint
    assert again.parts().encoder_fingerprint == parts.encoder_fingerprint
    made = [one.compress(PASSAGES, engine=engine) for one in (again, szilard.Refrag(checkpoint=str(tmp_path)))]
    for a, b in zip(*made, strict=True):
        assert torch.equal(a.embeddings, b.embeddings)
    plain = szilard.Refrag.from_pretrained(tmp_path, model=tiny_model("llama"), tokenizer=tiny_tokenizer())
    assert isinstance(plain, Reader)
    with pytest.raises(ValueError, match="other weights"):
        szilard.Refrag.from_pretrained(tmp_path, model=_engine("qwen2"))
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(ValueError, match="no whole refrag add-on"):
        szilard.Refrag.from_pretrained(tmp_path)


# ---- the latency model -------------------------------------------------------------------------------------------


def test_the_gain_is_that_of_the_latency_model() -> None:
    assert first_token_gain(16, 2048, 4096) == pytest.approx(17.24, abs=0.005)
    size = {"width": 4096, "layers": 32}
    for chunk, tokens in ((8, 512), (16, 2048), (32, 16384)):
        plain = first_token_seconds(tokens, operations_per_second=1e14, **size)
        compressed = first_token_seconds(tokens / chunk, operations_per_second=1e14, **size)
        assert first_token_gain(chunk, tokens, 4096) == pytest.approx(plain / compressed)
        assert chunk < plain / compressed < chunk**2
    assert kv_bytes(3, batch=2, **size) == 4 * 4096 * 32 * 2 * 3
    assert next_token_seconds(0, parameters=7e9, bytes_per_second=1e12, **size) == pytest.approx(0.014)
    assert effective_rate(16, 1.0) == 1 and effective_rate(16, 0.0) == 16
    assert effective_rate(16, 8 / 128) == pytest.approx(8.258, abs=5e-4)
