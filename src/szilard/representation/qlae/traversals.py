"""What each latent does, as one HTML page: a row per latent, the picture with that latent at its values.

The page loads nothing: pictures are PNGs inside it.
"""

from __future__ import annotations

import base64
import io
from html import escape
from pathlib import Path

import torch
from torch import Tensor

from szilard.options import check_number
from szilard.report_page import document
from szilard.representation.qlae.model import LatentAutoencoder, unit
from szilard.whole_folder import write_whole

SHOWN = 3  # pixels of the page per pixel


def traversal_values(model: LatentAutoencoder, codes: Tensor, latent: int, columns: int) -> Tensor:
    """The values of a latent that a page shows.

    Args:
        model: whose latent it is.
        codes: [N, n_z] of some pictures.
        latent: which.
        columns: how many at most.

    Returns:
        [columns or fewer]: of a discrete latent the most used indices in their order, of numbers even steps between
        the hundredth parts at either end.
    """
    column = codes[:, latent]
    if model.discrete:
        used, counts = column.unique(return_counts=True)
        return used[counts.argsort(descending=True, stable=True)[:columns]].sort().values
    low, high = column.double().quantile(torch.tensor([0.01, 0.99], dtype=torch.float64)).tolist()
    return torch.linspace(low, high, columns)


def traversal_page(model: LatentAutoencoder, pictures: Tensor, *, count: int = 3, columns: int = 10) -> str:
    """The page.

    Args:
        model: in evaluation mode.
        pictures: [N, C, s, s], bytes or in [0, 1]; latents take the values that they take on these.
        count: of the first pictures that are changed.
        columns: values of a latent at most.

    Raises:
        ValueError: pictures of another size, or numbers of channels that are no picture.
        ImportError: Pillow is not installed.
    """
    check_number("count", count, low=1, integer=True)
    check_number("columns", columns, low=2, integer=True)
    if model.shape.channels not in (1, 3):
        raise ValueError(f"only pictures of 1 or 3 channels can be shown, not of {model.shape.channels}.")
    codes = model.encode(pictures).cpu()
    parts = []
    for picture in pictures[:count]:
        whole = torch.stack([unit(picture), model.reconstruct(picture.unsqueeze(0))[0].cpu()])
        parts.append(
            f"<h2>A picture and its reconstruction</h2><p>{_image(strip(whole), 'picture, reconstruction')}</p>"
        )
        rows = []
        for latent in range(model.num_latents):
            values = traversal_values(model, codes, latent, columns)
            made = model.traverse(picture, latent, values).cpu()
            label = f"latent {latent}: {len(values)} values" + (" (of no use)" if len(values) < 2 else "")
            rows.append(f"<p>{escape(label)}<br>{_image(strip(made), label)}</p>")
        parts.append("".join(rows))
    told = f"Each row is the picture with one latent at other values, the others kept; {escape(model.kind)}."
    style = "<style>img { image-rendering: pixelated; } p { margin: 4px 0; }</style>"
    return document("traversals", f"<h1>What each latent does</h1><p>{told}</p>{style}{''.join(parts)}")


def write_traversals(
    model: LatentAutoencoder, pictures: Tensor, file: Path, *, count: int = 3, columns: int = 10
) -> None:
    """Write `traversal_page` to a file, whole."""
    write_whole(file, traversal_page(model, pictures, count=count, columns=columns))


def strip(pictures: Tensor) -> Tensor:
    """[n, C, s, s] in [0, 1] -> bytes [s, n (s + 1) - 1, C]: side by side, a white line between."""
    padded = torch.nn.functional.pad(pictures, (0, 1), value=1.0)
    return padded.permute(2, 0, 3, 1).flatten(1, 2)[:, :-1].mul(255).round().to(torch.uint8)


def _image(pixels: Tensor, label: str) -> str:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("pictures on a page need Pillow: pip install 'szilard[vision]'") from error
    held = io.BytesIO()
    Image.fromarray((pixels[..., 0] if pixels.shape[-1] == 1 else pixels).numpy()).save(held, "PNG", optimize=True)
    data = base64.b64encode(held.getvalue()).decode()
    height, width = pixels.shape[:2]
    size = f'width="{SHOWN * width}" height="{SHOWN * height}"'
    return f'<img {size} alt="{escape(label)}" src="data:image/png;base64,{data}">'
