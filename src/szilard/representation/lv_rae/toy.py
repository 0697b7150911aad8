"""Why decoders break: the toy model of section 3.2, with its closed forms.

    x in R^2,  z = P x in R^D,  P^T P = I;   U orthonormal, P^T U = 0;   W in R^{(D-2) x 2}, entries N(0, 1 / (D - 2))
    D(z) = P^T z + alpha W^T sin(beta U^T z)                                 (equation 6)
    J(z) = P^T + alpha beta W^T Diag(cos(beta U^T z)) U^T                    (equation 7)

On the manifold U^T z = 0, and D is the identity whatever alpha is. Closed forms (ours), with eps ~ N(0, I_D), in the
mean over eps and W, for every D > 2:

    E |D(P x + s eps) - x|^2 = 2 s^2 + alpha^2 (1 - exp(-2 beta^2 s^2))
    E |J(P x)|_F^2 = 2 (1 + alpha^2 beta^2)

An equal error in each coordinate is no worse in a wide latent; what grows with D is how far a generator leaves the
manifold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from szilard.options import check_number


@dataclass(frozen=True)
class ToyDecoder:
    """The decoder of equation 6.

    Attributes:
        p: [D, 2].
        u: [D, D - 2].
        w: [D - 2, 2].
        alpha: gain away from the manifold.
        beta: how fast it turns.
    """

    p: Tensor
    u: Tensor
    w: Tensor
    alpha: float
    beta: float = 1.0

    @classmethod
    def drawn(cls, dimensions: int, alpha: float, beta: float = 1.0, *, seed: int = 0) -> ToyDecoder:
        """With random P, U, W in float64.

        Args:
            dimensions: D, above 2.
            alpha, beta: at least 0.
            seed: of the draws.
        """
        check_number("dimensions", dimensions, low=3, integer=True)
        check_number("alpha", alpha, low=0)
        check_number("beta", beta, low=0)
        chance = torch.Generator().manual_seed(seed)
        basis = torch.linalg.qr(torch.randn(dimensions, dimensions, generator=chance, dtype=torch.float64)).Q
        w = torch.randn(dimensions - 2, 2, generator=chance, dtype=torch.float64) / math.sqrt(dimensions - 2)
        return cls(basis[:, :2], basis[:, 2:], w, alpha, beta)

    def encode(self, x: Tensor) -> Tensor:
        """[..., 2] -> [..., D]."""
        return x @ self.p.T.to(x)

    def decode(self, z: Tensor) -> Tensor:
        """[..., D] -> [..., 2]."""
        off = (self.beta * (z @ self.u.to(z))).sin()
        return z @ self.p.to(z) + self.alpha * off @ self.w.to(z)

    def jacobian(self, z: Tensor) -> Tensor:
        """[..., D] -> [..., 2, D]."""
        turned = (self.beta * (z @ self.u.to(z))).cos()  # [..., D - 2]
        return self.p.T.to(z) + self.alpha * self.beta * (self.w.T.to(z) * turned.unsqueeze(-2)) @ self.u.T.to(z)

    def off_manifold(self, z: Tensor) -> Tensor:
        """|U^T z|, [...]: how far a latent is from the plane of the data."""
        return (z @ self.u.to(z)).norm(dim=-1)


def expected_error(sigma: float, alpha: float, beta: float = 1.0) -> float:
    """E |D(P x + s eps) - x|^2 over eps and W; the same for every D."""
    return 2 * sigma**2 + alpha**2 * (1 - math.exp(-2 * beta**2 * sigma**2))


def expected_jacobian(alpha: float, beta: float = 1.0) -> float:
    """E |J|_F^2 over W, on the manifold."""
    return 2 * (1 + alpha**2 * beta**2)


def spiral(count: int, *, seed: int = 0, noise: float = 0.02) -> Tensor:
    """Points [count, 2] float32 along a spiral, about unit variance."""
    check_number("count", count, low=1, integer=True)
    chance = torch.Generator().manual_seed(seed)
    turn = 3 * math.pi * (0.15 + 0.85 * torch.rand(count, generator=chance).sqrt())
    points = torch.stack([turn.cos(), turn.sin()], dim=-1) * (turn / 5).unsqueeze(-1)
    return points + noise * torch.randn(points.shape, generator=chance)
