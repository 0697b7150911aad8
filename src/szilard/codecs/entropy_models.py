"""What a latent costs: a factorised density for z, a Gaussian for y.

Ballé, Minnen, Singh, Hwang, Johnston, "Variational Image Compression with a Scale Hyperprior", ICLR 2018; Minnen,
Ballé, Toderici, "Joint Autoregressive and Hierarchical Priors for Learned Image Compression", NeurIPS 2018.

Parameters and buffers have CompressAI's names (1.2.8), so that state dicts are interchangeable. The frequency tables
that `update` computes are buffers, too: a file is decoded by the tables that it was encoded with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from szilard.codecs.bounds import LowerBound
from szilard.codecs.tables import Tables, frequency_table

LIKELIHOOD_BOUND = 1e-9
TAIL_MASS = 1e-9
SCALE_BOUND = 0.11
_ROOT_HALF = 0.5**0.5


def scale_table(low: float = SCALE_BOUND, high: float = 256.0, levels: int = 64) -> list[float]:
    """Standard deviations, evenly spaced by their logarithm."""
    return np.exp(np.linspace(math.log(low), math.log(high), levels)).tolist()  # type: ignore[no-any-return]


class EntropyModel(nn.Module):
    """The frequency tables, filled by `update`."""

    _offset: Tensor
    _quantized_cdf: Tensor
    _cdf_length: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.likelihood_lower_bound = LowerBound(LIKELIHOOD_BOUND)
        for name in ("_offset", "_quantized_cdf", "_cdf_length"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.int32))
        self._tables: tuple[object, Tables] | None = None

    @property
    def updated(self) -> bool:
        """Whether `update` was called, or a state dict with tables was loaded."""
        return self._quantized_cdf.numel() > 0

    @property
    def tables(self) -> Tables:
        """For the coder.

        Raises:
            ValueError: before `update`.
        """
        if not self.updated:
            raise ValueError("this codec has no frequency tables: call update() before it compresses or decompresses.")
        if self._tables is None or self._tables[0] is not self._quantized_cdf:
            found = Tables.of(self._quantized_cdf, self._cdf_length.reshape(-1), self._offset.reshape(-1))
            self._tables = (self._quantized_cdf, found)
        return self._tables[1]

    def _fill(self, probabilities: Tensor, tails: Tensor, lengths: Tensor, offsets: Tensor) -> None:
        """Tables of probabilities [T, K], of which the first `lengths` count, and of escapes [T]."""
        cumulative = torch.full((len(lengths), int(lengths.max()) + 2), 0, dtype=torch.int32)
        for place, length in enumerate(lengths.tolist()):
            row = torch.cat([probabilities[place, :length], tails[place : place + 1]])
            cumulative[place, : length + 2] = frequency_table(row)
        device = self._offset.device
        self._quantized_cdf = cumulative.to(device)
        self._cdf_length = (lengths + 2).int().to(device)
        self._offset = offsets.int().to(device)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: object) -> None:
        for name in ("_offset", "_quantized_cdf", "_cdf_length", "scale_table"):
            found = state_dict.get(prefix + name)
            if found is not None and name in self._buffers:
                own = self._buffers[name]
                assert own is not None
                self._buffers[name] = own.new_empty(found.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)  # type: ignore[arg-type]

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_tables": None}  # models of constriction cannot be copied


class EntropyBottleneck(EntropyModel):
    """A density per channel, learned as a monotone network: c(v) = P(V <= v) in logits.

    Args:
        channels: of z [B, C, h, w].
        init_scale: values up to about this size are likely at first.
        filters: widths of the network.
    """

    target: Tensor

    def __init__(self, channels: int, init_scale: float = 10.0, filters: Sequence[int] = (3, 3, 3, 3)) -> None:
        super().__init__()
        self.channels = channels
        widths = (1, *filters, 1)
        scale = init_scale ** (1 / (len(filters) + 1))
        self.matrices, self.biases, self.factors = nn.ParameterList(), nn.ParameterList(), nn.ParameterList()
        for place, (inner, outer) in enumerate(pairwise(widths)):
            start = math.log(math.expm1(1 / scale / outer))
            self.matrices.append(nn.Parameter(torch.full((channels, outer, inner), start)))
            self.biases.append(nn.Parameter(torch.empty(channels, outer, 1).uniform_(-0.5, 0.5)))
            if place < len(filters):
                self.factors.append(nn.Parameter(torch.zeros(channels, outer, 1)))
        self.quantiles = nn.Parameter(torch.tensor([-init_scale, 0.0, init_scale]).repeat(channels, 1, 1))
        tail = math.log(2 / TAIL_MASS - 1)
        self.register_buffer("target", torch.tensor([-tail, 0.0, tail]))

    @property
    def medians(self) -> Tensor:
        """[1, C, 1, 1], without a gradient."""
        return self.quantiles[:, :, 1].detach()[None, :, :, None]

    def logits(self, values: Tensor, learn: bool = True) -> Tensor:
        """Logits of the cumulative distribution [C, 1, n] at values [C, 1, n]; learn: weights get gradients."""
        found = values
        for place, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            factor = self.factors[place] if place < len(self.factors) else None
            if not learn:
                matrix, bias = matrix.detach(), bias.detach()
                factor = None if factor is None else factor.detach()
            found = F.softplus(matrix) @ found + bias
            if factor is not None:
                found = found + factor.tanh() * found.tanh()
        return found

    def likelihood(self, values: Tensor) -> Tensor:
        """P(v - 1/2 < V < v + 1/2) of values [B, C, h, w], at least 1e-9."""
        by_channel = values.transpose(0, 1)
        rows = by_channel.reshape(len(by_channel), 1, -1)
        lower, upper = self.logits(rows - 0.5), self.logits(rows + 0.5)
        likelihood = (upper.sigmoid() - lower.sigmoid()).abs()
        bounded: Tensor = self.likelihood_lower_bound(likelihood)
        return bounded.reshape(by_channel.shape).transpose(0, 1)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z with noise (in training) or rounded, and its likelihood."""
        values = z + torch.empty_like(z).uniform_(-0.5, 0.5) if self.training else self.quantize(z)
        return values, self.likelihood(values)

    def quantize(self, z: Tensor) -> Tensor:
        """round(z - median) + median."""
        return (z - self.medians).round() + self.medians

    def loss(self) -> Tensor:
        """How far the quantiles are from the tails and the median; moves the quantiles alone."""
        return (self.logits(self.quantiles, learn=False) - self.target).abs().sum()

    @torch.no_grad()
    def find_quantiles(self, steps: int = 60) -> None:
        """Set the quantiles by bisection, instead of training them."""
        low, high = torch.full_like(self.quantiles, -1e4), torch.full_like(self.quantiles, 1e4)
        for _ in range(steps):
            middle = (low + high) / 2
            below = self.logits(middle, learn=False) < self.target
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        self.quantiles.copy_((low + high) / 2)

    @torch.no_grad()
    def update(self, force: bool = False, find_quantiles: bool = False) -> bool:
        """Compute the tables; whether anything was computed."""
        if self.updated and not force:
            return False
        if find_quantiles:
            self.find_quantiles()
        low, median, high = self.quantiles[:, 0].unbind(-1)
        minima = (median - low).ceil().int().clamp(min=0)
        maxima = (high - median).ceil().int().clamp(min=0)
        lengths = maxima + minima + 1
        places = torch.arange(int(lengths.max()), device=median.device)
        values = (places[None] - minima[:, None] + median[:, None])[:, None]
        lower, upper = self.logits(values - 0.5)[:, 0], self.logits(values + 0.5)[:, 0]
        probabilities = (upper.sigmoid() - lower.sigmoid()).abs()
        last = upper.gather(1, (lengths[:, None] - 1).long())[:, 0]
        tails = lower[:, 0].sigmoid() + (-last).sigmoid()
        self._fill(probabilities.cpu(), tails.cpu(), lengths.cpu(), -minima.cpu())
        return True

    def indexes(self, height: int, width: int) -> Tensor:
        """The table of every position: int64 [C, h, w]."""
        channels = torch.arange(self.channels, device=self.quantiles.device)
        return channels[:, None, None].expand(-1, height, width)


class GaussianConditional(EntropyModel):
    """N(mean, scale) at every position, in bins of width 1.

    Args:
        scales: standard deviations that have a table; None: set by `update`.
    """

    scale_table: Tensor
    scale_bound: Tensor

    def __init__(self, scales: Sequence[float] | None = None) -> None:
        super().__init__()
        self.lower_bound_scale = LowerBound(SCALE_BOUND)
        self.register_buffer("scale_table", torch.tensor([] if scales is None else list(scales)))
        self.register_buffer("scale_bound", torch.tensor([SCALE_BOUND]))

    def likelihood(self, values: Tensor, scales: Tensor, means: Tensor | None = None) -> Tensor:
        """P(v - 1/2 < V < v + 1/2), at least 1e-9; scales are at least 0.11."""
        distance = (values if means is None else values - means).abs()
        scales = self.lower_bound_scale(scales)
        upper = _cumulative((0.5 - distance) / scales)
        lower = _cumulative((-0.5 - distance) / scales)
        bounded: Tensor = self.likelihood_lower_bound(upper - lower)
        return bounded

    def forward(self, values: Tensor, scales: Tensor, means: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Values with noise (in training) or rounded, and their likelihood."""
        if self.training:
            found = values + torch.empty_like(values).uniform_(-0.5, 0.5)
        else:
            found = values.round() if means is None else (values - means).round() + means
        return found, self.likelihood(found, scales, means)

    @torch.no_grad()
    def update(self, scales: Sequence[float] | None = None, force: bool = False) -> bool:
        """Compute the tables; whether anything was computed."""
        if self.updated and not force and scales is None:
            return False
        if scales is not None or not self.scale_table.numel():
            own = scale_table() if scales is None else list(scales)
            if not own or own != sorted(own) or own[0] <= 0:
                raise ValueError("scales must be numbers above 0 that rise.")
            self.scale_table = torch.tensor(own, device=self.scale_bound.device)
        table = self.scale_table.cpu()
        half = (table * _TAIL_QUANTILE).ceil().int()
        lengths = 2 * half + 1
        distance = (torch.arange(int(lengths.max()))[None] - half[:, None]).abs().float()
        upper, lower = _cumulative((0.5 - distance) / table[:, None]), _cumulative((-0.5 - distance) / table[:, None])
        self._fill(upper - lower, 2 * lower[:, 0], lengths, -half)
        return True

    def indexes(self, scales: Tensor) -> Tensor:
        """The table of every position: that of the nearest scale, by ratio.

        # Paper (CompressAI): the next larger scale; here: the nearest, because rates of small scales change fast: files
        # were 1 to 2 % longer than their likelihoods say, and are 0.3 % longer now.
        """
        table = self.scale_table.double()
        between = (table[1:] * table[:-1]).sqrt()  # both exact by IEEE 754, on every machine
        return torch.searchsorted(between, scales.double().contiguous(), right=False)


def _cumulative(values: Tensor) -> Tensor:
    return 0.5 * torch.erfc(-_ROOT_HALF * values)


_TAIL_QUANTILE = float(-torch.special.ndtri(torch.tensor(TAIL_MASS / 2, dtype=torch.float64)))  # 6.1094
