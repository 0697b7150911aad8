"""Texts cut into pieces of one length, so that statistics of a piece can be compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence


def pieces(texts: Iterable[Sequence[int]], length: int, *, limit: int | None = None) -> Iterator[list[int]]:
    """Token ids one text after the other, cut every `length` tokens; a shorter rest only counts when it is all.

    Args:
        texts: token ids.
        length: of a piece, tokens.
        limit: at most so many pieces; texts behind them are not looked at.
    """
    held: list[int] = []
    given = 0
    for ids in texts:
        held += ids
        start = 0
        while len(held) - start >= length:
            if given == limit:
                return
            yield held[start : start + length]
            given += 1
            start += length
        held = held[start:]
    if not given and held:
        yield held
