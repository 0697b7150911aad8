"""Prompt lookup finds the first earlier occurrence of the longest run, however the text grew."""

import random

import pytest

from szilard.speculative.prompt_lookup import NgramIndex


def searched(ids: list[int], longest: int, count: int) -> list[int]:
    """The definition, by search."""
    for size in range(min(longest, len(ids) - 1), 0, -1):
        for start in range(len(ids) - size):
            if ids[start : start + size] == ids[-size:]:
                return ids[start + size : start + size + count]
    return []


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("longest", [1, 2, 3, 5])
def test_the_index_finds_what_a_search_finds(seed, longest):
    draw = random.Random(seed)
    index, ids = NgramIndex(longest), []
    while len(ids) < 60:
        new = [draw.randrange(4) for _ in range(draw.randrange(4))]
        index.extend(new)
        ids += new
        assert len(index) == len(ids)
        assert index.continuation(6) == searched(ids, longest, 6)


def test_a_text_without_repeats_has_no_draft():
    index = NgramIndex(3)
    assert index.continuation(5) == []
    index.extend([1, 2, 3])
    assert index.continuation(5) == []
    index.extend([1])
    assert index.continuation(5) == [2, 3, 1]
