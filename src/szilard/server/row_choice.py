"""Choosing every row's token by its own settings: greedy, or a draw under temperature, top-k, top-p and min-p."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from szilard.decoding.sampling import Sampling


@dataclass(eq=False)
class RowSettings:
    """How a row chooses.

    Attributes:
        sampling: filters of the draw; None: the likeliest token.
        generator: the row's own stream of random numbers, so that what others draw changes nothing.
    """

    sampling: Sampling | None
    generator: torch.Generator | None = None


def choose_rows(logits: torch.Tensor, rows: Sequence[RowSettings]) -> torch.Tensor:
    """The next token of every row, int64 [rows].

    Rows with equal filters are filtered and drawn together; a row with a stream of its own draws from that.

    Args:
        logits: [rows, vocab].
        rows: settings of each.
    """
    tokens = logits.argmax(-1)
    groups: dict[Sampling, list[int]] = {}
    for place, row in enumerate(rows):
        if row.sampling is not None:
            groups.setdefault(row.sampling, []).append(place)
    for sampling, places in groups.items():
        scores = sampling.warpers()(None, logits[places].float())  # type: ignore[arg-type]
        probabilities = scores.softmax(-1)
        tokens[places] = torch.multinomial(probabilities, 1)[:, 0]
        for line, place in enumerate(places):
            if rows[place].generator is not None:
                tokens[place] = torch.multinomial(probabilities[line], 1, generator=rows[place].generator)[0]
    return tokens
