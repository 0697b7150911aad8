"""ARC-Encoder's groups, its pooling layer, its vectors and its files are what the paper and its code say."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

import szilard
from szilard.compression.arc_encoder.budget import smaller
from szilard.compression.arc_encoder.cost import flops_factor
from szilard.compression.arc_encoder.encoder import PooledEncoder, copied
from szilard.compression.arc_encoder.groups import Layout, Pooling, group_sizes, means
from szilard.compression.arc_encoder.model import ArcModel
from szilard.compression.arc_encoder.product_quantisation import ProductQuantiser
from szilard.engines import TransformersEngine
from tests.conftest import tiny_model, tiny_tokenizer

ROTARY = ("llama", "qwen2", "qwen3", "gemma3")
TEXTS = ["w9 w10 w11 w12 w13 w14 w15 w16 w17 w18", "w20 w21 w22", "w30 w31 w32 w33 w34"]


def engine_of(architecture: str, name: str = "") -> TransformersEngine:
    return TransformersEngine(tiny_model(architecture), tiny_tokenizer(), name=name or architecture)


def documents(*lengths: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 97, (length,), generator=generator) for length in lengths]


@torch.no_grad()
def encoded(encoder: PooledEncoder, docs: list[torch.Tensor], pooling: Pooling, packed: bool = False) -> Any:
    lengths = [len(doc) for doc in docs]
    layout = Layout.of([lengths] if packed else [[length] for length in lengths])
    ids = torch.cat(docs)[None] if packed else torch.nn.utils.rnn.pad_sequence(docs, batch_first=True)
    states, groups = encoder(ids, layout, pooling)
    return groups.split(states)


# ---- groups ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "factor", "sizes"),
    [
        (10, 4, [4, 3, 3]),
        (9, 4, [3, 3, 3]),
        (13, 4, [4, 3, 3, 3]),
        (5, 4, [3, 2]),
        (17, 8, [6, 6, 5]),
        (8, 4, [4, 4]),
        (3, 4, [3]),
        (1, 8, [1]),
    ],
)
def test_groups_are_those_of_the_code(length: int, factor: int, sizes: list[int]) -> None:
    assert group_sizes(length, Pooling((factor,)).count(length)) == sizes


@given(st.integers(1, 300), st.integers(1, 40))
def test_groups_cover_a_document_as_evenly_as_can_be(length: int, factor: int) -> None:
    count = Pooling((factor,)).count(length)
    sizes = group_sizes(length, count)
    assert count == len(sizes) == max(1, math.ceil(length / factor))
    assert sum(sizes) == length and max(sizes) <= factor and max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)


@settings(deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 25), min_size=1, max_size=3), min_size=1, max_size=3),
    st.one_of(st.integers(1, 9).map(lambda x: Pooling((x,))), st.integers(1, 9).map(lambda r: Pooling(vectors=r))),
)
def test_the_places_of_tokens_are_their_groups_and_rows_of_the_averages_sum_to_one(rows: Any, pooling: Pooling) -> None:
    layout = Layout.of(rows)
    groups, place = layout.pooled(pooling)
    averages = means(torch.eye(layout.width, dtype=torch.float64).expand(len(rows), -1, -1), place, groups.width)
    for index, row in enumerate(rows):
        sizes = [size for length in row for size in group_sizes(length, pooling.count(length))]
        own = averages[index, : len(sizes)]  # P: [groups, tokens]
        torch.testing.assert_close(own.sum(1), torch.ones(len(sizes), dtype=torch.float64))
        assert (own > 0).sum(1).tolist() == sizes
        assert not averages[index, len(sizes) :].any()
        assert bool((groups.document[index, len(sizes) :] == -1).all())


# ---- the encoder -----------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("architecture", ROTARY)
def test_pooling_by_one_is_the_models_own_last_layer_without_causal_mask(architecture: str) -> None:
    model: Any = tiny_model(architecture)
    found = encoded(copied(model, 1), documents(9), Pooling((1,)))[0]
    seen: list[torch.Tensor] = []
    hook = model.model.layers[2].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    full = torch.ones(1, 1, 9, 9, dtype=torch.bool)
    model.model(input_ids=documents(9)[0][None], attention_mask=full, use_cache=False)
    hook.remove()
    torch.testing.assert_close(found, seen[0][0], rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_the_pooling_layer_is_the_equations() -> None:
    model: Any = tiny_model("llama")
    encoder: Any = copied(model, 0)
    ids = documents(10)[0]
    found = encoded(encoder, [ids], Pooling((4,)))[0]

    hidden = encoder.embed_tokens(ids)[None]
    rotation = encoder.rotary(hidden, torch.arange(10)[None])
    for layer in encoder.layers[:2]:
        full = torch.ones(1, 1, 10, 10, dtype=torch.bool)
        hidden = layer(hidden, attention_mask=full, position_embeddings=rotation)
    layer = encoder.layers[2]
    attention = layer.self_attn
    averaged = torch.stack([part.mean(1) for part in hidden.split([4, 3, 3], dim=1)], 1)  # hbar = P h
    normed, keys_of = layer.input_layernorm(averaged), layer.input_layernorm(hidden)
    query = attention.q_proj(normed).view(1, 3, 4, 8).transpose(1, 2)
    key = attention.k_proj(keys_of).view(1, 10, 2, 8).transpose(1, 2)
    value = attention.v_proj(keys_of).view(1, 10, 2, 8).transpose(1, 2)
    cos, sin = rotation
    query, _ = apply_rotary_pos_emb(query, query, cos[:, :3], sin[:, :3])  # at 0..m-1
    _, key = apply_rotary_pos_emb(key, key, cos, sin)  # at 0..n-1
    weights = (query @ key.repeat_interleave(2, 1).transpose(-1, -2) / 8**0.5).softmax(-1)
    mixed = (weights @ value.repeat_interleave(2, 1)).transpose(1, 2).reshape(1, 3, 32)
    y = averaged + attention.o_proj(mixed)
    out = y + layer.mlp(layer.post_attention_layernorm(y))
    torch.testing.assert_close(found, out[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("architecture", ROTARY)
@pytest.mark.parametrize("pooling", [Pooling((4,)), Pooling((2, 2)), Pooling(vectors=3)])
def test_a_document_alone_is_what_it_is_in_a_batch_and_in_a_pack(architecture: str, pooling: Pooling) -> None:
    encoder, docs = copied(tiny_model(architecture), 1), documents(10, 5, 13, 1)
    alone = [encoded(encoder, [doc], pooling)[0] for doc in docs]
    assert [len(one) for one in alone] == [pooling.count(len(doc)) for doc in docs]
    for packed in (False, True):
        for found, expected in zip(encoded(encoder, docs, pooling, packed), alone, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("queries", ["mean", "last"])
@pytest.mark.parametrize("attention", ["full", "causal"])
def test_a_token_changes_all_vectors_of_its_document_and_none_of_another(attention: str, queries: str) -> None:
    encoder = copied(tiny_model("llama"), 1, attention, queries)
    docs = documents(12, 7)
    before = encoded(encoder, docs, Pooling((4,)), packed=True)
    docs[0] = docs[0].clone()
    docs[0][5] = (docs[0][5] - 3 + 1) % 94 + 3
    after = encoded(encoder, docs, Pooling((4,)), packed=True)
    assert torch.equal(before[1], after[1])
    changed = (before[0] - after[0]).abs().amax(1) > 1e-9
    assert changed.tolist() == ([True, True, True] if attention == "full" else [False, True, True])


def test_a_model_without_rotary_positions_is_refused() -> None:
    with pytest.raises(ValueError, match="rotary positions"):
        copied(tiny_model("gpt2"), 1)
    with pytest.raises(ValueError, match="truncate_layers must be between 0 and 2"):
        copied(tiny_model("llama"), 3)


def test_layers_that_compute_something_else_are_refused() -> None:
    model: Any = copy.deepcopy(tiny_model("llama"))
    forward = model.model.layers[1].forward
    model.model.layers[1].forward = lambda hidden, **options: 2 * forward(hidden, **options)
    with pytest.raises(ValueError, match="its layers want more"):
        copied(model, 1)


# ---- vectors for a decoder -------------------------------------------------------------------------------------------


def made(**options: Any) -> szilard.ArcEncoder:
    return szilard.ArcEncoder.from_causal_lm(engine_of("llama"), **{"truncate_layers": 1, **options})


def test_the_projector_has_at_most_the_rank_of_its_bottleneck() -> None:
    side: Any = made(bottleneck=5).model().sides["llama"]
    assert torch.linalg.matrix_rank((side.up.weight @ side.down.weight).detach()) <= 5
    assert side.up.bias is None and side.down.bias is None
    assert bool((side.cont == 1).all()) and bool((side.rec == 1).all())


def test_cont_stands_behind_every_document_and_goes_through_the_projector() -> None:
    arc, engine = made(), engine_of("llama")
    side: Any = arc.model().sides["llama"]
    for soft, length in zip(arc.compress(TEXTS, engine=engine), (10, 3, 5), strict=True):
        assert soft.positions == math.ceil(length / 4) + 1 and soft.original_tokens == length
        torch.testing.assert_close(soft.embeddings[-1], side.up(side.down(side.cont)).detach())
        assert soft.cost["encoder_tokens"] == length
        assert soft.cost["positions_saved"] == length - soft.positions
        assert soft.cost["layer_tokens"] == length + math.ceil(length / 4)  # two layers, the last one pools


def test_pieces_are_encoded_apart_and_share_one_cont() -> None:
    arc, engine = replace(made(), chunk=4), engine_of("llama")
    soft = arc.compress([TEXTS[0]], engine=engine)[0]
    apart = made().compress(["w9 w10 w11 w12", "w13 w14 w15 w16", "w17 w18"], engine=engine)
    assert soft.trace["groups"] == [4, 4, 2] and soft.trace["pieces"] == [4, 4, 2]
    expected = torch.cat([*(one.embeddings[:-1] for one in apart), apart[0].embeddings[-1:]])
    torch.testing.assert_close(soft.embeddings, expected)
    assert [arc.compress([TEXTS[0]], budget, engine=engine)[0].positions - 1 for budget in (3, 4, 5, 9)] == [3, 3, 5, 5]
    with pytest.raises(ValueError, match="more than this checkpoint was trained for"):
        arc.compress([TEXTS[0]], 2, engine=engine)


def test_packing_and_small_batches_change_nothing() -> None:
    arc, engine = made(), engine_of("llama")
    expected = arc.compress(TEXTS, engine=engine)
    for options in ({"packed": True}, {"batch_tokens": 4}, {"packed": True, "batch_tokens": 9}):
        other = replace(arc, **options)
        for found, soft in zip(other.compress(TEXTS, engine=engine), expected, strict=True):
            torch.testing.assert_close(found.embeddings, soft.embeddings, rtol=1e-9, atol=1e-9)


def test_token_ids_are_contexts_too_and_another_tokenizer_reads_their_text() -> None:
    arc, engine = made(), engine_of("llama")
    expected = arc.compress([TEXTS[0]], engine=engine)[0].embeddings
    ids = torch.tensor(engine.tokenizer.encode(TEXTS[0]))
    assert torch.equal(arc.compress([ids], engine=engine)[0].embeddings, expected)
    arc.model().tokenizer = tiny_tokenizer()
    arc.model().tokenizer.add_tokens(["other"])
    assert torch.equal(arc.compress([ids], engine=engine)[0].embeddings, expected)


@torch.no_grad()
@pytest.mark.parametrize("architecture", ROTARY)
def test_a_context_as_it_is_gives_the_plain_logits(architecture: str) -> None:
    engine = engine_of(architecture)
    neutral = szilard.ArcEncoder.neutral()
    inputs = neutral.prompt(["w9 w10", neutral.document(TEXTS[0]), "w50 w51"], engine)
    ids = torch.tensor([engine.tokenizer.encode(f"w9 w10 {TEXTS[0]} w50 w51")])
    plain = engine.model(input_ids=ids).logits
    torch.testing.assert_close(engine.model(**inputs).logits, plain, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_a_prompt_without_documents_is_plain_decoding_and_a_batch_is_its_rows() -> None:
    arc, engine = made(), engine_of("llama")
    ids = torch.tensor([engine.tokenizer.encode("w9 w10 w11")])
    plain = engine.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=8)[0, 3:]
    assert torch.equal(engine.model.generate(**arc.prompt(["w9 w10 w11"], engine), max_new_tokens=8)[0], plain)
    rows = [["w9", arc.document(TEXTS[0]), "w10"], [arc.document(TEXTS[1]), "w11 w12"], ["w13 w14"]]
    together = engine.model(**arc.prompt(rows, engine)).logits[:, -1]
    for row, logits in zip(rows, together, strict=True):
        torch.testing.assert_close(engine.model(**arc.prompt(row, engine)).logits[0, -1], logits, rtol=1e-8, atol=1e-8)
    kept = arc.encode([TEXTS[0]])[0]
    same = engine.model(**arc.prompt(["w9", kept, "w10"], engine)).logits[0, -1]
    torch.testing.assert_close(same, together[0], rtol=1e-8, atol=1e-8)
    with pytest.raises(ValueError, match="must end with text"):
        arc.prompt(["w9", arc.document("w10")], engine)


# ---- budgets ---------------------------------------------------------------------------------------------------------


def test_a_budget_is_a_pooling_factor_or_a_number_of_vectors() -> None:
    arc, engine = made(), engine_of("llama")

    def count(budget: Any) -> int:
        return arc.compress([TEXTS[0]], budget, engine=engine)[0].positions - 1  # <Cont> comes on top

    assert [count(budget) for budget in (None, 0.25, 0.3, 0.5, 1.0)] == [3, 3, 3, 5, 10]
    assert [count(budget) for budget in (3, 4, 9, 10)] == [3, 4, 9, 10]


def test_more_tokens_per_vector_than_were_trained_are_refused() -> None:
    arc, engine = made(), engine_of("llama")
    with pytest.raises(ValueError, match="10 tokens per vector are more than this checkpoint was trained for, 4"):
        arc.compress([TEXTS[0]], 0.1, engine=engine)
    with pytest.raises(ValueError, match="more than this checkpoint was trained for"):
        arc.compress([TEXTS[0]], 2, engine=engine)
    with pytest.raises(ValueError, match="larger than the context"):
        arc.compress([TEXTS[0]], 11, engine=engine)
    with pytest.raises(ValueError, match="either a budget or pooling_factor"):
        szilard.ArcEncoder(checkpoint=arc.model(), pooling_factor=2).compress(TEXTS, 0.5, engine=engine)
    with pytest.raises(ValueError, match="8 tokens per vector"):
        szilard.ArcEncoder(checkpoint=arc.model(), pooling_factor=8).check(engine)
    fixed = made(vectors=3)
    assert [soft.positions for soft in fixed.compress([*TEXTS, "w9"], engine=engine)] == [4, 4, 4, 2]
    with pytest.raises(ValueError, match="3 vectors, whatever the length"):
        fixed.compress(TEXTS, 0.5, engine=engine)


def test_of_several_pooling_layers_the_last_ones_stay_when_less_is_pooled() -> None:
    assert smaller(Pooling((2, 2, 2)), 8).factors == (2, 2, 2)
    assert smaller(Pooling((2, 2, 2)), 5).factors == (1, 2, 2)
    assert smaller(Pooling((2, 2, 2)), 1).factors == (1, 1, 1)
    assert smaller(Pooling((8,)), 5).factors == (5,)


def test_the_flops_factor_is_the_papers() -> None:
    assert round(flops_factor(3.0e9, 7.2e9, 4), 3) == 0.667
    assert round(flops_factor(3.0e9, 7.2e9, 8), 3) == 0.542


# ---- files and decoders ----------------------------------------------------------------------------------------------


def test_one_folder_holds_everything(tmp_path: Any) -> None:
    arc, engine = made(pooling_factor=(2, 2), bottleneck=7, attention="causal", queries="last"), engine_of("llama")
    arc.save(tmp_path / "arc")
    again = szilard.ArcEncoder.from_pretrained(tmp_path / "arc")
    assert again.model().settings() == arc.model().settings()
    for found, soft in zip(again.compress(TEXTS, engine=engine), arc.compress(TEXTS, engine=engine), strict=True):
        torch.testing.assert_close(found.embeddings, soft.embeddings, rtol=1e-3, atol=1e-3)  # float32 and float64
    by_name = szilard.ArcEncoder(checkpoint=str(tmp_path / "arc"))
    by_name.check(engine)
    assert by_name.recorded_options(engine)["checkpoint"] == again.model().fingerprint
    (tmp_path / "arc" / "tokenizer" / "tokenizer.json").unlink()
    (tmp_path / "arc" / "tokenizer" / "tokenizer_config.json").unlink()
    with pytest.raises(ValueError, match="lacks the encoder's tokenizer"):
        szilard.ArcEncoder.from_pretrained(tmp_path / "arc")


def test_one_encoder_serves_several_decoders_each_through_its_own_projector() -> None:
    llama, qwen, gemma = engine_of("llama"), engine_of("qwen3"), engine_of("gemma3")
    arc = szilard.ArcEncoder.from_causal_lm(llama, {"one": llama, "two": qwen}, truncate_layers=1)
    before = arc.compress(TEXTS, engine=llama)[0]
    assert before.trace["decoder"] == "one"
    assert not torch.allclose(arc.compress(TEXTS, engine=qwen)[0].embeddings, before.embeddings)
    with pytest.raises(ValueError, match="none of its decoders"):
        arc.check(gemma)
    more = arc.add_decoder("three", gemma)
    assert more.compress(TEXTS, engine=gemma)[0].model == gemma.fingerprint
    assert torch.equal(more.compress(TEXTS, engine=llama)[0].embeddings, before.embeddings)
    with pytest.raises(ValueError, match="has a decoder 'three' already"):
        more.add_decoder("three", gemma)
    with pytest.raises(ValueError, match="say for which decoder"):
        more.encode(TEXTS)
    with pytest.raises(ValueError, match="is not one"):
        szilard.ArcEncoder(checkpoint=arc.model(), decoder="one").check(qwen)


@pytest.mark.parametrize("storage", ["float32", "float16", "pq"])
def test_encoded_documents_are_kept_in_the_bottleneck(storage: str, tmp_path: Any) -> None:
    arc = made(bottleneck=8)
    kept = arc.encode(TEXTS)
    assert [tuple(one.shape) for one in kept] == [(4, 32), (2, 32), (3, 32)]
    size = kept.save(tmp_path / "documents", storage=storage, parts=4 if storage == "pq" else None)
    vectors, books = 6, 4 * 6 * 2 * 2  # no more entries than vectors; two numbers of two bytes each
    assert size == {"float32": vectors * 8 * 4, "float16": vectors * 8 * 2, "pq": vectors * 4 + books}[storage]
    again = arc.load_documents(tmp_path / "documents")
    close = {"float32": 1e-5, "float16": 1e-2, "pq": 1e-2}[storage]  # every vector can have its own entry
    for found, expected in zip(again, kept, strict=True):
        torch.testing.assert_close(found, expected, rtol=close, atol=close)
    with pytest.raises(ValueError, match="documents of another encoder"):
        made(bottleneck=8, seed=1).load_documents(tmp_path / "documents")


def test_more_code_words_lose_less() -> None:
    vectors = torch.randn(600, 16, generator=torch.Generator().manual_seed(0))
    errors = []
    for parts in (2, 4, 8):
        quantiser, codes = ProductQuantiser.fitted(vectors, parts)
        assert codes.dtype == torch.uint8 and tuple(codes.shape) == (600, parts)
        errors.append(float(functional.mse_loss(quantiser.decoded(codes), vectors)))
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.1
    with pytest.raises(ValueError, match="must divide the vectors' width"):
        ProductQuantiser.fitted(vectors, 3)


# ---- bad input -------------------------------------------------------------------------------------------------------


def test_bad_input_is_refused_in_a_sentence(tmp_path: Any) -> None:
    arc, engine = made(), engine_of("llama")
    for contexts in (["w9", " "], [torch.zeros(0, dtype=torch.int64)]):
        with pytest.raises(ValueError, match="is empty"):
            arc.compress(contexts, engine=engine)
    with pytest.raises(TypeError, match="a context is a text"):
        arc.compress([3], engine=engine)
    with pytest.raises(ValueError, match="needs a trained encoder"):
        szilard.ArcEncoder().check(engine)
    with pytest.raises(ValueError, match="reads 256 at once"):
        arc.compress(["w9 " * 300], engine=engine)
    with pytest.raises(TypeError, match="checkpoint must be"):
        szilard.ArcEncoder(checkpoint=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="letters, digits"):
        szilard.ArcEncoder.from_causal_lm(engine, {"a.b": engine}, truncate_layers=1)
    with pytest.raises(ValueError, match="cannot pool in an encoder of 2"):
        made(pooling_factor=(2, 2, 2))
    (tmp_path / "other").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="no whole file"):
        arc.load_documents(tmp_path / "other")
    assert isinstance(arc.model(), ArcModel) and arc.compress([], engine=engine) == []


def test_vectors_can_begin_as_large_as_token_embeddings() -> None:
    engine = engine_of("llama")
    arc = szilard.ArcEncoder.from_causal_lm(engine, truncate_layers=1).model()
    documents = [[5, 6, 7, 8, 9, 10], [11, 12, 13, 14]]
    (name,) = arc.decoders
    arc.match_scale(documents, name, engine)
    vectors = torch.cat([arc.project(state, name)[:-1] for state in arc.encode(documents)])
    expected = engine.model.get_input_embeddings().weight.pow(2).mean().sqrt()
    torch.testing.assert_close(vectors.pow(2).mean().sqrt(), expected, atol=1e-5, rtol=1e-5)
