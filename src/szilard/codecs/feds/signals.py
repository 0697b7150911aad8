"""What a student can learn from: the outputs of a codec's stages, its latents, and what it predicts of them.

A *tap* is the output of the last part of g_a or g_s at a resolution, for every resolution strictly between the
picture's and the latent's: with four changes of size three in g_a (H/2, H/4, H/8) and three in g_s (H/8, H/4, H/2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from szilard.codecs.feds.channels import measuring
from szilard.codecs.learned_codec import LearnedCodec

_PROBE = 2  # side, in strides, of the picture that the taps are found with


@dataclass(frozen=True)
class Tap:
    """A place in a codec.

    Attributes:
        module: whose output it is.
        channels: of it.
        scale: its side, relative to the picture's.
        where: "g_a" or "g_s".
    """

    module: nn.Module
    channels: int
    scale: float
    where: str


@dataclass(frozen=True)
class Signals:
    """One forward of a codec.

    Attributes:
        taps: [B, C_l, h_l, w_l] each.
        found: the codec's results: x_hat, likelihoods, y, y_hat, scales, means [B, M, h, w].
    """

    taps: list[Tensor]
    found: dict[str, Any]


def find_taps(codec: LearnedCodec) -> list[Tap]:
    """The taps of g_a, then those of g_s.

    Raises:
        ValueError: a transform that is no sequence of parts.
    """
    device = codec.entropy_bottleneck.quantiles.device
    side = _PROBE * codec.stride
    with measuring(codec):
        pixels = torch.zeros(1, 3, side, side, device=device)
        latent = codec.g_a(pixels)
        return [*_of(codec.g_a, "g_a", pixels, side), *_of(codec.g_s, "g_s", latent, side)]


def _of(transform: nn.Module, where: str, start: Tensor, side: int) -> list[Tap]:
    parts = _sequence(transform, where)
    sizes: list[tuple[int, int]] = []  # of each part's output: width, channels
    hooks = [
        part.register_forward_hook(lambda _, __, out: sizes.append((out.shape[-1], out.shape[1]))) for part in parts
    ]
    try:
        end = transform(start)
    finally:
        for hook in hooks:
            hook.remove()
    found: dict[int, Tap] = {}
    for part, (width, channels) in zip(parts, sizes, strict=True):
        if width not in (start.shape[-1], end.shape[-1]):
            found[width] = Tap(part, channels, width / side, where)  # the last one of a resolution stays
    return list(found.values())


def _sequence(transform: nn.Module, where: str) -> list[nn.Module]:
    if isinstance(transform, nn.Sequential):
        return list(transform)
    inside = [part for part in transform.children() if isinstance(part, nn.Sequential)]
    if len(inside) != 1:
        raise ValueError(
            f"{where} of {type(transform).__name__} is no sequence of parts whose outputs could be compared."
        )
    return list(inside[0])


class Tapped:
    """A codec whose taps are kept while it runs; no module, so that what holds it does not own the codec."""

    def __init__(self, codec: LearnedCodec) -> None:
        self.codec = codec
        self.taps = find_taps(codec)

    def __call__(self, pixels: Tensor) -> Signals:
        """Forward, in the codec's present mode; pixels [B, 3, H, W]."""
        kept: list[Tensor] = []
        hooks = [tap.module.register_forward_hook(lambda _, __, out: kept.append(out)) for tap in self.taps]
        try:
            found = self.codec(pixels)
        finally:
            for hook in hooks:
                hook.remove()
        return Signals(kept, found)


class Teacher(Tapped):
    """A codec to learn from: rounding as in files, no gradients, never changed; it follows the pixels' device."""

    def __call__(self, pixels: Tensor) -> Signals:
        if self.codec.entropy_bottleneck.quantiles.device != pixels.device:
            self.codec.to(pixels.device)
        with measuring(self.codec):
            return super().__call__(pixels)


def check_pair(teacher: LearnedCodec, student: LearnedCodec) -> None:
    """Refuse a student that cannot learn from this teacher.

    Raises:
        TypeError: no codecs.
        ValueError: the same object, other strides, or stages of other sizes.
    """
    for name, one in (("teacher", teacher), ("student", student)):
        if not isinstance(one, LearnedCodec):
            raise TypeError(f"the {name} must be one of szilard's learned codecs, not a {type(one).__name__}.")
    if teacher is student:
        raise ValueError("teacher and student are the same object: copy it (copy.deepcopy) to train a student of it.")
    if teacher.stride != student.stride:
        raise ValueError(
            f"the teacher's sides are multiples of {teacher.stride}, the student's of {student.stride}: they need "
            "equal strides."
        )
    sizes = [[(tap.where, tap.scale) for tap in find_taps(codec)] for codec in (teacher, student)]
    if sizes[0] != sizes[1]:
        told = [", ".join(f"{where} at 1/{round(1 / scale)}" for where, scale in one) for one in sizes]
        raise ValueError(f"teacher and student need stages of equal sizes: {told[0]} against {told[1]}.")
