"""What follows a run of tokens, for a whole batch at once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.decoding.followers import Followers

SETS = st.lists(st.lists(st.integers(0, 3), max_size=12), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(SETS, st.integers(1, 4), st.integers(0, 1000))
def test_followers_are_those_of_a_search_through_all_sequences(sequences, window, seed) -> None:
    expected: dict[tuple[int, ...], set[int]] = {}
    for row in sequences:
        for at in range(len(row) - window):
            expected.setdefault(tuple(row[at : at + window]), set()).add(row[at + window])
    if not expected:
        with pytest.raises(ValueError, match=f"no sequence is longer than window={window} tokens"):
            Followers(sequences, window)
        return
    runs = torch.randint(0, 6, (40, window), generator=torch.Generator().manual_seed(seed))  # 4, 5: not in the set
    runs[: len(expected)] = torch.tensor(list(expected)[:40])
    rows, tokens = Followers(sequences, window)(runs)
    found: list[list[int]] = [[] for _ in runs]
    for row, token in zip(rows.tolist(), tokens.tolist(), strict=True):
        found[row].append(token)
    assert found == [sorted(expected.get(tuple(run), ())) for run in runs.tolist()]  # each once


def test_tokens_as_large_as_any_vocabulary_are_told_apart() -> None:
    index = Followers([[300_000, 0, 7], [0, 300_000, 8]], 2)
    rows, tokens = index(torch.tensor([[0, 300_000], [300_001, 0], [300_000, 0], [2**40, 0]]))
    assert (rows.tolist(), tokens.tolist()) == ([0, 2], [8, 7])


@pytest.mark.parametrize("sequences", [["a text"], [[1, -2, 3]], [5, 6, 7], [[1.5, "b"]]])
def test_what_is_no_row_of_token_ids_is_told(sequences) -> None:
    with pytest.raises(ValueError, match="a sequence is a row of token ids of at least 0"):
        Followers(sequences, 1)
