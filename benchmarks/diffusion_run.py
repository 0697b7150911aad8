"""A rule on many prompts: what it wrote, and the rounds, columns and bits that it took, row by row."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch

from szilard.diffusion.bits import bits_of_rows, rounds_lower_bound
from szilard.diffusion.cache import CanvasCache
from szilard.diffusion.canvas_model import CanvasModel
from szilard.diffusion.fill import fill
from szilard.diffusion.learn2pd.oracle import EgpOracle
from szilard.diffusion.method import DiffusionMethod
from szilard.diffusion.state import DenoisingState
from szilard.diffusion.unmask import TopKUnmask

BATCH = 64


@dataclass(frozen=True)
class Filled:
    """What became of one canvas.

    Attributes:
        tokens: the answer up to its end of text, that included.
        canvas: all its columns.
        rounds: forwards it took part in.
        text_rounds: rounds that committed something of `tokens`: those of the tail alone are left out.
        copies: canvases that went through the model for it, per round (more than one: branches).
        columns: that were computed for it, in all rounds and copies.
        bits: committed, in all.
        most_bits: of a round.
    """

    tokens: list[int]
    canvas: list[int]
    rounds: int
    text_rounds: int
    copies: float
    columns: float
    bits: float
    most_bits: float


def run(
    model: CanvasModel,
    prompts: Sequence[Sequence[int]],
    method: DiffusionMethod,
    *,
    length: int,
    cache: CanvasCache | None = None,
    temperature: float = 0.0,
    batch: int = BATCH,
) -> list[Filled]:
    """Fill a canvas of `length` answer columns for every prompt, a batch at a time; draws depend on the batch alone.

    `EgpOracle` gets its reference here: the model's own answer, one column per round.
    """
    found: list[Filled] = []
    for first in range(0, len(prompts), batch):
        ids, real = _padded(prompts[first : first + batch])
        own = method
        if isinstance(method, EgpOracle):
            plain = fill(model, ids, TopKUnmask(block_length=method.block_length), length=length, real=real)
            own = dataclasses.replace(method, reference=[plain.canvas(row) for row in range(len(ids))])
        columns = _Columns(real, length)
        state = fill(
            model,
            ids,
            own,
            length=length,
            real=real,
            cache=cache,
            temperature=temperature,
            generator=torch.Generator().manual_seed(first),
            watch=columns,
        )
        found += _rows(state, columns.total, cached=cache is not None)
    return found


def summary(found: Sequence[Filled], length: int) -> dict[str, float]:
    """Means over canvases.

    Returns:
        rounds; text_rounds; tokens_per_round, all columns counted (the paper's); answer_tokens_per_round, up to the end
        of the text; copies, per round; columns computed; bits of an answer; bits_per_round; bound: what
        `rounds_lower_bound` says.
    """
    known = [one for one in found if math.isfinite(one.bits)]  # a branch may take a token that rounds to impossible
    values = {
        "rounds": fmean(one.rounds for one in found),
        "text_rounds": fmean(one.text_rounds for one in found),
        "tokens_per_round": fmean(length / one.rounds for one in found),
        "answer_tokens_per_round": fmean(len(one.tokens) / one.rounds for one in found),
        "copies": fmean(one.copies for one in found),
        "columns": fmean(one.columns for one in found),
    }
    if known:
        values["bits"] = fmean(one.bits for one in known)
        values["bits_per_round"] = fmean(one.bits / one.rounds for one in known)
        values["bound"] = fmean(rounds_lower_bound(one.bits, one.most_bits) for one in known)
    return {name: round(value, 4) for name, value in values.items()}


def pooled(records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, float]:
    """Means over records of what all of them have."""
    return {name: fmean(r[name] for r in records) for name in names if records and all(name in r for r in records)}


class _Columns:
    """Counts the columns of every row's own canvas, round by round: neither padding nor what other rows still need.

    Args:
        real: of the prompts, bool [rows, P].
        length: columns of an answer.
    """

    def __init__(self, real: torch.Tensor, length: int) -> None:
        self.width = real.sum(1) + length
        self.rounds = torch.zeros_like(self.width)
        self.total = torch.zeros_like(self.width)

    def __call__(self, state: DenoisingState) -> None:
        self.total += (state.rounds - self.rounds) * self.width
        self.rounds, self.width = state.rounds.clone(), state.real.sum(1)


def _rows(state: DenoisingState, columns: torch.Tensor, *, cached: bool) -> list[Filled]:
    rows = state.batch_size
    copies = state.cost.counters["row_rounds"] / int(state.rounds.sum())
    bits = bits_of_rows(state)
    found = []
    for row, tokens in enumerate(state.generated_tokens()):
        own = state.round_of[row, state.prompt_width :][: len(tokens)]
        found.append(
            Filled(
                tokens=tokens,
                canvas=state.canvas(row),
                rounds=int(state.rounds[row]),
                text_rounds=len(own[own > 0].unique()),
                copies=copies,
                # Under a cache the batch computes as many columns in every row.
                columns=sum(state.cost.tokens.values()) / rows if cached else float(columns[row]) * copies,
                bits=sum(bits[row]),
                most_bits=max(bits[row], default=0.0),
            )
        )
    return found


def _padded(prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts with padding before them, int64 [rows, P], and what is none, bool [rows, P]."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
    real = torch.tensor([[False] * (longest - len(prompt)) + [True] * len(prompt) for prompt in prompts])
    return ids, real
