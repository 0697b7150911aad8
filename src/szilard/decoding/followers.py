"""Which tokens stand behind a run of w tokens in a set of sequences? Asked for a whole batch at once, at every step.

    followers(x) = {d_(i+w) : (d_i .. d_(i+w-1)) = x for a sequence d of the set},   x int64 [w]

The runs are the paths of a tree, a sorted list of numbers per level: node * base + token, in which a path's next node
is found by binary search. So a question is w searches for all rows together, and exact: nothing is hashed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


class Followers:
    """What follows every run of tokens of one length.

    Args:
        sequences: token ids, each [tokens]; a run never reaches from one into the next.
        window: w, tokens of a run.

    Raises:
        ValueError: no sequence is longer than the window, or something in them is no row of token ids.
    """

    def __init__(self, sequences: Iterable[Sequence[int] | Tensor], window: int) -> None:
        rows = [ids_of(sequence) for sequence in sequences]
        parts = [row.unfold(0, window + 1, 1) for row in rows if len(row) > window]
        if not parts:
            raise ValueError(f"no sequence is longer than window={window} tokens, so nothing would be blocked.")
        runs = torch.cat(parts)  # [places, window + 1]
        self.base = int(runs.max()) + 2  # base - 1 stands for all tokens that are not in the set
        node = torch.zeros(len(runs), dtype=torch.int64)
        self.levels: list[Tensor] = []  # of each: int64 [nodes], sorted
        for tokens in runs[:, :window].T:
            keys, node = (node * self.base + tokens).unique(return_inverse=True)
            self.levels.append(keys)
        pairs = (node * self.base + runs[:, window]).unique()
        self.tokens = pairs % self.base  # [pairs], those of a run together
        ends = torch.arange(len(self.levels[-1]) + 1) * self.base
        self.starts = torch.searchsorted(pairs, ends)  # [runs + 1]: where those of each run begin

    def __call__(self, runs: Tensor) -> tuple[Tensor, Tensor]:
        """The followers of each run.

        Args:
            runs: int64 [batch, window].

        Returns:
            Rows and tokens, int64 [found] each: token tokens[i] follows the run of row rows[i].
        """
        self._move(runs.device)
        node = torch.zeros(len(runs), dtype=torch.int64, device=runs.device)  # [batch]
        known = torch.ones_like(node, dtype=torch.bool)
        for keys, tokens in zip(self.levels, runs.T, strict=True):
            wanted = node * self.base + tokens.clamp(max=self.base - 1)
            node = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
            known &= keys[node] == wanted
        first = self.starts[node]
        counts = (self.starts[node + 1] - first) * known
        rows = torch.repeat_interleave(counts)  # [found]
        places = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows] + first[rows]
        return rows, self.tokens[places]

    def _move(self, device: torch.device) -> None:
        if self.starts.device != device:
            self.levels = [keys.to(device) for keys in self.levels]
            self.tokens, self.starts = self.tokens.to(device), self.starts.to(device)


def ids_of(sequence: Sequence[int] | Tensor) -> Tensor:
    """Token ids as int64 [tokens] on the CPU.

    Raises:
        ValueError: text, a single id, or ids below 0.
    """
    try:
        row = torch.as_tensor(sequence, dtype=torch.int64).cpu()
    except (TypeError, ValueError, RuntimeError):
        row = torch.tensor(-1)
    if row.dim() != 1 or (row < 0).any():
        raise ValueError(
            f"a sequence is a row of token ids of at least 0, not {str(sequence)[:60]!r}: encode texts first."
        )
    return row
