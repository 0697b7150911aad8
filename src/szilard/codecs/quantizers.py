"""What a walk over y does to the elements of one pass: rounds them, writes their symbols, or reads them."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from szilard.codecs.checkerboard import only
from szilard.codecs.entropy_models import GaussianConditional
from szilard.codecs.tables import SymbolReader, SymbolWriter


class Quantizer(Protocol):
    """What happens to the elements of one pass."""

    def __call__(self, channels: slice, where: Tensor, scales: Tensor, means: Tensor, coded: Tensor | None) -> Tensor:
        """The decoded values [B, C, h, w] of y[:, channels] at `where` (bool [h, w]), 0 elsewhere.

        coded: bool [B, C, h, w]; other elements are their means. None: all are coded.
        """


@dataclass
class Predicted:
    """What a walk over y found.

    Attributes:
        y_hat: decoded, [B, M, h, w].
        scales, means: of each element.
        coded: bool, None where all elements are.
        selection: what a selection predictor learns from: channels, logits and the half of the checkerboard.
    """

    y_hat: Tensor
    scales: Tensor
    means: Tensor
    coded: Tensor | None = None
    selection: list[tuple[slice, Tensor, Tensor]] = field(default_factory=list)


class Rounding:
    """y rounded about its means; gradients pass as if it had not been.

    Args:
        y: [B, M, h, w].
        all_coded: take no notice of what is not coded.
    """

    def __init__(self, y: Tensor, all_coded: bool = False) -> None:
        self.y, self.all_coded = y, all_coded

    def __call__(self, channels: slice, where: Tensor, scales: Tensor, means: Tensor, coded: Tensor | None) -> Tensor:
        difference = self.y[:, channels] - means
        symbols = difference.round()
        if difference.requires_grad:  # of means alone, too: without it a frozen y would follow them
            symbols = difference + (symbols - difference).detach()
        if coded is not None and not self.all_coded:
            symbols = symbols * coded
        return only(symbols + means, where)


class Writing:
    """Rounds as `Rounding`, and writes the symbols of each image into a stream of its own."""

    def __init__(self, y: Tensor, gaussian: GaussianConditional) -> None:
        self.y, self.gaussian = y, gaussian
        self.writers = [SymbolWriter() for _ in y]
        self.checks = [0] * len(y)

    def __call__(self, channels: slice, where: Tensor, scales: Tensor, means: Tensor, coded: Tensor | None) -> Tensor:
        for name, found in (("scales", scales), ("means", means)):  # means are decoded even where nothing is coded
            if not found.isfinite().all():
                raise ValueError(f"the codec predicts {name} that are not finite: its weights are damaged.")
        symbols = (self.y[:, channels] - means).round()
        places = where.expand(symbols.shape) if coded is None else where & coded
        for row, writer in enumerate(self.writers):
            chosen, indexes = symbols[row][places[row]], self.gaussian.indexes(scales[row][places[row]])
            writer.write(chosen, indexes, self.gaussian.tables)
            self.checks[row] = symbol_check(chosen, self.checks[row])
        if coded is not None:
            symbols = symbols * coded
        return only(symbols + means, where)


class Reading:
    """Reads what `Writing` wrote."""

    def __init__(self, streams: list[bytes], gaussian: GaussianConditional) -> None:
        self.gaussian = gaussian
        self.readers = [SymbolReader(stream) for stream in streams]
        self.checks = [0] * len(streams)

    def __call__(self, channels: slice, where: Tensor, scales: Tensor, means: Tensor, coded: Tensor | None) -> Tensor:
        symbols = torch.zeros_like(means)
        places = where.expand(means.shape) if coded is None else where & coded
        for row, reader in enumerate(self.readers):
            found = reader.read(self.gaussian.indexes(scales[row][places[row]]), self.gaussian.tables)
            symbols[row][places[row]] = found.to(means.dtype)
            self.checks[row] = symbol_check(found, self.checks[row])
        return only(symbols + means, where)


def symbol_check(symbols: Tensor, before: int = 0) -> int:
    """CRC-32 of symbols as little-endian int32, continued."""
    return zlib.crc32(symbols.detach().cpu().numpy().astype("<i4").tobytes(), before)
