"""LaDiR's training examples: question, blocks and answer in one row, and noisy copies of the blocks behind them.

    q, [<BOT> Z^(1) <EOT>], [<BOT> Z^(2) <EOT>], ..., <SOA>, answer | copies: [<BOT> time Z_t^(b) <EOT>], ...

A copy stands at the positions of its block and sees the question, the clean blocks before its own, and itself, so that
one forward trains every block at several noise levels, and the answer. A slot's input vector is a row of a bank:

    tokens | <BOT> <EOT> <SOA> | thoughts of the context | thoughts of the copies | times of the copies
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import Dataset

from szilard.reasoning.examples import IGNORED
from szilard.reasoning.ladir.mask import PADDING, TEXT, span_in_block
from szilard.reasoning.ladir.parts import BOT, EOT, SOA
from szilard.training.loop import Batch


@dataclass(frozen=True)
class Thought:
    """One problem.

    Attributes:
        question: ids.
        answer: ids, the end token last.
        mean, spread: of the latents of its sentences, [blocks, L_b, d_z] each.
    """

    question: list[int]
    answer: list[int]
    mean: torch.Tensor
    spread: torch.Tensor


class ThoughtData(Dataset[Thought]):
    """Problems by index."""

    def __init__(self, thoughts: Sequence[Thought]) -> None:
        self.thoughts = list(thoughts)

    def __len__(self) -> int:
        return len(self.thoughts)

    def __getitem__(self, index: int) -> Thought:
        return self.thoughts[index]


def packer(latent_tokens: int, latent_dim: int, span: str, draws: int) -> Callable[[Sequence[Thought]], Batch]:
    """The collate function.

    Args:
        latent_tokens: L_b.
        latent_dim: d_z.
        span: "block" or "latents".
        draws: noisy copies of every block.

    Returns:
        A function from problems to a batch of tensors, of R draws, B blocks and S slots:
        "tokens" int64 [batch, T], "question_lengths" int64 [batch]; "mean", "spread" [batch, B, L_b, d_z];
        "real_blocks" bool [batch, B]; per slot int64 [batch, S]: "source" (row of the bank), "path", "place", "span",
        "start" (see `mask.visible`) and "labels"; slots "noisy" int64 [batch, R, B, L_b] and "ends" int64 [batch, B].
    """
    size = latent_tokens
    whole, timed = (span_in_block(size, span, timestep=timestep) for timestep in (False, True))

    def pack(thoughts: Sequence[Thought]) -> Batch:
        batch = len(thoughts)
        widest = max(len(one.question) + len(one.answer) for one in thoughts)
        blocks = max(len(one.mean) for one in thoughts)
        delimiters = widest
        clean = delimiters + 3
        copies = clean + blocks * size
        times = copies + draws * blocks * size
        tokens = torch.zeros(batch, widest, dtype=torch.long)
        mean = torch.zeros(batch, blocks, size, latent_dim)
        spread = torch.zeros_like(mean)
        noisy = torch.zeros(batch, draws, blocks, size, dtype=torch.long)
        ends = torch.zeros(batch, blocks, dtype=torch.long)
        rows: list[list[tuple[int, int, int, int, int, int]]] = []
        for row, one in enumerate(thoughts):
            asked, count = len(one.question), len(one.mean)
            ids = [*one.question, *one.answer]
            tokens[row, : len(ids)] = torch.tensor(ids)
            mean[row, :count], spread[row, :count] = one.mean, one.spread
            slots = [(place, TEXT, place, 0, 0, IGNORED) for place in range(asked)]
            for block in range(count):
                first = len(slots)
                inner = [clean + block * size + token for token in range(size)]
                for offset, source in enumerate([delimiters + BOT, *inner, delimiters + EOT]):
                    number = block + 1 if whole[0] <= offset < whole[1] else 0
                    slots.append((source, TEXT, first + offset, number, 0, IGNORED))
                ends[row, block] = len(slots) - 1
            first = len(slots)
            written = [delimiters + SOA, *(asked + place for place in range(len(one.answer) - 1))]
            for offset, (source, label) in enumerate(zip(written, one.answer, strict=True)):
                slots.append((source, TEXT, first + offset, 0, 0, label))
            for draw in range(draws):
                for block in range(count):
                    start, copy = asked + block * (size + 2), draw * blocks + block
                    inner = [copies + copy * size + token for token in range(size)]
                    noisy[row, draw, block] = len(slots) + 2 + torch.arange(size)
                    for offset, source in enumerate([delimiters + BOT, times + copy, *inner, delimiters + EOT]):
                        number = 1 if timed[0] <= offset < timed[1] else 0
                        slots.append((source, 1 + copy, start + offset, number, start, IGNORED))
            rows.append(slots)
        width = max(map(len, rows))
        nothing = (0, PADDING, 0, 0, 0, IGNORED)
        table = torch.tensor([[*slots, *[nothing] * (width - len(slots))] for slots in rows])
        counts = torch.tensor([len(one.mean) for one in thoughts])
        columns = zip(("source", "path", "place", "span", "start", "labels"), table.unbind(-1), strict=True)
        return {
            "tokens": tokens,
            "question_lengths": torch.tensor([len(one.question) for one in thoughts]),
            "mean": mean,
            "spread": spread,
            "real_blocks": torch.arange(blocks) < counts[:, None],
            "noisy": noisy,
            "ends": ends,
        } | dict(columns)

    return pack
