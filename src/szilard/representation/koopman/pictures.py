"""Pictures of a Koopman model as SVG: eigenvalues and the unit circle, and the manifold that latents lie on."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

import torch
from torch import Tensor

from szilard.options import check_number

SIDE, MARGIN = 300, 30
PARTS = 6  # shades along a trajectory
COLOURS = ("#4269d0", "#d1495b", "#2e8b57", "#efb118", "#8f5bd6", "#1b7f8c")
_STYLE = "text{font:12px system-ui,sans-serif;fill:#222}.axis{stroke:#ccc}.circle{fill:none;stroke:#777}"


def eigenvalue_picture(spectra: Mapping[str, Tensor]) -> str:
    """One panel per operator: its eigenvalues in the complex plane, and the unit circle.

    Inside the circle modes fade, outside they grow; the angle is the turn per step.

    Args:
        spectra: by name, complex [d].

    Raises:
        ValueError: nothing to draw, or numbers that are none.
    """
    if not spectra:
        raise ValueError("there are no eigenvalues to draw.")
    for name, values in spectra.items():
        if values.dim() != 1 or not values.numel() or not bool(torch.isfinite(values.abs()).all()):
            raise ValueError(f"the eigenvalues of {name!r} must be a row of finite numbers.")
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


def leading_plane(latents: Tensor) -> tuple[Tensor, float]:
    """Latents in their two leading principal components.

    Args:
        latents: [S, T, d] with d of at least 2.

    Returns:
        [S, T, 2] float64, around 0, and the share of the variance that lies in the plane.

    Raises:
        ValueError: another shape, or numbers that are none.
    """
    if latents.dim() != 3 or latents.shape[-1] < 2 or not latents.numel():
        raise ValueError(
            f"latents must be [sequences, time, dimensions] with at least two dimensions, not {list(latents.shape)}."
        )
    z = latents.detach().double()
    if not bool(torch.isfinite(z).all()):
        raise ValueError("latents must be finite to be drawn.")
    centred = z - z.mean((0, 1))
    _, sizes, axes = torch.linalg.svd(centred.flatten(0, 1), full_matrices=False)
    power = sizes.square()
    return centred @ axes[:2].T, float(power[:2].sum() / power.sum().clamp(min=1e-300))


def manifold_picture(latents: Mapping[str, Tensor], *, sequences: int = 12) -> str:
    """One panel per model: trajectories in the plane of the latents' two leading principal components.

    A trajectory begins at a dot, pale, and darkens with time. Where there are more dimensions than two, the share of
    the variance that the plane shows stands below.

    Args:
        latents: by name, [S, T, d] with d of at least 2.
        sequences: so many are drawn.

    Raises:
        ValueError: nothing to draw, or latents of one dimension.
    """
    check_number("sequences", sequences, low=1, integer=True)
    if not latents:
        raise ValueError("there are no latents to draw.")
    panels = []
    for number, (name, z) in enumerate(latents.items()):
        plane, share = leading_plane(z)
        unit = (SIDE / 2 - MARGIN) / float(plane.abs().max().clamp(min=1e-12))
        colour, middle = COLOURS[number % len(COLOURS)], SIDE / 2
        shapes = [f'<text x="{middle}" y="18" text-anchor="middle">{escape(name)}</text>']
        if z.shape[-1] > 2:
            told = f"{100 * share:.0f} % of the variance"
            shapes.append(f'<text x="{middle}" y="{SIDE - 8}" text-anchor="middle">{told}</text>')
        for path in (middle + unit * plane[:sequences] * plane.new_tensor([1.0, -1.0])).tolist():
            parts = range(0, len(path) - 1, max(1, len(path) // PARTS))
            for at in parts:
                points = " ".join(f"{x:.1f},{y:.1f}" for x, y in path[at : at + parts.step + 1])
                dark = 0.15 + 0.7 * at / max(1, parts[-1])
                shapes.append(
                    f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-opacity="{dark:.2f}"/>'
                )
            x, y = path[0]
            shapes.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" fill="{colour}" fill-opacity=".6"/>')
        panels.append(shapes)
    return _panels(panels, "Latents in their two leading principal components")


def _panels(panels: list[list[str]], label: str) -> str:
    drawn = [f'<g transform="translate({at * SIDE},0)">{"".join(shapes)}</g>' for at, shapes in enumerate(panels)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIDE * len(panels)} {SIDE}" role="img" '
        f'aria-label="{escape(label)}"><style>{_STYLE}</style><rect width="100%" height="100%" fill="#fff"/>'
        f"{''.join(drawn)}</svg>\n"
    )
