"""The structured sparse autoencoder: a code that is sparse plus low-rank.

Liu et al., "I Predict Therefore I Am: Is Next Token Prediction Enough to Learn Human-Interpretable Concepts from
Data?", ICLR 2026, arXiv:2503.08980. Concepts depend on each other, so that their joint code has a part of low rank:

    z = S + R,   x^ = D z + b_dec
    L = E ||x - x^||_2^2 + lambda_t ||S||_{p_t}^{p_t} + gamma ||R||_nuc

p_t and lambda_t are p-annealing's. How S and R are made could not be read; (inferred) both from c = s x - b_dec:
S = ReLU(W_S c + b_S), and R by one of two heads:

    linear        R = W_R c + b_R; the nuclear norm itself, from Gram matrices of d x d
    factorised    R = (c U) V^T, rank r at most; 1/2 (||c U||_F^2 / N + ||V||_F^2), which is never below the norm

(inferred) The norm is that of R / sqrt(N) for a batch of N rows, so that gamma does not depend on the batch's size.
A small gamma lets R take over everything, a large one lets S: the share of R tells.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from szilard.information.nuclear_norm import nuclear_norm_of_product
from szilard.options import check_choice, check_number
from szilard.representation.concept_sae.autoencoders import PAnnealSae

HEADS = ("linear", "factorised", "none")


class StructuredSparseAutoencoder(PAnnealSae):
    """z = S + R.

    Args:
        input_dim: d.
        dictionary_size: m.
        sparsity_weight: lambda at p = 1.
        rank_weight: gamma.
        rank_head: linear, factorised, or none: R = 0, which is p-annealing.
        rank: r of the factorised head.
        final_p, updates, epsilon: of p-annealing.
    """

    kind = "structured"

    def __init__(
        self,
        input_dim: int,
        dictionary_size: int,
        *,
        sparsity_weight: float = 1.0,
        rank_weight: float = 1.0,
        rank_head: str = "linear",
        rank: int = 32,
        final_p: float = 0.0,
        updates: int = 10,
        epsilon: float = 1e-4,
    ) -> None:
        super().__init__(
            input_dim,
            dictionary_size,
            sparsity_weight=sparsity_weight,
            final_p=final_p,
            updates=updates,
            epsilon=epsilon,
        )
        check_number("rank_weight", rank_weight, low=0, high=1e12)
        check_choice("rank_head", rank_head, HEADS)
        check_number("rank", rank, low=1, integer=True)
        self.rank_weight, self.rank_head = rank_weight, rank_head
        if rank_head == "linear":
            self.rank_matrix = nn.Parameter(0.01 * torch.randn(dictionary_size, input_dim))
            self.rank_bias = nn.Parameter(torch.zeros(dictionary_size))
        elif rank_head == "factorised":
            self.rank_in = nn.Parameter(0.1 * torch.randn(input_dim, rank) / input_dim**0.5)
            self.rank_out = nn.Parameter(0.1 * torch.randn(dictionary_size, rank) / dictionary_size**0.5)

    def encode(self, x: Tensor) -> Tensor:
        """z = S + R [N, m]; see `parts` for them apart."""
        sparse, dense = self.parts(x)
        return sparse if dense is None else sparse + dense

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """S >= 0 and R (None without a head), both [N, m], of activations x [N, d]."""
        target = self.scaled(x)
        return self.activate(self.before(target)), self.low_rank(target)

    def low_rank(self, target: Tensor) -> Tensor | None:
        """R [N, m] of scaled activations."""
        centred = target - self.decoder_bias
        if self.rank_head == "linear":
            return F.linear(centred, self.rank_matrix, self.rank_bias)
        if self.rank_head == "factorised":
            return centred @ self.rank_in @ self.rank_out.T
        return None

    def rank_factors(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """X [N, q] and W [m, q] with R = X W^T for activations x [N, d], q = d + 1 or r; None without a head."""
        return self._factors(self.scaled(x))

    def _factors(self, target: Tensor) -> tuple[Tensor, Tensor] | None:
        centred = (target - self.decoder_bias).float()
        if self.rank_head == "linear":  # the bias is one more column
            whole = torch.cat([centred, torch.ones_like(centred[:, :1])], 1)
            return whole, torch.cat([self.rank_matrix, self.rank_bias[:, None]], 1)
        return (centred @ self.rank_in, self.rank_out) if self.rank_head == "factorised" else None

    def rank_penalty(self, target: Tensor) -> Tensor:
        """||R / sqrt(N)||_nuc of scaled activations, or the surrogate of the factorised head; a scalar."""
        factors = self._factors(target)
        if factors is None:
            return target.new_zeros(())
        left, right = factors
        if self.rank_head == "factorised":
            return 0.5 * (left.square().sum() / len(left) + right.square().sum())
        return (nuclear_norm_of_product(left, right) / len(left) ** 0.5).float()

    def loss(self, x: Tensor) -> dict[str, Tensor]:
        target = self.scaled(x)
        sparse = self.activate(self.before(target))
        dense = self.low_rank(target)
        found = self.reconstruction(target, sparse if dense is None else sparse + dense, sparse)
        found["penalty"] = self.sparsity(sparse)
        loss = found["error"] + self._weighted(found["penalty"])
        if dense is not None and self.rank_weight:
            found["nuclear"] = self.rank_penalty(target)
            loss = loss + self.rank_weight * found["nuclear"]
        return {"loss": loss, **found, "p": self.p.float()}
