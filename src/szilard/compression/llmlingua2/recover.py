"""What a response to a compressed prompt quotes, as it stands in the original.

As in the released code of Pan et al. 2024, arXiv 2403.12968 (microsoft/LLMLingua 0.2.2, MIT).
"""

from __future__ import annotations

import bisect
from collections import defaultdict
from typing import Any

_NEAR = 10  # tokens from one token of a quotation to the next, at most


def recover(tokenizer: Any, original_prompt: str, compressed_prompt: str, response: str) -> str:
    """A response, in which stretches that stand in the compressed prompt are replaced by what they come from.

    The longest stretch of words that the compressed prompt has is looked for in the original: the place where most of
    its tokens follow each other, each at most ten tokens behind the last, and of those the shortest.
    """
    if not response:
        return ""
    ids = tokenizer(original_prompt, add_special_tokens=False, verbose=False)["input_ids"]
    places: dict[int, list[int]] = defaultdict(list)
    for place, token in enumerate(ids):
        places[token].append(place)
    words = response.split(" ")
    recovered = []
    first = 0
    while first < len(words):
        last = first + 1
        if words[first] not in compressed_prompt:
            recovered.append(words[first])
            first = last
            continue
        while last < len(words) and " ".join(words[first : last + 1]) in compressed_prompt:
            last += 1
        quoted = " ".join(words[first:last])
        span = _original_place(tokenizer(quoted, add_special_tokens=False, verbose=False)["input_ids"], places)
        recovered.append(quoted if span is None else tokenizer.decode(ids[span[0] : span[1]]))
        first = last
    return " ".join(recovered)


def _original_place(tokens: list[int], places: dict[int, list[int]]) -> tuple[int, int] | None:
    """[first, last) tokens of the original that a quotation comes from."""
    best: tuple[int, int] | None = None
    most, shortest = 1, float("inf")
    for start in places.get(tokens[0], ()) if tokens else ():
        end, found = start, 1
        for token in tokens[1:]:
            after = places.get(token, ())
            index = bisect.bisect_right(after, end)
            if index < len(after) and after[index] - end <= _NEAR:
                found, end = found + 1, after[index]
        length = end - start + 1
        if found > most or (found == most and length < shortest):
            best, most, shortest = (start, end + 1), found, length
    return best
