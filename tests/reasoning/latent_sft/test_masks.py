"""LTIM, LTSuM and dual-track positions against their tables, written out by brute force."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.reasoning.latent_sft.masks import (
    ANSWER,
    LATENT,
    PADDING,
    PREFIX,
    TEXT,
    additive,
    causal_mask,
    dual_track_positions,
    induction_mask,
    insert_every,
    supervision_mask,
)
from szilard.reasoning.latent_sft.samples import Sample, decoder_slots, encoder_slots, padded

sizes = st.tuples(st.integers(1, 4), st.integers(0, 9), st.integers(1, 3), st.integers(1, 4))
rows = st.lists(sizes, min_size=1, max_size=3)


def sample(prefix, chain, close, answer):
    """Distinct ids everywhere, none of them 0."""
    ends = [prefix, chain, close, answer]
    starts = [1 + sum(ends[:index]) for index in range(4)]
    return Sample(*(tuple(range(start, start + size)) for start, size in zip(starts, ends, strict=True)))


def slots(kind, found, rate):
    return padded([kind(sample(*one), rate) for one in found])


def test_a_latent_token_is_put_behind_every_chunk():
    assert insert_every([11, 12, 13, 14, 15], 2, 7) == ([11, 12, 7, 13, 14, 7, 15, 7], 3)
    assert insert_every([11, 12], 5, 7) == ([11, 12, 7], 1)
    assert insert_every([], 2, 7) == ([], 0)


@settings(max_examples=40, deadline=None)
@given(rows, st.integers(1, 4))
def test_ltim_is_its_definition(found, rate):
    role = slots(encoder_slots, found, rate)["role"]
    mask = induction_mask(role)
    for b, one in enumerate(role.tolist()):
        for i, query in enumerate(one):
            for j, key in enumerate(one):
                real = PADDING not in (query, key)
                assert bool(mask[b, i, j]) == (j <= i and not (key == LATENT and j < i) and real)


@settings(max_examples=40, deadline=None)
@given(rows, st.integers(1, 4))
def test_ltsum_is_its_table(found, rate):
    both = slots(decoder_slots, found, rate)
    mask = supervision_mask(both["role"], both["chunk"])
    for b, one in enumerate(both["role"].tolist()):
        chunk = both["chunk"][b].tolist()
        for i, query in enumerate(one):
            for j, key in enumerate(one):
                sees = {
                    PREFIX: key == PREFIX,
                    LATENT: key in (PREFIX, LATENT),
                    TEXT: key in (LATENT, TEXT) and chunk[i] == chunk[j],
                    ANSWER: key in (PREFIX, LATENT, ANSWER),
                    PADDING: False,
                }[query]
                assert bool(mask[b, i, j]) == (sees and j <= i)


def test_without_latent_tokens_ltim_is_causal_and_without_their_rows_and_columns_too():
    role = slots(encoder_slots, [(3, 0, 1, 2), (2, 0, 2, 2)], 2)["role"]
    assert torch.equal(induction_mask(role), causal_mask(role))
    role = slots(encoder_slots, [(3, 7, 2, 2)], 2)["role"]
    text = (role != LATENT)[0]
    count = int(text.sum())
    assert torch.equal(induction_mask(role)[0][text][:, text], torch.ones(count, count, dtype=torch.bool).tril())


def test_positions_of_the_papers_example():
    role = torch.tensor([[PREFIX] * 3 + [LATENT, TEXT, TEXT] * 2 + [LATENT, ANSWER, ANSWER, ANSWER]])
    assert dual_track_positions(role).tolist() == [[0, 1, 2, 3, 4, 5, 4, 5, 6, 5, 6, 7, 8]]


@settings(max_examples=40, deadline=None)
@given(rows, st.integers(1, 4))
def test_positions_without_the_text_are_those_of_neighbours(found, rate):
    role = slots(decoder_slots, found, rate)["role"]
    for one, positions in zip(role, dual_track_positions(role), strict=True):
        track = positions[(one != TEXT) & (one != PADDING)]
        assert track.tolist() == list(range(len(track)))
        before = None
        for kind, position in zip(one.tolist(), positions.tolist(), strict=True):
            if kind == TEXT:
                assert position == before + 1
            before = position


def test_the_end_of_the_answer_is_seen_although_it_pads_too():
    one = Sample((5, 6), (7, 8), (9,), (10, 0))  # 0 is padding and end
    found = padded([decoder_slots(one, 2), decoder_slots(Sample((5, 6), (7, 8, 7, 8), (9,), (10, 0)), 2)])
    assert found["labels"][0].tolist() == [-100, -100, -100, 9, 10, 0, -100, -100, -100]
    mask = supervision_mask(found["role"], found["chunk"])
    assert bool(mask[0, 5, 5]) and not mask[0, 6].any() and not mask[0, :, 6].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_no_softmax_is_over_nothing(dtype):
    role = torch.tensor([[PREFIX, TEXT, LATENT, PADDING, PADDING]])
    mask = additive(induction_mask(role), dtype)
    assert mask.shape == (1, 1, 5, 5) and bool(mask.isfinite().all())
    weights = (torch.full((1, 1, 5, 5), -7.0, dtype=dtype) + mask).softmax(-1)
    assert bool(weights.isfinite().all()) and torch.equal(weights[0, 0, 3].float(), torch.eye(5)[3])


def test_labels_are_what_a_latent_token_must_say():
    found = decoder_slots(Sample((1, 2), (11, 12, 13, 14, 15), (3,), (20, 4)), 2)
    assert found["ids"] == [1, 2, 0, 13, 14, 0, 15, 0, 3, 20, 4]  # the first chunk is not there
    assert found["labels"] == [-100, -100, -100, 13, 14, -100, 15, -100, 3, 20, 4]
    assert found["chunk"] == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 3]
    read = encoder_slots(Sample((1, 2), (11, 12, 13), (3,), (20, 4)), 2)
    assert read["ids"] == [1, 2, 11, 12, 0, 13, 0, 3]
