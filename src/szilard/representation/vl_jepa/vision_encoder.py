"""X-Encoders: pictures or frames to visual tokens S_V [B, n, d_v]. VL-JEPA never trains them.

    PatchEncoder            a small transformer over square patches; `vision_pretraining` trains it without any text
    TransformersVision      a vision model of transformers: V-JEPA 2, DINOv2, SigLIP, CLIP, ViT, ...

Any other module will do that has `width` (d_v) and turns pixels into tokens. Pixels are [B, 3, H, W] or
[B, frames, 3, H, W], float in [0, 1], or bytes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from szilard.options import check_number


class PatchEncoder(nn.Module):
    """A pre-norm transformer over patches with learned places; frames are encoded one by one and stand in a row.

    Args:
        size: side of the pictures, in pixels; a multiple of `patch`.
        patch: side of a patch, in pixels.
        width: d_v; a multiple of `heads`.
        layers, heads: of the transformer.
    """

    def __init__(self, size: int = 32, patch: int = 8, width: int = 96, layers: int = 3, heads: int = 4) -> None:
        super().__init__()
        for name, value in (("patch", patch), ("width", width), ("layers", layers), ("heads", heads)):
            check_number(name, value, low=1, integer=True)
        check_number("size", size, low=patch, integer=True)
        if size % patch or width % heads:
            raise ValueError(f"patch={patch} must divide size={size}, and heads={heads} width={width}.")
        self.size, self.patch, self.width, self.layers, self.heads = size, patch, width, layers, heads
        self.tokens = (size // patch) ** 2
        self.embed = nn.Linear(3 * patch * patch, width)
        self.places = nn.Parameter(torch.randn(self.tokens, width) * 0.02)
        block = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, layers, nn.LayerNorm(width), enable_nested_tensor=False)

    @property
    def settings(self) -> dict[str, Any]:
        """What it is built anew from."""
        names = ("size", "patch", "width", "layers", "heads")
        return {"kind": "patches"} | {name: getattr(self, name) for name in names}

    def forward(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] or [B, frames, 3, H, W] -> [B, frames n, d_v].

        Raises:
            ValueError: pictures of another size.
        """
        frames = as_frames(pixels)
        if frames.shape[-2:] != (self.size, self.size):
            raise ValueError(f"pictures must be {self.size} x {self.size} pixels, not {tuple(frames.shape[-2:])}.")
        states = self.blocks(self.embed(self.patches(frames.flatten(0, 1))) + self.places)
        return states.reshape(len(frames), -1, self.width)

    def patches(self, pictures: Tensor) -> Tensor:
        """[N, 3, H, W] -> [N, n, 3 patch^2], row by row, numbers around 0."""
        rows = self.size // self.patch
        cut = pictures.reshape(len(pictures), 3, rows, self.patch, rows, self.patch)
        return cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2) * 2 - 1


class TransformersVision(nn.Module):
    """A vision model of transformers.

    Args:
        model: gives `last_hidden_state` for `pixel_values` [N, 3, H, W], or for `pixel_values_videos`
            [B, frames, 3, H, W] (V-JEPA 2). A CLIP-like pair gives its vision part.
        mean, std: of each colour, as the model's image processor has them.
        frames: a video model is given at least so many; a picture is repeated to fill them. Paper: the whole clip; here
            two, one step of V-JEPA 2 in time, because more copies cost time and show nothing new.
    """

    def __init__(
        self,
        model: Any,
        *,
        mean: tuple[float, float, float] = (0.485, 0.456, 0.406),
        std: tuple[float, float, float] = (0.229, 0.224, 0.225),
        frames: int = 2,
    ) -> None:
        super().__init__()
        check_number("frames", frames, low=1, integer=True)
        inner = getattr(model, "vision_model", model)
        self.model = inner
        self.width = int(inner.config.hidden_size)
        self.size = int(getattr(inner.config, "image_size", None) or inner.config.crop_size)
        self.video = getattr(inner, "main_input_name", "") == "pixel_values_videos"
        self.mean, self.std, self.frames = tuple(mean), tuple(std), frames

    @property
    def settings(self) -> dict[str, Any]:
        """What it is built anew from; weights apart."""
        own = {"mean": list(self.mean), "std": list(self.std), "frames": self.frames}
        return {"kind": "transformers", "config": self.model.config.to_dict()} | own

    @classmethod
    def from_pretrained(cls, name: str, **options: Any) -> TransformersVision:
        """A model by its hub id or folder, with the mean and spread that its image or video processor notes."""
        from transformers import AutoModel
        from transformers.utils import cached_file

        # The notes themselves: the processors' classes want torchvision.
        options_of_file = {"_raise_exceptions_for_missing_entries": False}
        found: dict[str, Any] = {}
        for file in ("preprocessor_config.json", "video_preprocessor_config.json"):
            if (path := cached_file(name, file, **options_of_file)) is not None:
                noted = json.loads(Path(path).read_text(encoding="utf-8"))
                entries = (("mean", "image_mean"), ("std", "image_std"))
                found |= {key: tuple(noted[entry]) for key, entry in entries if noted.get(entry) is not None}
        return cls(AutoModel.from_pretrained(name, dtype=torch.float32), **(found | options))

    def forward(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] or [B, frames, 3, H, W] -> [B, n, d_v]; frames of a picture model stand in a row."""
        frames = as_frames(pixels)
        if frames.shape[-2:] != (self.size, self.size):
            flat = nn.functional.interpolate(
                frames.flatten(0, 1), (self.size, self.size), mode="bilinear", antialias=True
            )
            frames = flat.unflatten(0, frames.shape[:2])
        mean, std = (frames.new_tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        frames = ((frames - mean) / std).to(self.model.dtype)
        if self.video:
            frames = frames.repeat_interleave(-(-self.frames // frames.shape[1]), dim=1)
            if odd := frames.shape[1] % getattr(self.model.config, "tubelet_size", 1):  # a rest would be dropped
                missing = self.model.config.tubelet_size - odd
                frames = torch.cat([frames, frames[:, -1:].expand(-1, missing, -1, -1, -1)], dim=1)
            own = getattr(self.model, "get_vision_features", self.model)  # V-JEPA 2 without its own predictor
            states = own(frames)
            return (states if isinstance(states, Tensor) else states.last_hidden_state).float()
        states = self.model(pixel_values=frames.flatten(0, 1)).last_hidden_state
        return states.reshape(len(frames), -1, self.width).float()


def as_frames(pixels: Tensor) -> Tensor:
    """Pictures or frames, bytes or numbers in [0, 1], as float [B, frames, 3, H, W].

    Raises:
        ValueError: another shape.
    """
    if pixels.dim() not in (4, 5) or pixels.shape[-3] != 3:
        raise ValueError(
            f"pixels must be [batch, 3, H, W] or [batch, frames, 3, H, W], not {tuple(pixels.shape)}: stack pictures."
        )
    frames = pixels.unsqueeze(1) if pixels.dim() == 4 else pixels
    return frames.float() / 255 if frames.dtype == torch.uint8 else frames.float()


def vision_from_settings(settings: dict[str, Any]) -> nn.Module:
    """An encoder as its `settings` say, with new weights."""
    rest = {name: value for name, value in settings.items() if name != "kind"}
    if settings["kind"] == "patches":
        return PatchEncoder(**rest)
    from szilard.representation.vl_jepa.stock_parts import stock_model

    return TransformersVision(stock_model(rest.pop("config")), **rest)
