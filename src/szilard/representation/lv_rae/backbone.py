"""The frozen vision model: any of transformers, by hub id, folder or module; its patch tokens before the last norm.

    u = Phi(X): hidden states of the patch tokens, without class and register tokens, before the final LayerNorm
    [B, N, D];   LN_Phi: that norm

A picture of h x w patches is brought to h x w patches of the vision model: DINOv2 has patches of 14 pixels, so that a
picture of 256 pixels in patches of 16 is made 224 pixels large. A vision model of one channel sees the luminance of
each picture with mean 0 and deviation 1.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from szilard.options import check_number

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_NORMS = ("post_layernorm", "layernorm", "norm")
_LUMINANCE = (0.299, 0.587, 0.114)


class VisionBackbone(nn.Module):
    """A vision model that never learns and never leaves evaluation mode.

    Args:
        model: of transformers, or any module with a final `nn.LayerNorm` named layernorm, norm or post_layernorm, whose
            forward takes pixels [B, C, H, W] and ends with the patch tokens.
        image_mean, image_std: of what it was trained on.
        patch: of the model; None: its config says.
        learns: the exception: a copy that is trained (F.T.-VFM).

    Raises:
        TypeError: no module.
        ValueError: no final norm, or no patch size.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        *,
        image_mean: Sequence[float] = IMAGENET_MEAN,
        image_std: Sequence[float] = IMAGENET_STD,
        patch: int | None = None,
        learns: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(f"a vision model must be an nn.Module, a hub id or a folder, not a {type(model).__name__}.")
        self.model: nn.Module = getattr(model, "vision_model", model)
        settings = getattr(self.model, "config", None)
        if getattr(settings, "model_type", "") == "vit_mae":
            raise ValueError("ViTMAEModel hides patches: read the same weights with transformers.ViTModel.")
        self.norm_name = next(
            (name for name in _NORMS if isinstance(getattr(self.model, name, None), nn.LayerNorm)), ""
        )
        if not self.norm_name:
            raise ValueError(
                f"{type(self.model).__name__} has no final LayerNorm named {', '.join(_NORMS)}: wrap it so that it has."
            )
        found = patch if patch is not None else getattr(settings, "patch_size", None)
        if isinstance(found, (tuple, list)):
            found = found[0] if len(set(found)) == 1 else None
        if found is None:
            raise ValueError(f"{type(self.model).__name__} does not say how large its patches are: give patch=.")
        check_number("patch", found, low=1, integer=True)
        self.patch: int = found
        self.channels = int(getattr(settings, "num_channels", 3))
        if self.channels not in (1, 3):
            raise ValueError(f"a vision model sees 3 channels, or 1 (luminance), not {self.channels}.")
        parameters = inspect.signature(self.model.forward).parameters
        self.interpolates = "interpolate_pos_encoding" in parameters
        self.register_buffer("mean", torch.tensor(image_mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(image_std).view(1, -1, 1, 1), persistent=False)
        self.learns = learns
        self.requires_grad_(learns)
        self.eval()

    @property
    def norm(self) -> nn.LayerNorm:
        """LN_Phi."""
        return getattr(self.model, self.norm_name)  # type: ignore[no-any-return]

    @property
    def width(self) -> int:
        """D."""
        return int(self.norm.normalized_shape[0])

    @property
    def dtype(self) -> torch.dtype:
        """Of the vision model's weights."""
        return next(self.model.parameters()).dtype

    def train(self, mode: bool = True) -> VisionBackbone:
        """Stays in evaluation mode whatever the whole does: dropped paths would move the latent."""
        return super().train(mode and self.learns)

    def view(self, pixels: Tensor, grid: tuple[int, int]) -> Tensor:
        """[B, 3, H, W] in [0, 1] as the vision model wants it, [B, C, h patch, w patch]."""
        size = (grid[0] * self.patch, grid[1] * self.patch)
        if pixels.shape[-2:] != size:
            pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True, align_corners=False)
        if self.channels == 3:
            return (pixels - self.mean) / self.std
        grey = (pixels * pixels.new_tensor(_LUMINANCE).view(1, 3, 1, 1)).sum(1, keepdim=True)
        deviation = grey.std(dim=(1, 2, 3), keepdim=True).clamp(min=1e-4)
        return (grey - grey.mean(dim=(1, 2, 3), keepdim=True)) / deviation

    def forward(self, pixels: Tensor, grid: tuple[int, int]) -> Tensor:
        """u, [B, N, D], of pixels [B, 3, H, W] in [0, 1].

        Args:
            pixels: the pictures.
            grid: h, w: N = h w.

        Raises:
            ValueError: the vision model gives fewer tokens.
        """
        seen: list[Tensor] = []
        # The norm's input is caught where the norm is applied to all tokens; models that norm a pooled token alone
        # (CLIP) give their hidden states before it.
        hook = self.norm.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        try:
            given: Any = {"interpolate_pos_encoding": True} if self.interpolates else {}
            with torch.set_grad_enabled(torch.is_grad_enabled() and (self.learns or pixels.requires_grad)):
                # a vision model may be kept in half precision beside an autoencoder that is not
                output = self.model(self.view(pixels, grid).to(self.dtype), **given)
        finally:
            hook.remove()
        tokens = seen[-1] if seen and seen[-1].dim() == 3 else getattr(output, "last_hidden_state", output)
        count = grid[0] * grid[1]
        if not isinstance(tokens, Tensor) or tokens.dim() != 3 or tokens.shape[1] < count:
            shape = list(tokens.shape) if isinstance(tokens, Tensor) else type(tokens).__name__
            raise ValueError(f"{type(self.model).__name__} gives {shape} where {count} patch tokens were asked for.")
        found = tokens[:, -count:]  # class and register tokens come first
        return found if self.dtype == pixels.dtype else found.to(pixels.dtype)

    def normalised(self, u: Tensor) -> Tensor:
        """LN_Phi(u), in float32 whatever u is: features before the norm have outlying channels."""
        return layer_norm(u, self.norm.weight, self.norm.bias, self.norm.eps)

    def fingerprint(self) -> str:
        """Tells vision models apart: a hash of the final norm and of the first weights, 16 letters."""
        found = hashlib.sha256()
        for value in (self.norm.weight, self.norm.bias, next(self.model.parameters())):
            if value is None:  # a norm without an affine part, or without an offset
                continue
            found.update(value.detach().float().cpu().flatten()[:65536].numpy().tobytes())
        return found.hexdigest()[:16]


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """LayerNorm over the last dimension, computed in float32 at least."""
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    scale, offset = (None if one is None else one.to(wide.dtype) for one in (weight, bias))
    return F.layer_norm(wide, (x.shape[-1],), scale, offset, eps).to(x.dtype)


def open_backbone(vfm: str | nn.Module) -> VisionBackbone:
    """A vision model by hub id or folder, or a module as it is.

    Raises:
        ValueError: there is none of that name, or it is none.
    """
    if isinstance(vfm, VisionBackbone):
        return vfm
    if isinstance(vfm, nn.Module):
        return VisionBackbone(vfm)
    if not isinstance(vfm, str):
        raise TypeError(f"a vision model must be an nn.Module, a hub id or a folder, not a {type(vfm).__name__}.")
    from transformers import AutoModel
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        model = AutoModel.from_pretrained(vfm, use_safetensors=True)
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ValueError(f"{vfm!r} is no vision model that can be read here ({reason}).") from error
    try:
        processor, _ = ImageProcessingMixin.get_image_processor_dict(vfm)
    except (OSError, ValueError):
        processor = {}
    mean, std = processor.get("image_mean"), processor.get("image_std")
    return VisionBackbone(model, image_mean=mean or IMAGENET_MEAN, image_std=std or IMAGENET_STD)
