"""What all sparse autoencoders are: an encoder, a dictionary of unit columns, the scale of their activations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from szilard.options import check_number


class SparseCoder(nn.Module, PyTorchModelHubMixin, ABC):
    """Base of the autoencoders; a kind gives `activate` and `loss`.

    Args:
        input_dim: d.
        dictionary_size: m.

    Attributes:
        dictionary: D [d, m], columns of norm 1.
        input_scale: s, by which activations are multiplied before everything.
        idle: rows since each feature was active, [m], counted in training.
        sparsity_scale: s(t), the warm-up of the penalty; 1 outside of trainings.
    """

    kind: ClassVar[str]
    input_scale: Tensor
    begun: Tensor
    idle: Tensor

    def __init__(self, input_dim: int, dictionary_size: int) -> None:
        super().__init__()
        check_number("input_dim", input_dim, low=1, integer=True)
        check_number("dictionary_size", dictionary_size, low=1, integer=True)
        self.input_dim, self.dictionary_size = input_dim, dictionary_size
        columns = F.normalize(torch.randn(input_dim, dictionary_size), dim=0)
        self.dictionary = nn.Parameter(columns)
        self.encoder_weight = nn.Parameter(columns.T.contiguous().clone())
        self.encoder_bias = nn.Parameter(torch.zeros(dictionary_size))
        self.decoder_bias = nn.Parameter(torch.zeros(input_dim))
        self.register_buffer("input_scale", torch.tensor(1.0))
        self.register_buffer("begun", torch.tensor(False))  # whether scale and bias are of some data
        self.register_buffer("idle", torch.zeros(dictionary_size, dtype=torch.int64))
        self.sparsity_scale = 1.0

    @torch.no_grad()
    def initialise(self, mean: Tensor, scale: float) -> None:
        """Take the scale and the mean [d] of activations, as they are before scaling."""
        self.input_scale.fill_(scale)
        self.decoder_bias.copy_(mean.to(self.decoder_bias) * scale)
        self.begun.fill_(True)

    def encode(self, x: Tensor) -> Tensor:
        """Codes z [N, m] of activations x [N, d].

        Raises:
            TypeError: no tensor.
            ValueError: another width.
        """
        return self.activate(self.before(self.scaled(x)))

    def decode(self, z: Tensor) -> Tensor:
        """Activations x^ [N, d] of codes z [N, m]."""
        if not isinstance(z, Tensor):
            raise TypeError(f"codes must be a tensor [rows, {self.dictionary_size}], not {type(z).__name__}.")
        if not z.dim() or z.shape[-1] != self.dictionary_size:
            raise ValueError(f"codes must be [rows, {self.dictionary_size}], not {list(z.shape)}.")
        return self.rebuild(z) / self.input_scale

    def forward(self, x: Tensor) -> Tensor:
        """x^ [N, d] of x [N, d]."""
        return self.decode(self.encode(x))

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The sparse codes S [N, m] of x [N, d] and, where the code has one, its low-rank part R [N, m]."""
        return self.encode(x), None

    def rank_factors(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """X [N, q] and W [m, q] with R = X W^T for x [N, d]; None where the code has no low-rank part."""
        return None

    @abstractmethod
    def activate(self, before: Tensor) -> Tensor:
        """Codes of what the encoder gives, both [N, m]."""

    @abstractmethod
    def loss(self, x: Tensor) -> dict[str, Tensor]:
        """ "loss" of activations x [N, d], and what went into it; all scalars."""

    def scaled(self, x: Tensor) -> Tensor:
        """s x."""
        if not isinstance(x, Tensor):
            raise TypeError(f"activations must be a tensor [rows, {self.input_dim}], not {type(x).__name__}.")
        if not x.dim() or x.shape[-1] != self.input_dim:
            raise ValueError(f"activations must be [rows, {self.input_dim}] for this autoencoder, not {list(x.shape)}.")
        return x.to(self.dictionary.dtype) * self.input_scale

    def before(self, target: Tensor) -> Tensor:
        """a [N, m] of scaled activations."""
        return F.linear(target - self.decoder_bias, self.encoder_weight, self.encoder_bias)

    def rebuild(self, z: Tensor) -> Tensor:
        """D z + b_dec, scaled."""
        return F.linear(z.to(self.dictionary.dtype), self.dictionary, self.decoder_bias)

    def reconstruction(self, target: Tensor, z: Tensor, sparse: Tensor | None = None) -> dict[str, Tensor]:
        """The error of codes, and how many are active; in training, who was.

        Args:
            target: s x [N, d].
            z: codes [N, m].
            sparse: the part of them that is sparse; None: all.
        """
        active = (z if sparse is None else sparse).detach() != 0
        if self.training:
            with torch.no_grad():
                self.idle.add_(len(z)).masked_fill_(active.any(0), 0)
        error = (target - self.rebuild(z)).float().square().sum(-1).mean()
        return {"error": error, "l0": active.float().sum(-1).mean()}

    def begin_step(self, share: float, warmup: float, anneal_start: float) -> None:
        """Called before a step, with the share of the training that is over."""
        self.sparsity_scale = min(1.0, share / warmup) if warmup else 1.0

    @torch.no_grad()
    def project_gradient(self) -> None:
        """Take out of the dictionary's gradient what would change the columns' norms."""
        gradient = self.dictionary.grad
        if gradient is not None:
            gradient.sub_(self.dictionary * (self.dictionary * gradient).sum(0))

    @torch.no_grad()
    def normalise(self) -> None:
        """Bring the dictionary's columns back to norm 1."""
        self.dictionary.div_(self.dictionary.norm(dim=0).clamp(min=1e-8))

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        """Write weights, config.json (with the kind) and a card."""
        config = options.pop("config", None) or getattr(self, "_hub_mixin_config", None) or {}
        return super().save_pretrained(save_directory, config={**config, "kind": self.kind}, **options)


class _Kernel(torch.autograd.Function):
    """a H(a - theta) or H(a - theta), with the gradients to theta of a rectangle of some bandwidth."""

    @staticmethod
    def forward(context: Any, before: Tensor, threshold: Tensor, bandwidth: float, values: bool) -> Tensor:
        context.save_for_backward(before, threshold)
        context.bandwidth, context.values = bandwidth, values
        above = (before > threshold).to(before.dtype)
        return before * above if values else above

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        (gradient,) = gradients
        before, threshold = context.saved_tensors
        near = ((before - threshold).abs() < context.bandwidth / 2).to(gradient.dtype) / context.bandwidth
        height = threshold if context.values else torch.ones_like(threshold)
        to_threshold = -(gradient * near).sum(0) * height
        return gradient * (before > threshold) if context.values else None, to_threshold, None, None


def kernel_values(before: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    """JumpReLU: a where a > theta, else 0; [N, m], theta [m]."""
    return _Kernel.apply(before, threshold, bandwidth, True)


def kernel_step(before: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    """1 where a > theta, else 0; only thresholds get a gradient."""
    return _Kernel.apply(before, threshold, bandwidth, False)
