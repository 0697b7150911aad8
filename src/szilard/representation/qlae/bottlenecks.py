"""What can stand between encoder and decoder: the latent quantiser, and what it is compared with.

    ae         nothing: the features are the latents
    bioae      the same, drawn to be non-negative and small              Whittington et al., ICLR 2023, arXiv 2210.01768
    beta-vae   a Gaussian posterior, KL to the standard normal           Higgins et al., ICLR 2017
    beta-tcvae the same, its total correlation weighted apart            Chen et al., NeurIPS 2018, arXiv 1802.04942
    qlae       a learned scalar codebook per latent                      see quantizer.py
    fsq        tanh, then rounding to a fixed grid, nothing is learned   Mentzer et al., ICLR 2024, arXiv 2309.15505
    vq-vae     a vector of one table per latent                          van den Oord et al., NeurIPS 2017

A bottleneck maps features [B, features] to a latent for the decoder [B, outputs], codes [B, n_z] that stand for it
(indices where `discrete`, numbers else) and penalties, each with a weight that is its paper's unless a config says
otherwise. `decode` goes from codes to latents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from szilard.options import check_choice, check_number
from szilard.representation.qlae.quantizer import LatentQuantizer, check_codes, uniform_codes


class Code(Protocol):
    """What `Bottleneck.forward` gives."""

    @property
    def latent(self) -> Tensor: ...
    @property
    def codes(self) -> Tensor: ...
    @property
    def penalties(self) -> dict[str, Tensor]: ...


@dataclass(frozen=True)
class Coded:
    """What most bottlenecks make of features: see the file's docstring."""

    latent: Tensor
    codes: Tensor
    penalties: dict[str, Tensor]


class Bottleneck(nn.Module):
    """The interface; see the file's docstring.

    Attributes:
        weights: of the penalties by name.
        discrete: whether codes are indices.
        per_picture: whether penalties are sums over a picture, as its log-likelihood is; else means.
        features, outputs: widths of what comes in and of the latent.
        counts: int64 [n_z] values of each latent; None where they are numbers.
    """

    weights: ClassVar[dict[str, float]] = {}
    discrete: ClassVar[bool] = False
    per_picture: ClassVar[bool] = False
    counts: Tensor | None

    def __init__(self, num_latents: int, features: int, outputs: int, counts: Tensor | None = None) -> None:
        super().__init__()
        check_number("num_latents", num_latents, low=1, integer=True)
        self.num_latents, self.features, self.outputs = num_latents, num_latents * features, num_latents * outputs
        self.register_buffer("counts", counts, persistent=False)

    def extra_repr(self) -> str:
        values = "" if self.counts is None else f", {self.counts.tolist()} values"
        return f"{self.num_latents} latents{values}"

    def forward(self, features: Tensor) -> Code:
        """[B, features] -> latent, codes, penalties."""
        return Coded(features, features, {})

    def decode(self, codes: Tensor) -> Tensor:
        """[B, n_z] codes -> [B, outputs] latents.

        Raises:
            ValueError: no codes of this bottleneck.
        """
        if codes.shape[-1:] != (self.num_latents,) or not codes.is_floating_point():
            kind = str(codes.dtype).removeprefix("torch.")
            raise ValueError(f"codes must be numbers [..., {self.num_latents}], not {kind} {tuple(codes.shape)}.")
        if not bool(codes.isfinite().all()):
            raise ValueError("codes must be finite numbers.")
        return codes

    def sample(self, batch: int, generator: torch.Generator | None = None) -> Tensor:
        """[batch, n_z] codes as the prior has them.

        Raises:
            ValueError: there is no prior.
        """
        raise ValueError("the latents of a plain autoencoder have no prior to draw from: encode pictures.")


class Biological(Bottleneck):
    """BioAE: "nonnegativity" is the mean of ReLU(-c), "activity" the mean of c^2 (their form is inferred).

    The decay of weights (in the paper an L2 loss of 1e-4) is the training's `weight_decay`.
    """

    weights: ClassVar[dict[str, float]] = {"nonnegativity": 1.0, "activity": 0.01}

    def __init__(self, num_latents: int) -> None:
        super().__init__(num_latents, 1, 1)

    def forward(self, features: Tensor) -> Code:
        penalties = {"nonnegativity": (-features).relu().mean(), "activity": features.square().mean()}
        return Coded(features, features, penalties)


class Quantizing(Bottleneck):
    """QLAE's codebooks (`LatentQuantizer`) as a bottleneck."""

    weights: ClassVar[dict[str, float]] = {"quantization": 0.01, "commitment": 0.01}
    discrete = True

    def __init__(self, num_latents: int, num_values: int | Sequence[int], learn: bool, shared: bool) -> None:
        quantizer = LatentQuantizer(num_latents, num_values, learn_values=learn, shared_codebook=shared)
        super().__init__(num_latents, 1, 1, quantizer.counts)
        self.quantizer = quantizer

    def forward(self, features: Tensor) -> Code:
        return self.quantizer(features)

    def decode(self, codes: Tensor) -> Tensor:
        return self.quantizer.decode(codes)

    def sample(self, batch: int, generator: torch.Generator | None = None) -> Tensor:
        return self.quantizer.sample(batch, generator)


class Rounding(Bottleneck):
    """FSQ: z = tanh(c), rounded to evenly spaced values of [-1, 1], straight through."""

    discrete = True
    counts: Tensor

    def __init__(self, num_latents: int, num_values: int | Sequence[int]) -> None:
        super().__init__(num_latents, 1, 1, LatentQuantizer(num_latents, num_values).counts)

    def forward(self, features: Tensor) -> Code:
        bounded, steps = features.tanh(), self.counts - 1
        codes = ((bounded.detach() + 1) / 2 * steps).round().long()
        return Coded(bounded + (self._value(codes) - bounded).detach(), codes, {})

    def decode(self, codes: Tensor) -> Tensor:
        check_codes(codes, self.counts)
        return self._value(codes)

    def sample(self, batch: int, generator: torch.Generator | None = None) -> Tensor:
        return uniform_codes(batch, self.counts, generator)

    def _value(self, codes: Tensor) -> Tensor:
        return codes / (self.counts - 1) * 2 - 1


class VectorQuantizing(Bottleneck):
    """VQ-VAE: each latent is a vector of one table for all; its codes are indices, its vectors are no scalars."""

    weights: ClassVar[dict[str, float]] = {"quantization": 1.0, "commitment": 0.25}
    discrete = True
    counts: Tensor

    def __init__(self, num_latents: int, vectors: int = 512, width: int = 64) -> None:
        super().__init__(num_latents, width, width, torch.full((num_latents,), vectors))
        bound = math.sqrt(3 / width)
        self.table = nn.Parameter(torch.empty(vectors, width).uniform_(-bound, bound))

    def forward(self, features: Tensor) -> Code:
        rows = features.unflatten(-1, (self.num_latents, -1))  # [B, n_z, width]
        with torch.no_grad():  # |row|^2 is the same for all vectors
            codes = (self.table.square().sum(-1) - 2 * rows @ self.table.T).argmin(-1)
        found = self.table[codes]
        penalties = {
            "quantization": (rows.detach() - found).square().mean(),
            "commitment": (rows - found.detach()).square().mean(),
        }
        return Coded((rows + (found - rows).detach()).flatten(-2), codes, penalties)

    def decode(self, codes: Tensor) -> Tensor:
        check_codes(codes, self.counts)
        return self.table[codes.long()].flatten(-2)

    def sample(self, batch: int, generator: torch.Generator | None = None) -> Tensor:
        return uniform_codes(batch, self.counts, generator)


class Gaussian(Bottleneck):
    """beta-VAE: features are means and log variances; the codes are the means, the latent is drawn while training.

    "divergence" is KL(q(z|x) || N(0, I)), summed over latents, in nats per picture.
    """

    weights: ClassVar[dict[str, float]] = {"divergence": 1.0}
    per_picture = True

    def __init__(self, num_latents: int) -> None:
        super().__init__(num_latents, 2, 1)

    def forward(self, features: Tensor) -> Code:
        mean, log_variance = features.chunk(2, dim=-1)
        latent = mean
        if self.training:
            latent = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        return Coded(latent, mean, self.penalties(mean, log_variance, latent))

    def penalties(self, mean: Tensor, log_variance: Tensor, latent: Tensor) -> dict[str, Tensor]:
        """By name; all of the arguments are [B, n_z]."""
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1).mean() / 2
        return {"divergence": divergence}

    def sample(self, batch: int, generator: torch.Generator | None = None) -> Tensor:
        check_number("batch", batch, low=1, integer=True)
        return torch.randn(batch, self.num_latents, generator=generator)


class TotalCorrelation(Gaussian):
    """beta-TCVAE: to the divergence (weight 1) comes the total correlation KL(q(z) || prod_j q(z_j)) by its weight - 1.

    Densities q(z) are estimated from the batch (minibatch-weighted sampling, equation S2 of Chen et al.); the size of
    the data only adds a constant, so it is left out.
    """

    weights: ClassVar[dict[str, float]] = {"divergence": 1.0, "total_correlation": 2.0}

    def penalties(self, mean: Tensor, log_variance: Tensor, latent: Tensor) -> dict[str, Tensor]:
        gap = latent[:, None] - mean[None]  # [sample, whose posterior, n_z]
        log_density = -0.5 * (gap.square() / log_variance.exp() + log_variance + math.log(2 * math.pi))
        size = math.log(len(mean))
        joint = log_density.sum(-1).logsumexp(1) - size
        apart = (log_density.logsumexp(1) - size).sum(-1)
        correlation = (joint - apart).mean()
        return super().penalties(mean, log_variance, latent) | {"total_correlation": correlation}


BOTTLENECKS = ("qlae", "ae", "bioae", "beta-vae", "beta-tcvae", "vq-vae", "fsq")


def make_bottleneck(
    name: str, num_latents: int, num_values: int | Sequence[int], learn_values: bool, shared_codebook: bool
) -> Bottleneck:
    """A bottleneck by its name; what it does not know is left out.

    Raises:
        ValueError: no such name, or numbers out of range.
    """
    check_choice("bottleneck", name, BOTTLENECKS)
    if name == "qlae":
        return Quantizing(num_latents, num_values, learn_values, shared_codebook)
    if name == "fsq":
        return Rounding(num_latents, num_values)
    if name == "vq-vae":
        return VectorQuantizing(num_latents)
    if name == "bioae":
        return Biological(num_latents)
    if name == "ae":
        return Bottleneck(num_latents, 1, 1)
    return Gaussian(num_latents) if name == "beta-vae" else TotalCorrelation(num_latents)
