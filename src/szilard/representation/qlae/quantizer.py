"""Latent quantisation: each latent dimension is snapped to the nearest value of a small scalar codebook of its own.

Hsu, Dorrell, Whittington, Wu, Finn, "Disentanglement via Latent Quantization", NeurIPS 2023, arXiv 2305.18378.

With the encoder's output c in R^(n_z) and codebooks V_j = (v_j1 .. v_jn_v):

    i_j = argmin_k |c_j - v_jk|          q_j = v_(j, i_j)           n_v^n_z codes of n_z n_v numbers
    z   = c + stopgrad(q - c)            what the decoder sees: its gradient reaches the encoder, never a codebook
    L_q = mean_j (stopgrad(c_j) - q_j)^2       moves the codebooks, and nothing else
    L_c = mean_j (c_j - stopgrad(q_j))^2       moves the encoder, and nothing else
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from szilard.options import check_bool, check_number

FIRST, LAST = -0.5, 0.5  # ends of a codebook at its start


@dataclass(frozen=True)
class Quantized:
    """What a quantiser makes of continuous latents.

    Attributes:
        latent: z [..., n_z], straight through. Equal to `quantized` up to rounding, so count and compare indices.
        continuous: c [..., n_z].
        quantized: q [..., n_z].
        indices: i [..., n_z], int64.
        quantization_loss: L_q, a scalar.
        commitment_loss: L_c, a scalar.
    """

    latent: Tensor
    continuous: Tensor
    quantized: Tensor
    indices: Tensor
    quantization_loss: Tensor
    commitment_loss: Tensor

    @property
    def codes(self) -> Tensor:
        """The indices."""
        return self.indices

    @property
    def penalties(self) -> dict[str, Tensor]:
        """Both losses by name."""
        return {"quantization": self.quantization_loss, "commitment": self.commitment_loss}


class LatentQuantizer(nn.Module):
    """Scalar codebooks, one per latent.

    Args:
        num_latents: n_z.
        num_values: n_v, of every latent or a list with a number per latent.
        learn_values: False keeps the codebooks as they begin: evenly spaced from -1/2 to 1/2.
        shared_codebook: one codebook for all latents, an ablation of the paper.

    Attributes:
        codebook: [n_z, most values], or [1, n_v] where shared; rows of fewer values are filled up and never chosen.

    Raises:
        TypeError, ValueError: numbers out of range, or a shared codebook of several sizes.
    """

    def __init__(
        self,
        num_latents: int,
        num_values: int | Sequence[int] = 10,
        *,
        learn_values: bool = True,
        shared_codebook: bool = False,
    ) -> None:
        super().__init__()
        check_number("num_latents", num_latents, low=1, integer=True)
        check_bool("learn_values", learn_values)
        check_bool("shared_codebook", shared_codebook)
        counts = list(num_values) if isinstance(num_values, Sequence) else [num_values] * num_latents
        for count in counts:
            check_number("num_values", count, low=2, integer=True)
        if len(counts) != num_latents:
            raise ValueError(f"num_values lists {len(counts)} numbers for {num_latents} latents: give one per latent.")
        if shared_codebook and len(set(counts)) > 1:
            raise ValueError(f"a shared codebook has one number of values, not {sorted(set(counts))}.")
        self.num_latents, self.shared_codebook = num_latents, shared_codebook
        rows = counts[:1] if shared_codebook else counts
        book = torch.full((len(rows), max(rows)), FIRST)
        for row, count in zip(book, rows, strict=True):
            row[:count] = torch.linspace(FIRST, LAST, count)
        self.codebook = nn.Parameter(book, requires_grad=learn_values)
        self.counts: Tensor
        self.register_buffer("counts", torch.tensor(counts), persistent=False)
        self._even = len(set(counts)) == 1

    @property
    def values(self) -> list[Tensor]:
        """Of each latent, [n_v]."""
        rows = self.codebook.detach().expand(self.num_latents, -1)
        return [row[:count] for row, count in zip(rows, self.counts.tolist(), strict=True)]

    def forward(self, continuous: Tensor) -> Quantized:
        """Snap each latent to its nearest value; of two equally near ones, to the first.

        Args:
            continuous: c [..., n_z].

        Raises:
            TypeError, ValueError: another type or shape, or, in evaluation mode, no finite numbers.
        """
        if not isinstance(continuous, Tensor) or not continuous.is_floating_point():
            kind = getattr(continuous, "dtype", type(continuous).__name__)
            raise TypeError(f"latents must be a tensor of numbers [..., {self.num_latents}], not {kind}.")
        if continuous.shape[-1:] != (self.num_latents,) or not continuous.numel():
            raise ValueError(
                f"latents must be [..., {self.num_latents}], one row at least, not {tuple(continuous.shape)}."
            )
        if not self.training and not bool(continuous.isfinite().all()):  # in training the loss shows it
            raise ValueError("latents must be finite: NaN has no nearest value.")
        with torch.no_grad():
            distance = (continuous.unsqueeze(-1) - self.codebook).abs()  # [..., n_z, n_v]
            if not self._even:
                places = torch.arange(distance.shape[-1], device=distance.device)
                distance.masked_fill_(places >= self.counts[:, None], torch.inf)
            indices = distance.argmin(-1)
        quantized = self._look_up(indices)
        return Quantized(
            latent=continuous + (quantized - continuous).detach(),
            continuous=continuous,
            quantized=quantized,
            indices=indices,
            quantization_loss=(continuous.detach() - quantized).square().mean(),
            commitment_loss=(continuous - quantized.detach()).square().mean(),
        )

    def decode(self, indices: Tensor) -> Tensor:
        """The values [..., n_z] of indices [..., n_z].

        Raises:
            ValueError: another shape, or an index that a latent has not.
        """
        check_codes(indices, self.counts)
        return self._look_up(indices.long())

    def sample(self, batch: int, generator: torch.Generator | None = None) -> Tensor:
        """Indices [batch, n_z]: each latent's values are equally likely."""
        return uniform_codes(batch, self.counts, generator)

    def extra_repr(self) -> str:
        counts = sorted(set(self.counts.tolist()))
        shared = ", shared" if self.shared_codebook else ""
        kept = "" if self.codebook.requires_grad else ", fixed"
        shown = counts[0] if len(counts) == 1 else self.counts.tolist()
        return f"{self.num_latents} latents of {shown} values{shared}{kept}"

    def _look_up(self, indices: Tensor) -> Tensor:
        latents = torch.arange(self.num_latents, device=indices.device)
        return self.codebook.expand(self.num_latents, -1)[latents, indices]


def check_codes(indices: Tensor, counts: Tensor) -> None:
    """Refuse what is no code: indices [..., n_z] below counts [n_z].

    Raises:
        ValueError: another shape or type, or an index out of range.
    """
    if not isinstance(indices, Tensor):
        raise TypeError(f"codes must be a tensor [..., {len(counts)}], not a {type(indices).__name__}.")
    if indices.is_floating_point() or indices.shape[-1:] != counts.shape:
        kind = str(indices.dtype).removeprefix("torch.")
        raise ValueError(f"codes must be whole numbers [..., {len(counts)}], not {kind} {tuple(indices.shape)}.")
    if bool(((indices < 0) | (indices >= counts.to(indices.device))).any()):
        raise ValueError(f"codes must be from 0 to {int(counts.max()) - 1}, as many as the latent has values.")


def uniform_codes(batch: int, counts: Tensor, generator: torch.Generator | None) -> Tensor:
    """[batch, n_z] indices below counts [n_z], all equally likely."""
    check_number("batch", batch, low=1, integer=True)
    where = counts.device if generator is None else generator.device
    share = torch.rand(batch, len(counts), generator=generator, device=where, dtype=torch.float64).to(counts.device)
    return (share * counts).long()
