"""Stochastic Gumbel annealing: better latents of one picture, found by gradient descent; the decoder stays the same.

Yang, Bamler, Mandt, "Improving Inference for Neural Image Compression", NeurIPS 2020, arXiv:2006.04240. MLICv2+ is
MLICv2 with this.

For a number v between f = floor(v) and c = f + 1, with temperature T:

    logits (down, up) = (-atanh(v - f), -atanh(c - v)) / T,   w = softmax((logits + Gumbel noise) / T)
    v~ = w_down f + w_up c

(v - f and c - v are at most 1 - 1e-5; T divides twice.) y and z are free variables; the loss is
lambda 255^2 MSE + bpp of v~, and T(t) = min(0.5, 0.5 exp(-rate (t - t0))). v is y - mean, pass by pass, and z - median,
because those are what is rounded (inferred; the authors' code rounds latents without means).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from szilard.codecs.checkerboard import only
from szilard.codecs.learned_codec import LearnedCodec
from szilard.codecs.quantizers import Rounding
from szilard.options import check_number

_EDGE = 1 - 1e-5
_COLDEST = 1e-8


@dataclass
class Refined:
    """What was found.

    Attributes:
        y, z: latents for `LearnedCodec.compress_latents`.
        history: of each step "temperature", "bpp", "mse", "loss".
        before, after: the true cost, of rounded latents: lambda 255^2 MSE + bpp.
    """

    y: Tensor
    z: Tensor
    history: list[dict[str, float]] = field(default_factory=list)
    before: float = math.nan
    after: float = math.nan


def temperature(step: int, start: float = 0.5, rate: float = 1e-3, hold: int = 700) -> float:
    """T of a step."""
    return min(max(start * math.exp(-rate * (step - hold)), _COLDEST), start)


def probability_down(v: Tensor, heat: float) -> Tensor:
    """The chance that a hard draw rounds v down."""
    return torch.sigmoid(_lead(v) / heat)


def _lead(v: Tensor) -> Tensor:
    """-atanh(v - floor(v)) + atanh(ceil(v) - v)."""
    above = (v - v.detach().floor()).clamp(-_EDGE, _EDGE)
    below = (v.detach().floor() + 1 - v).clamp(-_EDGE, _EDGE)
    return below.atanh() - above.atanh()


def anneal(v: Tensor, heat: float, generator: torch.Generator | None = None) -> Tensor:
    """v~ of v.

    Args:
        v: any numbers.
        heat: the temperature.
        generator: of the noise.
    """
    uniform = torch.rand(v.shape, generator=generator, device=v.device, dtype=v.dtype).clamp_(1e-20, 1 - 1e-7)
    # the difference of two Gumbel variables is logistic
    noise = uniform.log() - torch.log1p(-uniform)
    down = torch.sigmoid((_lead(v) / heat + noise) / heat)
    return v.detach().floor() + 1 - down


def own_lambda(codec: LearnedCodec) -> float:
    """The lambda that a codec was trained with, as `refine` weighs distortion.

    Raises:
        ValueError: it does not say, or it was trained for MS-SSIM.
    """
    found = codec.trained_on.get("lambda")
    if not isinstance(found, (int, float)):
        raise ValueError("the codec does not say with which lambda it was trained: give lmbda, as 0.013.")
    if codec.trained_on.get("distortion", "mse") != "mse":
        raise ValueError(
            f"the codec was trained for MS-SSIM, with lambda {found:g}, but the search weighs squared errors: give "
            "lmbda for those, as 0.013."
        )
    return float(found)


class Annealing:
    """A quantizer that draws v~ of y - mean, and keeps the values it drew [B, M, h, w] for the rate."""

    def __init__(self, y: Tensor, heat: float, generator: torch.Generator) -> None:
        self.y, self.heat, self.generator = y, heat, generator
        self._drawn: dict[int, Tensor] = {}

    def __call__(self, channels: slice, where: Tensor, scales: Tensor, means: Tensor, coded: Tensor | None) -> Tensor:
        soft = anneal(self.y[:, channels] - means, self.heat, self.generator)
        if coded is not None:
            soft = soft * coded
        found = only(soft + means, where)
        earlier = self._drawn.get(channels.start)
        self._drawn[channels.start] = found if earlier is None else earlier + found
        return found

    @property
    def values(self) -> Tensor:
        """Of all passes, before what is predicted of the rounding is added."""
        return torch.cat([self._drawn[start] for start in sorted(self._drawn)], dim=1)


def refine(
    codec: LearnedCodec,
    x: Tensor,
    lmbda: float,
    steps: int = 2000,
    lr: float = 5e-3,
    *,
    hold: float = 0.35,
    rate: float | None = None,
    seed: int = 0,
    callback: Callable[[int, dict[str, float]], None] | None = None,
) -> Refined:
    """Find better latents of pictures. What a codec's selection (`gsc`) leaves out is not searched for.

    Args:
        codec: trained; its weights stay as they are.
        x: pixels [B, 3, H, W] in [0, 1], sides multiples of the codec's stride.
        lmbda: the rate-distortion weight that the codec was trained with.
        steps: of Adam; 0: the codec's own latents.
        lr: its learning rate.
        hold: share of the steps at the highest temperature.
        rate: at which the temperature then falls, per step; None: 2 / steps (0.001 for 2,000).
        seed: of the noise.
        callback: called with each step and its numbers.

    Raises:
        ValueError: wrong numbers.
    """
    check_number("steps", steps, low=0, integer=True)
    check_number("lr", lr, low=0)
    check_number("lmbda", lmbda, low=0)
    check_number("hold", hold, low=0, high=1)
    codec.check_pixels(x)
    wanted = [(parameter, parameter.requires_grad) for parameter in codec.parameters()]
    training = codec.training
    codec.eval()
    try:
        for parameter, _ in wanted:
            parameter.requires_grad_(False)
        with torch.no_grad():
            y = codec.g_a(x)
            z = codec.h_a(y)
        found = Refined(y.clone(), z.clone())
        found.before = found.after = true_cost(codec, x, y, z, lmbda)
        if steps:
            _descend(codec, x, lmbda, steps, lr, hold, 2 / steps if rate is None else rate, seed, callback, found)
            found.after = true_cost(codec, x, found.y, found.z, lmbda)
            if not found.after < found.before:  # never worse than the codec's own, nor without a number
                found.y, found.z, found.after = y, z, found.before
    finally:
        for parameter, learns in wanted:
            parameter.requires_grad_(learns)
        codec.train(training)
    return found


@torch.enable_grad()
def _descend(
    codec: LearnedCodec,
    x: Tensor,
    lmbda: float,
    steps: int,
    lr: float,
    hold: float,
    rate: float,
    seed: int,
    callback: Callable[[int, dict[str, float]], None] | None,
    found: Refined,
) -> None:
    y, z = nn.Parameter(found.y.clone()), nn.Parameter(found.z.clone())
    optimizer = torch.optim.Adam([y, z], lr=lr)
    generator = torch.Generator(x.device).manual_seed(seed)
    pixels = x.shape[0] * x.shape[2] * x.shape[3]
    medians = codec.entropy_bottleneck.medians
    for step in range(steps):
        heat = temperature(step, rate=rate, hold=round(hold * steps))
        z_soft = anneal(z - medians, heat, generator) + medians
        soft = Annealing(y, heat, generator)
        predicted = codec.walk(codec.h_s(z_soft), soft)
        bits = -codec.gaussian_conditional.likelihood(soft.values, predicted.scales, predicted.means).log2()
        if predicted.coded is not None:
            bits = bits * predicted.coded
        bpp = (bits.sum() - codec.entropy_bottleneck.likelihood(z_soft).log2().sum()) / pixels
        mse = (codec.g_s(predicted.y_hat) - x).square().mean()
        loss = lmbda * 255**2 * mse + bpp
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        costs = {"bpp": bpp, "mse": mse, "loss": loss}
        row = {"temperature": heat} | {name: float(cost.detach()) for name, cost in costs.items()}
        found.history.append(row)
        if callback is not None:
            callback(step, row)
    found.y, found.z = y.detach(), z.detach()


@torch.no_grad()
def true_cost(codec: LearnedCodec, x: Tensor, y: Tensor, z: Tensor, lmbda: float) -> float:
    """lambda 255^2 MSE + bpp of rounded latents, in float32."""
    z_hat = codec.entropy_bottleneck.quantize(z)
    found = codec.walk(codec.h_s(z_hat), Rounding(y))
    values = (y - found.means).round() + found.means
    bits = -codec.gaussian_conditional.likelihood(values, found.scales, found.means).log2()
    if found.coded is not None:
        bits = bits * found.coded
    bpp = (bits.sum() - codec.entropy_bottleneck.likelihood(z_hat).log2().sum()) / (x.shape[0] * x[0, 0].numel())
    mse = (codec.g_s(found.y_hat).clamp(0, 1) - x).square().mean()
    return float(lmbda * 255**2 * mse + bpp)
