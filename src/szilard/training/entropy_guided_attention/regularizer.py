"""The entropy regulariser: heads that look everywhere, or at one token, are pulled towards a learned threshold.

Jha and Reagen 2025, arXiv 2501.03489, algorithm 1. With e the entropy of an attention row, theta a learned threshold of
every head and T the length of the text,

    delta   = e - theta log T
    penalty = delta^2  if |delta| > gamma log T  else 0
    L_total = L_CE + lambda (mean over layers of mean over heads of the penalties' sum over batch and rows)

The penalty jumps from 0 to (gamma log T)^2 at the edge of its band; in it there is no gradient. theta's gradient,
-2 delta log T, is log T times that of the entropy: thresholds follow heads, and the faster they learn the less heads
change. They are trained without weight decay, which would draw them to 0.

Reference code: Nandan91/entropy-guided-attention-llm (MIT).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from szilard.information.attention_entropy import attention_entropy
from szilard.options import check_bool, check_choice, check_number

REDUCTIONS = ("sum_rows", "mean_rows", "head_mean")
REFERENCES = ("normalise", "skip")


class EntropyRegularizer(nn.Module):
    """lambda L_ent of a model's attention, with a threshold `theta` per layer and head.

    Args:
        num_layers, num_heads: L, H.
        lam: lambda, the weight.
        gamma: half the width of the band without penalty, as a share of log T.
        theta_init: of every threshold, a share of log T. Not given in the paper, where learned ones end between 0.2 and
            0.52.
        reduction: "sum_rows": a penalty per row, summed over batch and rows, as the authors' code does and their values
            of lambda need; "mean_rows": the mean of the same penalties; "head_mean": algorithm 1 as it is printed, the
            entropy is averaged over the rows of a text first, and the penalty over texts. The sum is about B T times
            the means.
        one_sided: only entropies above the band are penalised (the text's formula); otherwise both sides (the
            algorithm and the code).
        per_row_reference: row i sees i tokens and reaches log i at most. None: log T is the reference of every row, as
            in the paper, and early rows pull thresholds down. "normalise": log i is. "skip": rows with log i below
            theta log T do not count. (ours)
        learn_theta: whether thresholds are learned.

    Attributes:
        theta: [L, H].

    Raises:
        ValueError: a number or word that is not allowed. TypeError: something else than a number.
    """

    def __init__(
        self,
        num_layers: int,
        num_heads: int,
        lam: float = 1e-5,
        gamma: float = 0.2,
        theta_init: float = 0.5,
        reduction: str = "sum_rows",
        one_sided: bool = False,
        per_row_reference: str | None = None,
        learn_theta: bool = True,
    ) -> None:
        super().__init__()
        check_number("num_layers", num_layers, low=1, integer=True)
        check_number("num_heads", num_heads, low=1, integer=True)
        check_number("lam", lam, low=0, high=1e9)
        check_number("gamma", gamma, low=0)
        check_number("theta_init", theta_init, low=0, high=1)
        check_choice("reduction", reduction, REDUCTIONS)
        check_bool("one_sided", one_sided)
        check_bool("learn_theta", learn_theta)
        if per_row_reference is not None:
            check_choice("per_row_reference", per_row_reference, REFERENCES)
            if reduction == "head_mean":
                raise ValueError(
                    "per_row_reference measures every row, and reduction='head_mean' only their mean: take 'sum_rows' "
                    "or 'mean_rows'."
                )
        self.lam, self.gamma, self.reduction = float(lam), float(gamma), reduction
        self.one_sided, self.per_row_reference = one_sided, per_row_reference
        self.theta = nn.Parameter(torch.full((num_layers, num_heads), float(theta_init)), requires_grad=learn_theta)

    def forward(
        self,
        attentions: Sequence[torch.Tensor],
        lengths: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """lambda L_ent of attention probabilities, a scalar.

        Args:
            attentions: per layer, [batch, heads, T, T], without dropout (transformers' `attentions` have it in
                training: set attention dropout to 0, or use `of_entropies`).
            lengths: of the texts, int [batch], padded on the right.
            mask: bool [batch, T], True: a real token; instead of lengths.

        Raises:
            ValueError: other shapes than the regulariser's, or no probabilities.
        """
        if not attentions or any(one is None for one in attentions):
            raise ValueError(
                "attentions holds no probabilities: load the model with attn_implementation='eager' and call it with "
                "output_attentions=True."
            )
        if len(shapes := {tuple(one.shape) for one in attentions}) > 1:
            raise ValueError(f"attentions must have one shape, not {', '.join(map(str, sorted(shapes)))}.")
        return self.of_entropies(torch.stack([attention_entropy(one) for one in attentions]), lengths, mask)

    def of_entropies(
        self, rows: torch.Tensor, lengths: torch.Tensor | None = None, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """lambda L_ent of row entropies, nats [layers, batch, heads, T]; see `forward`."""
        layers, heads = self.theta.shape
        if rows.dim() != 4 or rows.shape[0] != layers or rows.shape[2] != heads:
            raise ValueError(
                f"row entropies must have the shape [{layers}, batch, {heads}, T] of this regulariser, not "
                f"{list(rows.shape)}."
            )
        batch, length = rows.shape[1], rows.shape[3]
        theta = self.theta.to(rows.dtype)[:, None, :, None]  # [layers, 1, heads, 1]
        real = self._real(batch, length, lengths, mask, rows.device)
        count = real.sum(-1)  # [batch]
        most = count.to(rows.dtype).clamp(min=1).log()[:, None, None]  # log T of every text, [batch, 1, 1]
        weight = real[:, None].to(rows.dtype)  # [batch, 1, T]
        if self.reduction == "head_mean":
            rows = (rows * weight).sum(-1, keepdim=True) / count.clamp(min=1)[:, None, None]
            return self._of_means(self._penalties(rows - theta * most, most), count)
        if self.per_row_reference is not None:
            own = real.cumsum(-1).clamp(min=1).to(rows.dtype).log()[:, None]  # log i, [batch, 1, T]
            if self.per_row_reference == "normalise":
                most = own
            else:
                weight = weight * (own >= theta.detach() * most)
        penalties = self._penalties(rows - theta * most, most) * weight
        total = penalties.sum((1, 3)).mean()  # over batch and rows; mean over layers and heads
        return self.lam * (total if self.reduction == "sum_rows" else total / count.sum().clamp(min=1))

    def _of_means(self, penalties: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        there = (count > 0).to(penalties.dtype)[:, None, None]
        return self.lam * (penalties * there).sum((1, 3)).mean() / there.sum().clamp(min=1)

    def _penalties(self, delta: torch.Tensor, most: torch.Tensor) -> torch.Tensor:
        outside = (delta if self.one_sided else delta.abs()) > self.gamma * most
        return torch.where(outside, delta.square(), 0.0)

    @staticmethod
    def _real(
        batch: int,
        length: int,
        lengths: torch.Tensor | None,
        mask: torch.Tensor | None,
        device: torch.device,
    ) -> torch.Tensor:
        """Which rows are of real tokens, bool [batch, T]."""
        if lengths is not None and mask is not None:
            raise ValueError("give lengths or a mask, not both.")
        if mask is not None:
            mask = torch.as_tensor(mask)
            if mask.shape != (batch, length):
                raise ValueError(f"mask must have the shape [{batch}, {length}], not {list(mask.shape)}.")
            return mask.to(device).bool()
        if lengths is None:
            return torch.ones(batch, length, dtype=torch.bool, device=device)
        lengths = torch.as_tensor(lengths)
        if lengths.shape != (batch,) or not bool(((lengths >= 1) & (lengths <= length)).all()):
            raise ValueError(f"lengths must be {batch} numbers from 1 to {length}, not {lengths.tolist()}.")
        return torch.arange(length, device=device) < lengths.to(device)[:, None]

    def extra_repr(self) -> str:
        """What print shows."""
        return f"lam={self.lam}, gamma={self.gamma}, reduction={self.reduction!r}, one_sided={self.one_sided}"


def comparable_weight(lam: float, rows: int, published_rows: int = 64 * 128) -> float:
    """lambda of the summed form for batches of another size, so that penalty and loss weigh the same.

    Args:
        lam: published, with `published_rows` = batch x tokens of a step.
        rows: batch x tokens of a batch here: accumulated batches and processes are averaged, not summed.

    Raises:
        ValueError: a number out of range; TypeError: no number.
    """
    check_number("lam", lam, low=0)
    check_number("published_rows", published_rows, low=1, integer=True)
    check_number("rows", rows, low=1, integer=True)
    return lam * published_rows / rows
