"""Which tokens are pooled into one vector, and which places of a batch may see which.

ARC-Encoder (Pilchen, Grave, Perez 2025, arXiv 2510.20535) with the group sizes of its code: n tokens at pooling factor
x make m = max(1, ceil(n / x)) contiguous groups, as equal as possible, the larger ones first.

    n = 10, x = 4: 4 3 3      n = 5, x = 4: 3 2      n = 17, x = 8: 6 6 5
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from szilard.options import check_number


@dataclass(frozen=True)
class Pooling:
    """How many vectors a document becomes.

    Attributes:
        factors: x of the last layers, in their order: (4,): the last layer pools by 4; (2, 2): the last two by 2 each;
            (1,): nothing is pooled.
        vectors: this many vectors, whatever the length (a document of fewer tokens gets one each), in the last layer;
            takes the place of the factors.
    """

    factors: tuple[int, ...] = (4,)
    vectors: int | None = None

    def __post_init__(self) -> None:
        if not self.factors:
            raise ValueError("factors must name at least one layer: (1,) pools nothing.")
        for factor in self.factors:
            check_number("a pooling factor", factor, low=1, integer=True)
        check_number("vectors", self.vectors, low=1, integer=True, optional=True)

    @property
    def total(self) -> int:
        """Tokens per vector, at most; of a fixed number of vectors there is no such bound, and this is 1."""
        found = 1
        for factor in self.factors if self.vectors is None else ():
            found *= factor
        return found

    @property
    def layers(self) -> int:
        """Last layers that pool."""
        return 1 if self.vectors is not None else len(self.factors)

    def groups(self, length: int, layer: int = 0) -> int:
        """Into how many groups so many positions are pooled.

        Args:
            length: n, at least 1.
            layer: which of the pooling layers, in their order.
        """
        return min(self.vectors, length) if self.vectors is not None else -(-length // self.factors[layer])

    def count(self, length: int) -> int:
        """m: vectors of a document of so many tokens."""
        for layer in range(self.layers):
            length = self.groups(length, layer)
        return length


def group_sizes(length: int, groups: int) -> list[int]:
    """Sizes of so many contiguous groups of n positions: they differ by one at most, the larger ones come first."""
    small, larger = divmod(length, groups)
    return [small + 1] * larger + [small] * (groups - larger)


@dataclass(frozen=True)
class Layout:
    """Where documents lie in a batch: one a row (padded on the right), or several behind one another (packed).

    Attributes:
        rows: lengths of the documents of each row.
        document: which of its row's documents a place belongs to, int64 [batch, width]; -1: padding.
        position: a place within its document, from 0, int64 [batch, width].
        length: tokens of its document, int64 [batch, width]; padding 1.
    """

    rows: tuple[tuple[int, ...], ...]
    document: Tensor
    position: Tensor
    length: Tensor

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> Layout:
        """The layout of documents of these lengths, row by row."""
        width = max(sum(row) for row in rows)
        document = torch.full((len(rows), width), -1)
        position, length = torch.zeros_like(document), torch.ones_like(document)
        for index, row in enumerate(rows):
            sizes = torch.tensor(row)
            used = slice(0, int(sizes.sum()))
            document[index, used] = torch.repeat_interleave(torch.arange(len(row)), sizes)
            length[index, used] = sizes[document[index, used]]
            starts = sizes.cumsum(0) - sizes
            position[index, used] = torch.arange(used.stop) - starts[document[index, used]]
        return cls(tuple(map(tuple, rows)), document.to(device), position.to(device), length.to(device))

    @property
    def width(self) -> int:
        """Places of a row."""
        return int(self.document.shape[1])

    def pooled(self, pooling: Pooling, layer: int = 0) -> tuple[Layout, Tensor]:
        """The layout of the groups, and each place's group.

        Returns:
            The groups as places, and int64 [batch, width]: the place of a token's group in its row; padding: one
            behind the last.
        """
        device = self.document.device
        counts = [[pooling.groups(length, layer) for length in row] for row in self.rows]
        groups = Layout.of(counts, device)
        longest = max(len(row) for row in counts)
        count = torch.ones(len(counts), longest + 1, dtype=torch.int64)  # the last column is the padding's
        first = torch.zeros_like(count)
        for index, row in enumerate(counts):
            count[index, : len(row)] = torch.tensor(row)
            first[index, 1 : len(row)] = torch.tensor(row).cumsum(0)[:-1]
        own_count = count.to(device).gather(1, self.document % (longest + 1))
        small = torch.div(self.length, own_count, rounding_mode="floor").clamp(min=1)
        larger = self.length - small * own_count
        edge = larger * (small + 1)
        group = torch.where(
            self.position < edge,
            torch.div(self.position, small + 1, rounding_mode="floor"),
            larger + torch.div(self.position - edge, small, rounding_mode="floor"),
        )
        place = first.to(device).gather(1, self.document % (longest + 1)) + group
        return groups, place.masked_fill(self.document < 0, groups.width)

    def split(self, states: Tensor) -> list[Tensor]:
        """States [batch, width, ...] by document, [n, ...] each, in the order of the rows."""
        found: list[Tensor] = []
        for line, row in zip(states, self.rows, strict=True):
            found.extend(line[: sum(row)].split(list(row)))
        return found


def means(states: Tensor, place: Tensor, groups: int) -> Tensor:
    """P h: the mean of each group's states, [batch, width, d] -> [batch, groups, d].

    Args:
        states: h.
        place: the group of each place, as `Layout.pooled` gives it.
        groups: places of the groups' layout; groups that are padding get zeros.
    """
    sums = states.new_zeros(len(states), groups + 1, states.shape[-1])
    sums = sums.scatter_add(1, place[..., None].expand_as(states), states)
    sizes = states.new_zeros(len(states), groups + 1).scatter_add(1, place, torch.ones_like(place, dtype=states.dtype))
    return (sums / sizes.clamp(min=1)[..., None])[:, :groups]


def last_places(place: Tensor, groups: int) -> Tensor:
    """The last place of each group in its row, int64 [batch, groups]; groups that are padding: 0."""
    index = torch.arange(place.shape[1], device=place.device).expand_as(place)
    found = place.new_zeros(len(place), groups + 1).scatter_reduce(1, place, index, "amax")
    return found[:, :groups]


def visible(queries: Layout, keys: Layout, until: Tensor | None = None) -> Tensor:
    """Who sees whom, bool [batch, 1, queries, keys]: places of the same document.

    Args:
        queries, keys: of the same documents in the same rows.
        until: the last position that a query sees, int64 [batch, queries] (a causal encoder); None: all of them.

    Padding sees everything, so that no row of a softmax is empty; nothing sees padding.
    """
    seen = queries.document[:, :, None] == keys.document[:, None, :]
    if until is not None:
        seen &= keys.position[:, None, :] <= until[:, :, None]
    return (seen | (queries.document < 0)[:, :, None])[:, None]
