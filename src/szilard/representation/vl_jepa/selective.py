"""Selective decoding: write text only where the meaning of a stream has changed.

Chen et al., "VL-JEPA", arXiv:2512.10942: at 0.35 decodings a second instead of one, on EgoExo4D, the captions are as
good (CIDEr). A decoding point is a segment's middle; what is decoded is its embedding there, or, better, the mean of
the segment. Every annotation (time, text) is matched with the decoded text nearest in time, so one decoding may serve
many annotations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from szilard.options import check_bool, check_choice
from szilard.representation.vl_jepa.segments import METHODS, Segment, segment_stream


class Decoder(Protocol):
    """What turns embeddings into text."""

    def decode(self, embeddings: Tensor) -> list[str]:
        """[n, D] -> n texts."""
        ...


@dataclass(frozen=True)
class Decoded:
    """A text, and what it is about.

    Attributes:
        time: of the segment's middle, in the units of the times given.
        text: decoded.
        segment: the windows that it stands for.
    """

    time: float
    text: str
    segment: Segment


@dataclass
class SelectiveDecoder:
    """Decodes a stream of embeddings once per segment.

    Args:
        decoder: embeddings [n, D] -> texts.
        method: how the stream is cut; "uniform" is the baseline. Only "online" and "cosine" could run while the stream
            comes; the others need all of it.
        pool: decode the mean of a segment; else the embedding in its middle.
        settings: of `segment_stream`: n_segments or rate and fps, threshold, window, smooth, seed.
    """

    decoder: Decoder
    method: str = "ward"
    pool: bool = True
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_choice("method", self.method, METHODS)
        check_bool("pool", self.pool)

    def run(self, embeddings: Tensor, times: Sequence[float] | Tensor | None = None, **settings: Any) -> list[Decoded]:
        """Cut and decode.

        Args:
            embeddings: [T, D], a row per window.
            times: of each window; None: its number.
            settings: before those of the decoder.

        Returns:
            A text per segment, in order of time; as many decodings.

        Raises:
            ValueError: as many times as windows are not given, or what `segment_stream` refuses.
        """
        segments = segment_stream(embeddings, method=self.method, **{**self.settings, **settings})
        moments = list(range(len(embeddings))) if times is None else [float(value) for value in times]
        if len(moments) != len(embeddings):
            raise ValueError(f"there are {len(embeddings)} windows and {len(moments)} times: give one of each.")
        texts = self.decoder.decode(points(embeddings, segments, pool=self.pool))
        return [Decoded(moments[one.middle], text, one) for one, text in zip(segments, texts, strict=True)]


def points(embeddings: Tensor, segments: Sequence[Segment], *, pool: bool) -> Tensor:
    """[n, D]: what is decoded of each segment: its mean at the length of a window's embedding, or its middle.

    A mean of unit vectors is shorter than one; it is brought to the mean length of the segment's windows (inferred).
    """
    if not pool:
        return embeddings[[one.middle for one in segments]]
    owner = torch.repeat_interleave(torch.arange(len(segments)), torch.tensor([len(one) for one in segments]))
    owner = owner.to(embeddings.device)
    sizes = torch.bincount(owner, minlength=len(segments)).unsqueeze(1)
    wide = embeddings.float()
    means = torch.zeros(len(segments), wide.shape[1], device=wide.device).index_add_(0, owner, wide) / sizes
    lengths = torch.zeros(len(segments), device=wide.device).index_add_(0, owner, wide.norm(dim=1)) / sizes.squeeze(1)
    scale = lengths / means.norm(dim=1).clamp(min=1e-12)
    return (means * scale.unsqueeze(1)).to(embeddings.dtype)


def matched(annotations: Sequence[tuple[float, str]], decoded: Sequence[Decoded]) -> list[tuple[str, str]]:
    """(decoded text, annotation) of every annotation (time, text): the decoded text nearest in time, earlier of two.

    Raises:
        ValueError: nothing was decoded.
    """
    if not decoded:
        raise ValueError("nothing was decoded, so no annotation can be matched.")
    times = torch.tensor([one.time for one in decoded], dtype=torch.float64)
    wanted = torch.tensor([time for time, _ in annotations], dtype=torch.float64)
    nearest = (wanted.unsqueeze(1) - times).abs().argmin(1).tolist()
    return [(decoded[place].text, text) for place, (_, text) in zip(nearest, annotations, strict=True)]
