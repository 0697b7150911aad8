"""Static normalisation of weights, which holds deep heads back from entropy collapse at no cost in inference.

Jha and Reagen 2025, arXiv 2501.03489, section 4:

    weight normalisation     W = g v / ||v||          of every output, g learned
    spectral normalisation   W = v / sigma_max(v)     by power iteration, one round per training step

Both are parametrisations of PyTorch: `torch.nn.utils.parametrize.remove_parametrizations` folds them in.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import parametrize

from szilard.training.entropy_guided_attention.parts import outputs_first

_TINY = 1e-12
_FIRST_ROUNDS = 15  # of power iteration, so that the first step is near


class WeightNorm(nn.Module):
    """Chosen outputs of a layer, each of a learned length `gain` (g).

    Args:
        weight: the layer's, whose lengths are the first ones: nothing changes at first.
        parts: which outputs.
        out: the dimension of the weight that counts outputs.
    """

    def __init__(self, weight: torch.Tensor, parts: tuple[slice, ...], out: int) -> None:
        super().__init__()
        self.out = out
        chosen = torch.zeros(weight.shape[out], dtype=torch.bool)
        for part in parts:
            chosen[part] = True
        self.chosen: torch.Tensor
        self.register_buffer("chosen", chosen, persistent=False)
        self.gain = nn.Parameter(weight.detach().norm(dim=1 - out).clone())

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """v to W."""
        scale = self.gain / weight.norm(dim=1 - self.out).clamp(min=_TINY)
        scale = torch.where(self.chosen, scale, 1.0)
        return weight * (scale[:, None] if self.out == 0 else scale[None])


class SpectralNorm(nn.Module):
    """Matrices of a layer, each divided by its largest singular value.

    The singular vectors are followed by one round of power iteration per forward in training, and stand still in eval.

    Args:
        weight: the layer's.
        parts: which outputs are one matrix each.
        out: the dimension of the weight that counts outputs.
    """

    def __init__(self, weight: torch.Tensor, parts: tuple[slice, ...], out: int) -> None:
        super().__init__()
        self.out, self.parts = out, parts
        size = weight.shape[1 - out]
        start = torch.ones(len(parts), size, dtype=weight.dtype, device=weight.device)
        start = start + torch.linspace(-0.5, 0.5, size, dtype=weight.dtype, device=weight.device)
        self.inner: torch.Tensor  # unit vectors on the inputs' side, [parts, inputs]
        self.register_buffer("inner", nn.functional.normalize(start, dim=-1))
        for _ in range(_FIRST_ROUNDS):
            self._iterate(weight)

    @torch.no_grad()
    def _iterate(self, weight: torch.Tensor) -> None:
        for index, part in enumerate(self.parts):
            matrix = self._matrix(weight, part)  # [outputs, inputs]
            self.inner[index] = nn.functional.normalize(matrix.T @ (matrix @ self.inner[index]), dim=-1, eps=_TINY)

    def _matrix(self, weight: torch.Tensor, part: slice) -> torch.Tensor:
        return weight[part] if self.out == 0 else weight[:, part].T

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """v to W."""
        if self.training:
            self._iterate(weight)
        scale = torch.ones(weight.shape[self.out], dtype=weight.dtype, device=weight.device)
        for index, part in enumerate(self.parts):
            along = self._matrix(weight, part) @ self.inner[index].clone()
            # sigma = u^T v w with u = v w / ||v w||: u and w are constants for the gradient, as in Miyato et al. 2018
            outer = nn.functional.normalize(along.detach(), dim=-1, eps=_TINY)
            sigma = (outer @ along).clamp(min=_TINY)
            own = torch.zeros_like(scale)
            own[part] = 1.0
            scale = scale * (1 - own) + own / sigma
        return weight * (scale[:, None] if self.out == 0 else scale[None])


def normalise(layer: nn.Module, parts: tuple[slice, ...], kind: str) -> None:
    """Give a linear layer normalised weights.

    Args:
        layer: nn.Linear, or GPT-2's Conv1D.
        parts: which outputs; each is a matrix of its own.
        kind: "weight" or "spectral".
    """
    out = 0 if outputs_first(layer) else 1
    made = {"weight": WeightNorm, "spectral": SpectralNorm}[kind](layer.weight, parts, out)  # type: ignore[arg-type]
    parametrize.register_parametrization(layer, "weight", made)
