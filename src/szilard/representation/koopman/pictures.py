"""Pictures of a Koopman model as SVG: eigenvalues and the unit circle, and the manifold that latents lie on."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

import torch
from torch import Tensor

SIDE, MARGIN = 300, 30
COLOURS = ("#4269d0", "#d1495b", "#2e8b57", "#efb118", "#8f5bd6", "#1b7f8c")
_STYLE = "text{font:12px system-ui,sans-serif;fill:#222}.axis{stroke:#ccc}.circle{fill:none;stroke:#777}"


def eigenvalue_picture(spectra: Mapping[str, Tensor]) -> str:
    """One panel per operator: its eigenvalues in the complex plane, and the unit circle.

    Inside the circle modes fade, outside they grow; the angle is the turn per step.

    Args:
        spectra: by name, complex [d].

    Raises:
        ValueError: nothing to draw.
    """
    if not spectra:
        raise ValueError("there are no eigenvalues to draw.")
    reach = max(1.15, *(min(2.0, 1.1 * float(values.abs().max())) for values in spectra.values()))
    panels = []
    for number, (name, values) in enumerate(spectra.items()):
        unit = (SIDE / 2 - MARGIN) / reach
        middle, colour = SIDE / 2, COLOURS[number % len(COLOURS)]
        shapes = [
            f'<line class="axis" x1="{MARGIN}" y1="{middle}" x2="{SIDE - MARGIN}" y2="{middle}"/>',
            f'<line class="axis" x1="{middle}" y1="{MARGIN}" x2="{middle}" y2="{SIDE - MARGIN}"/>',
            f'<circle class="circle" cx="{middle}" cy="{middle}" r="{unit:.1f}"/>',
            f'<text x="{middle}" y="18" text-anchor="middle">{escape(name)}</text>',
        ]
        for value in values.tolist():
            x, y = middle + unit * value.real, middle - unit * value.imag
            if 0 <= x <= SIDE and 0 <= y <= SIDE:
                shapes.append(
                    f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.2" fill="{colour}" fill-opacity=".75">'
                    f"<title>{value.real:.3f} {value.imag:+.3f}i, |.| {abs(value):.3f}</title></circle>"
                )
        panels.append(shapes)
    return _panels(panels, "Eigenvalues of Koopman operators")


def manifold_picture(latents: Mapping[str, Tensor], *, sequences: int = 12) -> str:
    """One panel per model: trajectories in the plane of the latents' two leading principal components.

    Args:
        latents: by name, [S, T, d] with d of at least 2.
        sequences: so many are drawn.

    Raises:
        ValueError: nothing to draw, or latents of one dimension.
    """
    if not latents or any(z.dim() != 3 or z.shape[-1] < 2 for z in latents.values()):
        raise ValueError("latents must be [sequences, time, dimensions] with at least two dimensions.")
    panels = []
    for number, (name, z) in enumerate(latents.items()):
        flat = z.detach().double().flatten(0, 1)
        centred = flat - flat.mean(0)
        axes = torch.linalg.svd(centred, full_matrices=False)[2][:2]
        plane = ((z.detach().double() - flat.mean(0)) @ axes.T)[:sequences]
        unit = (SIDE / 2 - MARGIN) / float(plane.abs().max().clamp(min=1e-12))
        shapes = [f'<text x="{SIDE / 2}" y="18" text-anchor="middle">{escape(name)}</text>']
        for path in plane:
            points = " ".join(f"{SIDE / 2 + unit * x:.1f},{SIDE / 2 - unit * y:.1f}" for x, y in path.tolist())
            colour = COLOURS[number % len(COLOURS)]
            shapes.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-opacity=".55"/>')
        panels.append(shapes)
    return _panels(panels, "Latents in their two leading principal components")


def _panels(panels: list[list[str]], label: str) -> str:
    drawn = [f'<g transform="translate({at * SIDE},0)">{"".join(shapes)}</g>' for at, shapes in enumerate(panels)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIDE * len(panels)} {SIDE}" role="img" '
        f'aria-label="{escape(label)}"><style>{_STYLE}</style><rect width="100%" height="100%" fill="#fff"/>'
        f"{''.join(drawn)}</svg>\n"
    )
