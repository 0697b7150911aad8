"""What a model's folder says about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from szilard.representation.lv_rae.config import LVRAEConfig


def card(own: LVRAEConfig, width: int, count: int, trained_on: Mapping[str, Any]) -> str:
    """The README.md of a folder.

    Args:
        own: what the model is made of.
        width: numbers of a token.
        count: numbers that are saved.
        trained_on: data, losses and measurements, by name.
    """
    kind = "LV-RAE" if own.residual else "F.T.-VFM" if own.tune_vfm else "RAE"
    lines = ["---", "library_name: szilard", "tags: [szilard, autoencoder]", "---", f"# {kind}", ""]
    lines += [f"A representation autoencoder on the frozen vision model `{own.vfm}`: {count:,} numbers of its own,"]
    beside = "; the copy of it that was trained is" if own.tune_vfm else ""
    lines += [f"tokens of {own.patch} x {own.patch} pixels and {width} numbers."]
    lines += [f"The frozen vision model is not in here{beside}.", ""]
    if trained_on:
        lines += ["| trained with | |", "|---|---|"]
        lines += [f"| {name} | {value} |" for name, value in trained_on.items()] + [""]
    lines += ["```python", "import szilard", "", "model = szilard.LVRAE.from_pretrained(FOLDER)"]
    lines += ["model.reconstruct(pixels)  # [B, 3, H, W] in [0, 1]", "```", ""]
    return "\n".join([*lines, "After Liu et al., arXiv:2602.08620, and Zheng et al., arXiv:2510.11690.", ""])
