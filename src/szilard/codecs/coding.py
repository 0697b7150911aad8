"""Pictures to files and back: padding, tiles, and what a decoder verifies.

Large pictures are cut into tiles that overlap and are coded by themselves, so that memory does not grow with the
picture; the decoder fades from one tile into the next within the overlap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from szilard.codecs.container import (
    ALPHA,
    CHECKED,
    EXTRA,
    FLOAT32,
    MAX_LATENT,
    MAX_PIXELS,
    MAX_SIDE,
    REFINED,
    Bitstream,
    CorruptFile,
    Header,
    Tile,
)
from szilard.codecs.images import Picture, coded_alpha, decoded_alpha
from szilard.codecs.learned_codec import LearnedCodec
from szilard.codecs.tables import CorruptStream
from szilard.options import check_number

WHOLE = 2048  # pictures with longer sides are tiled, unless told otherwise
TILE, OVERLAP = 1024, 32
MAX_DECODED = (1 << 28) // 3  # pixels, as Pillow's limit


@dataclass(frozen=True)
class Tiling:
    """How a picture is cut.

    Attributes:
        tile: side; 0: one tile.
        overlap: of neighbours.
    """

    tile: int = 0
    overlap: int = 0

    def starts(self, size: int) -> list[int]:
        """Where tiles of one axis begin."""
        if not self.tile or size <= self.tile:
            return [0]
        step = self.tile - self.overlap
        return list(range(0, size - self.overlap, step))

    def length(self, start: int, size: int) -> int:
        """Of the tile that begins there."""
        return size if not self.tile else min(self.tile, size - start)


def tiling_of(height: int, width: int, tile: int | None = None) -> Tiling:
    """For a picture.

    Args:
        tile: side, a multiple of 64 of 128 at least; 0: never cut; None: 1,024 where a side is longer than 2,048.

    Raises:
        ValueError: another side.
    """
    if tile is None:
        return Tiling(TILE, OVERLAP) if max(height, width) > WHOLE else Tiling()
    check_number("tile", tile, low=0, high=MAX_SIDE, integer=True)
    if tile and (tile < 128 or tile % 64):
        raise ValueError(f"tile must be 0 (none) or a multiple of 64 of 128 at least, not {tile}.")
    return Tiling(tile, OVERLAP) if 0 < tile < max(height, width) else Tiling()


def tile_count(height: int, width: int, tile: int | None = None) -> int:
    """How many tiles `encode` makes of a picture.

    Raises:
        ValueError: a picture that is too large, a wrong `tile`, or one that leaves too much in one tile.
    """
    return len(_places(height, width, tile)[1])


def _places(height: int, width: int, tile: int | None, stride: int = 64) -> tuple[Tiling, list[tuple[int, int]]]:
    """Top and left of every tile."""
    if not 1 <= height <= MAX_SIDE or not 1 <= width <= MAX_SIDE or height * width > MAX_PIXELS:
        raise ValueError(f"sides must be 1 to {MAX_SIDE:,} pixels, {MAX_PIXELS:,} in all, not {width} x {height}.")
    tiling = tiling_of(height, width, tile)
    largest = -(-tiling.length(0, height) // stride) * -(-tiling.length(0, width) // stride)
    if largest > MAX_LATENT:
        allowed = MAX_LATENT * stride**2
        raise ValueError(
            f"a tile may have {allowed:,} pixels, and this picture has {width} x {height}: choose tile=1024."
        )
    return tiling, [(top, left) for top in tiling.starts(height) for left in tiling.starts(width)]


def encode(
    codec: LearnedCodec,
    picture: Picture,
    *,
    tile: int | None = None,
    refine: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Bitstream:
    """Code a picture.

    Args:
        codec: after `update`.
        picture: of `images.read_picture`.
        tile: see `tiling_of`.
        refine: pixels [1, 3, H, W] to the latents (y, z) that are coded instead of the codec's own.
        progress: called with the number of tiles that are done, and of all.

    Raises:
        ValueError: a codec without tables, or a picture or a tile that is too large.
    """
    height, width = picture.size
    tiling, places = _places(height, width, tile, codec.stride)
    codec.check_tables()  # before a search that takes minutes
    weights = codec.weights_id()  # first: it sees whether weights have changed
    tiles = []
    for number, (top, left) in enumerate(places):
        part = picture.samples[top : top + tiling.length(top, height), left : left + tiling.length(left, width)]
        tiles.append(_encoded(codec, part, refine))
        if progress is not None:
            progress(number + 1, len(places))
    flags = CHECKED | (FLOAT32 if codec.arithmetic == "float32" else 0) | (REFINED if refine is not None else 0)
    extra = {} if picture.alpha is None else {ALPHA: coded_alpha(picture.alpha)}
    header = Header(
        codec.name,
        weights,
        width,
        height,
        tiling.tile,
        tiling.overlap,
        picture.depth,
        picture.channels,
        flags | (EXTRA if extra else 0),
    )
    return Bitstream(header, tuple(tiles), extra)


def _encoded(
    codec: LearnedCodec, samples: np.ndarray, refine: Callable[[Tensor], tuple[Tensor, Tensor]] | None
) -> Tile:
    padded, pad = padded_pixels(samples, codec.stride)
    padded = padded.to(codec.entropy_bottleneck.quantiles.device)
    found = codec.compress(padded) if refine is None else codec.compress_latents(*refine(padded))
    streams = tuple(stream[0] for stream in found["strings"])
    return Tile(pad, found["shape"], streams, found["checks"][0])


def padded_pixels(samples: np.ndarray, stride: int) -> tuple[Tensor, tuple[int, int, int, int]]:
    """Samples [H, W, 3] as pixels [1, 3, H', W'] in [0, 1], edges repeated at the right and the bottom."""
    largest = 65535 if samples.dtype == np.uint16 else 255
    pixels = torch.from_numpy(samples.astype(np.float32)).permute(2, 0, 1)[None] / largest
    right, bottom = -pixels.shape[-1] % stride, -pixels.shape[-2] % stride
    # MLIC++: zeros; here: the edges, because a black border costs bits
    return F.pad(pixels, (0, right, 0, bottom), mode="replicate"), (0, right, 0, bottom)


def decode(
    codec: LearnedCodec,
    coded: Bitstream,
    *,
    max_pixels: int | None = MAX_DECODED,
    progress: Callable[[int, int], None] | None = None,
) -> Picture:
    """The picture of a file.

    Args:
        codec: with the weights that wrote it.
        coded: of `Bitstream.from_bytes`.
        max_pixels: larger pictures are refused; None: the format's own limit.
        progress: called with the number of tiles that are done, and of all.

    Raises:
        CorruptFile: streams that these weights did not write.
        ValueError: other weights, or a larger picture than is allowed.
    """
    header = coded.header
    check_size(header, max_pixels)
    check_codec(codec, header)
    tiling = Tiling(header.tile, header.overlap)
    check_tiles(coded, codec.stride)
    before = codec.arithmetic
    codec.arithmetic = "float32" if header.flags & FLOAT32 else "exact"
    try:
        samples = _joined(codec, coded, tiling, progress)
    except CorruptStream as error:
        raise CorruptFile(f"the file cannot be decoded: {error}") from None
    finally:
        codec.arithmetic = before
    alpha = coded.extra.get(ALPHA)
    size = header.height, header.width
    return Picture(samples, header.channels, None if alpha is None else decoded_alpha(alpha, size, header.depth))


def check_size(header: Header, max_pixels: int | None = MAX_DECODED) -> None:
    """Refuse a file that says a larger picture than is allowed: some dozen bytes may truly be one of any size.

    Raises:
        ValueError: so it is.
    """
    check_number("max_pixels", max_pixels, low=1, integer=True, optional=True)
    if max_pixels is not None and header.width * header.height > max_pixels:
        raise ValueError(
            f"the file says {header.width} x {header.height} pixels, more than the {max_pixels:,} that are decoded "
            "unless max_pixels is raised; decoding takes as long as for a picture of that size."
        )


def check_codec(codec: LearnedCodec, header: Header) -> None:
    """Refuse a codec with other weights than the file's."""
    own = codec.weights_id()
    if header.codec != codec.name or header.weights != own:
        raise ValueError(
            f"the file was written by {header.codec} with weights {header.weights.hex()}, but this is {codec.name} "
            f"with weights {own.hex()}: give the model that wrote it."
        )


def check_tiles(coded: Bitstream, stride: int) -> None:
    """Refuse tiles that are not those of the header's picture, before anything is allocated for them.

    Raises:
        CorruptFile: so it is.
    """
    header, tiling = coded.header, Tiling(coded.header.tile, coded.header.overlap)
    rows, columns = tiling.starts(header.height), tiling.starts(header.width)
    if len(coded.tiles) != len(rows) * len(columns):
        raise CorruptFile(f"the file has {len(coded.tiles)} tiles; its size wants {len(rows) * len(columns)}.")
    sizes = [(tiling.length(t, header.height), tiling.length(l, header.width)) for t in rows for l in columns]
    for tile, (height, width) in zip(coded.tiles, sizes, strict=True):
        left, right, top, bottom = tile.pad
        whole = height + top + bottom, width + left + right
        if whole != (tile.shape[0] * stride, tile.shape[1] * stride) or len(tile.streams) != 2:
            raise CorruptFile(f"the file is damaged: a tile of {width} x {height} has a latent of {tile.shape}.")


def _joined(
    codec: LearnedCodec, coded: Bitstream, tiling: Tiling, progress: Callable[[int, int], None] | None
) -> np.ndarray:
    """Samples [H, W, 3], band by band; all three are the mean of the decoded channels where the picture was grey."""
    header = coded.header
    kind = np.uint16 if header.depth == 16 else np.uint8
    found = np.empty((header.height, header.width, 3), dtype=kind)
    rows, columns = tiling.starts(header.height), tiling.starts(header.width)
    carried: tuple[Tensor, Tensor] | None = None  # sums and weights of rows that the next band overlaps
    done = 0
    for row, top in enumerate(rows):
        height = tiling.length(top, header.height)
        for column, left in enumerate(columns):
            tile = coded.tiles[row * len(columns) + column]
            width = tiling.length(left, header.width)
            pixels = _decoded(codec, tile, bool(header.flags & CHECKED))
            if not column:  # after the first tile: a file that cannot be decoded gets no room for its picture
                total, weights = _band(height, header.width, carried)
            fade = _fade(height, tiling.overlap, row > 0, row + 1 < len(rows))[:, None]
            fade = fade * _fade(width, tiling.overlap, column > 0, column + 1 < len(columns))
            total[:, :, left : left + width] += pixels * fade
            weights[:, left : left + width] += fade
            done += 1
            if progress is not None:
                progress(done, len(coded.tiles))
        ready = height if row + 1 == len(rows) else rows[row + 1] - top
        pixels = total[:, :ready] / weights[:ready]
        found[top : top + ready] = _samples(pixels if header.channels == 3 else pixels.mean(0, keepdim=True), kind)
        carried = total[:, ready:], weights[ready:]
    return found


def _band(height: int, width: int, carried: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
    """Sums [3, height, width] and weights of a band, which begins with what the one above it has added already."""
    total, weights = torch.zeros(3, height, width), torch.zeros(height, width)
    if carried is not None:
        total[:, : carried[1].shape[0]] += carried[0]
        weights[: carried[1].shape[0]] += carried[1]
    return total, weights


def _decoded(codec: LearnedCodec, tile: Tile, checked: bool) -> Tensor:
    """Pixels [3, height, width] of a tile."""
    left, right, top, bottom = tile.pad
    strings = [[stream] for stream in tile.streams]
    pixels = codec.decompress(strings, tile.shape, [tile.check] if checked else None)["x_hat"][0].float().cpu()
    if not pixels.isfinite().all():
        raise ValueError("the codec gives back pixels that are no numbers: its weights are damaged.")
    return pixels[:, top : pixels.shape[1] - bottom, left : pixels.shape[2] - right]


def _fade(size: int, overlap: int, before: bool, after: bool) -> Tensor:
    """Weights of one axis of a tile, which rise and fall where there are neighbours."""
    weights = torch.ones(size)
    ramp = (torch.arange(min(overlap, size)) + 1.0) / (overlap + 1)
    if before and overlap:
        weights[: len(ramp)] *= ramp
    if after and overlap:
        weights[size - len(ramp) :] *= ramp.flip(0)
    return weights


def _samples(pixels: Tensor, kind: Any) -> np.ndarray:
    largest = np.iinfo(kind).max
    return (pixels.clamp(0, 1) * largest).round().permute(1, 2, 0).numpy().astype(kind)
