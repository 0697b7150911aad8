"""Which channels of a latent carry the information: entropy per channel, and the informative set.

    H_c = mean over pictures and positions of -log2 p(y^_c | context)      bits per element of channel c
    A   = the ceil(rho M) channels with the largest H_c, of those with H_c >= 1e-3
    w_c = H_c / sum of H over A for c in A, else 0

H_c is the cross-entropy that the codec really pays, from its conditional likelihoods in eval mode. Channels that are
constant cost next to nothing (-log2(Phi(0.5/0.11) - Phi(-0.5/0.11)) = 7.9e-6 bits at the smallest scale) and are never
informative, whatever rho says.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from szilard.codecs.learned_codec import LearnedCodec
from szilard.options import check_choice, check_number

ENTROPIES = ("likelihood", "empirical")
ORDERS = ("top", "random", "lowest")
LEAST = 1e-3  # bits per element below which a channel carries nothing


@contextmanager
def measuring(codec: LearnedCodec) -> Iterator[LearnedCodec]:
    """The codec in eval mode, without gradients, in fast arithmetic: rounding as a file's, and nothing is changed.

    Its modes and settings are what they were behind the block.
    """
    modes, arithmetic = {part: part.training for part in codec.modules()}, codec.arithmetic
    codec.eval()
    codec.arithmetic = "float32"
    try:
        with torch.no_grad():
            yield codec
    finally:
        codec.arithmetic = arithmetic
        for part, mode in modes.items():
            part.training = mode


def channel_entropy(codec: LearnedCodec, images: Tensor | Iterable[Tensor], kind: str = "likelihood") -> Tensor:
    """Entropy of every channel of y, bits per element.

    Args:
        codec: of M latent channels; it is run in eval mode and left as it was.
        images: pixels [B, 3, H, W] in [0, 1], or several such batches, of any sizes the codec takes.
        kind: "likelihood": what the codec pays. "empirical": of the histogram of y^, rounded to whole numbers.

    Returns:
        [M], float64, on the CPU.

    Raises:
        TypeError: no codec, or pictures that are no tensors.
        ValueError: no pictures, another kind, or pictures that the codec does not take.
    """
    check_choice("kind", kind, ENTROPIES)
    if not isinstance(codec, LearnedCodec):
        raise TypeError(f"a codec must be one of szilard's learned codecs, not a {type(codec).__name__}.")
    batches = [images] if isinstance(images, Tensor) else images
    bits = torch.zeros(codec.latent_channels, dtype=torch.float64)
    symbols: list[Tensor] = []
    elements = 0
    with measuring(codec):
        place = codec.entropy_bottleneck.quantiles
        for pixels in batches:
            if not isinstance(pixels, Tensor):
                raise TypeError(f"images must be tensors [B, 3, H, W], not {type(pixels).__name__}.")
            found = codec(pixels.to(place) if pixels.is_floating_point() else pixels)
            likelihoods = found["likelihoods"]["y"]
            elements += likelihoods[:, 0].numel()
            if kind == "likelihood":
                bits -= likelihoods.double().log2().sum(dim=(0, 2, 3)).cpu()
            else:
                symbols.append(found["y_hat"].round().transpose(0, 1).flatten(1).to("cpu", torch.int64))
    if not elements:
        raise ValueError("images must hold at least one picture.")
    if not bool(torch.isfinite(bits).all()):
        raise ValueError("images hold numbers that are not finite, or the codec's weights do.")
    return bits / elements if kind == "likelihood" else _histogram_entropy(torch.cat(symbols, dim=1))


def _histogram_entropy(symbols: Tensor) -> Tensor:
    """[M, n] whole numbers to bits per element [M]."""
    channels, count = symbols.shape
    low = symbols.min()
    span = int(symbols.max() - low) + 1
    places = (symbols - low) + torch.arange(channels)[:, None] * span
    shares = torch.bincount(places.flatten(), minlength=channels * span).reshape(channels, span).double() / count
    return -torch.special.xlogy(shares, shares).sum(dim=1) / math.log(2)


def select_channels(
    entropies: Tensor,
    fraction: float = 0.5,
    *,
    count: int | None = None,
    order: str = "top",
    least: float = LEAST,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """The informative channels and their weights.

    Args:
        entropies: H [M], bits per element.
        fraction: rho: K = ceil(rho M) channels.
        count: K, instead of the fraction.
        order: "top": the largest entropies; "lowest" and "random" are what it is compared with.
        least: channels with less are never chosen, so fewer than K may be.
        seed: of "random".

    Returns:
        Indices [K], rising, and weights [M], which add up to 1 and are 0 elsewhere.

    Raises:
        TypeError: entropies that are no tensor.
        ValueError: entropies that are no numbers, or all below `least`.
    """
    check_number("fraction", fraction, low=0, high=1)
    check_number("count", count, low=1, integer=True, optional=True)
    check_number("least", least, low=0)
    check_choice("order", order, ORDERS)
    if not isinstance(entropies, Tensor):
        raise TypeError(f"entropies must be a tensor [M], not a {type(entropies).__name__}.")
    if entropies.dim() != 1 or not entropies.is_floating_point() or not bool(torch.isfinite(entropies).all()):
        raise ValueError(
            f"entropies must be finite floating-point numbers [M], not {entropies.dtype} {tuple(entropies.shape)}."
        )
    wanted = max(1, math.ceil(fraction * len(entropies))) if count is None else count
    alive = (entropies >= max(least, torch.finfo(entropies.dtype).tiny)).nonzero()[:, 0]
    if not len(alive):
        raise ValueError(f"no channel has an entropy of {least:g} bits: the codec codes nothing; train it first.")
    if order == "random":
        draw = torch.Generator().manual_seed(seed)
        places = torch.randperm(len(alive), generator=draw).to(alive.device)
    else:
        places = entropies[alive].argsort(descending=order == "top", stable=True)
    indices = alive[places[:wanted]].sort().values
    weights = torch.zeros_like(entropies)
    weights[indices] = entropies[indices] / entropies[indices].sum()
    return indices, weights
