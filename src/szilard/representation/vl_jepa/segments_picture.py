"""A segmented stream as one SVG: how alike its windows are, the segments along the diagonal, and what was decoded."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

import torch
from torch import Tensor
from torch.nn import functional

from szilard.representation.vl_jepa.segments import Segment

_SIDE, _LEFT, _TOP, _LINE = 420, 12, 24, 15


def picture(
    embeddings: Tensor,
    segments: Sequence[Segment],
    *,
    texts: Sequence[str] = (),
    changes: Sequence[int] = (),
    title: str = "",
) -> str:
    """Draw the cosines of all pairs of windows, a frame around every segment, and its text beside it.

    Args:
        embeddings: [T, D].
        segments: of the stream.
        texts: one per segment, or none.
        changes: windows at which the meaning truly changes: ticks at the top.
        title: above the picture.

    Returns:
        A self-contained SVG; the matrix in it is a PNG, which needs Pillow.

    Raises:
        ValueError: as many texts as segments are not given.
        ImportError: Pillow is not installed.
    """
    if texts and len(texts) != len(segments):
        raise ValueError(f"there are {len(segments)} segments and {len(texts)} texts: give one for each, or none.")
    length = len(embeddings)
    unit = functional.normalize(embeddings.detach().float().cpu(), dim=1)
    step = _SIDE / length
    shapes = [
        f'<text class="title" x="{_LEFT}" y="15">{escape(title)}</text>',
        f'<image x="{_LEFT}" y="{_TOP}" width="{_SIDE}" height="{_SIDE}" preserveAspectRatio="none" '
        f'style="image-rendering:pixelated" href="data:image/png;base64,{_png(unit @ unit.T)}"/>',
    ]
    for change in changes:
        across = _LEFT + change * step
        shapes.append(f'<line class="change" x1="{across:.1f}" y1="{_TOP - 7}" x2="{across:.1f}" y2="{_TOP}"/>')
    down = float(_TOP)
    for place, one in enumerate(segments):
        corner, side = one.start * step, len(one) * step
        shapes.append(
            f'<rect class="segment" x="{_LEFT + corner:.1f}" y="{_TOP + corner:.1f}" width="{side:.1f}" '
            f'height="{side:.1f}"><title>windows {one.start} to {one.end - 1}</title></rect>'
        )
        if texts:
            middle = _TOP + corner + side / 2
            down = max(down + _LINE, middle)
            right = _LEFT + _SIDE
            edge = _LEFT + corner + side
            shapes.append(f'<path class="leader" d="M{edge:.1f} {middle:.1f}H{right + 4}L{right + 16} {down:.1f}"/>')
            shapes.append(f'<text class="text" x="{right + 20}" y="{down + 4:.1f}">{escape(texts[place])}</text>')
    width = _LEFT * 2 + _SIDE + (330 if texts else 0)
    height = max(_TOP + _SIDE, down + _LINE) + 12
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0f}" role="img" '
        f'aria-label="{escape(title or "A segmented stream")}"><style>{_STYLE}</style>'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(shapes)}</svg>\n'
    )


_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#222}.title{font-weight:600}.segment{fill:none;stroke:#d81b60;"
    "stroke-width:1.6}.leader{fill:none;stroke:#bbb;stroke-width:.7}.change{stroke:#111;stroke-width:1.6}"
)


def _png(cosines: Tensor) -> str:
    """[T, T] in -1 .. 1 as a PNG: dark where windows are unlike."""
    try:
        from PIL import Image
    except ImportError:
        raise ImportError("the picture needs the package Pillow: pip install 'szilard[vision]'") from None
    low = float(cosines.min())
    shade = ((cosines - low) / max(1e-6, 1 - low)).clamp(0, 1).mul(255).round().to(torch.uint8)
    file = io.BytesIO()
    Image.fromarray(shade.numpy(), mode="L").save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()
