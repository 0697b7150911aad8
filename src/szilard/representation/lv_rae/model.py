"""LV-RAE: a frozen vision model's tokens and a small residual make a latent that is semantic and can be inverted.

Liu, Qin, Yin, Yan, Duan, Li, Lyu, Guo, Li, "Improving Reconstruction of Representation Autoencoder", arXiv:2602.08620.

    u = Phi(X)  [B, N, D]           r = E(X, u)                     (equation 1; `networks`)
    z = LN(r + u),  LN starts as LN_Phi, r at 0: z = LN_Phi(u)      (equation 2)
    X^ = D(z);   stage II: D(z + sigma eps), sigma ~ U(0, tau) per picture
    L = |X - X^|_1 + beta LPIPS + eta |z - LN_Phi(u)|^2             (equations 3 to 5)

`residual=False` is RAE (Zheng et al., arXiv:2510.11690): z = LN(u) without the affine part.
A latent of 768 numbers per 16 x 16 x 3 pixels has as many numbers as the picture: it is no compression.
"""

from __future__ import annotations

import copy
import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin, snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from szilard.options import check_number
from szilard.representation.lv_rae.backbone import VisionBackbone, layer_norm, open_backbone
from szilard.representation.lv_rae.card import card
from szilard.representation.lv_rae.config import LVRAEConfig
from szilard.representation.lv_rae.losses import adaptive_weight, alignment, generator_loss
from szilard.representation.lv_rae.networks import PixelDecoder, ResidualEncoder
from szilard.representation.lv_rae.noise import drawn_noise, place_of
from szilard.representation.lv_rae.patches import grid_of

_FILES = ("config.json", "README.md", "model.safetensors")  # the weights last: with them the folder is whole
_FORMAT = "lv-rae"
_OVERSHOOT = 0.1
Vfm = str | nn.Module


class LVRAE(nn.Module, PyTorchModelHubMixin):
    """The autoencoder.

    Args:
        config: sizes and weights of the losses.
        vfm: the vision model, a module or where to read it; None: `config.vfm` says where. A bare module is shown
            pictures with ImageNet's mean and deviation; one that wants others (SigLIP: 0.5) comes in a
            `VisionBackbone(module, image_mean=..., image_std=...)`, or by its folder, which says so.

    Raises:
        ValueError: a vision model that cannot be read or wrapped.
    """

    def __init__(self, config: LVRAEConfig | None = None, vfm: Vfm | None = None) -> None:
        super().__init__()
        self.config = LVRAEConfig() if config is None else config
        own = self.config
        self.backbone = open_backbone(own.vfm if vfm is None else vfm)
        token = self.backbone.width
        shape = (token, own.hidden, own.heads)
        self.encoder = ResidualEncoder(*shape, own.encoder_depth, own.patch) if own.residual else None
        self.tuned: VisionBackbone | None = None
        if own.tune_vfm:
            model = copy.deepcopy(self.backbone.model)
            mean, std = (one.flatten().tolist() for one in (self.backbone.mean, self.backbone.std))
            self.tuned = VisionBackbone(model, image_mean=mean, image_std=std, patch=self.backbone.patch, learns=True)
            self.tuned.norm.requires_grad_(False)  # its last norm is `norm` below
        reference = self.backbone.norm
        self.norm = nn.LayerNorm(token, eps=reference.eps, elementwise_affine=own.residual or own.tune_vfm)
        if self.norm.elementwise_affine and reference.elementwise_affine:
            with torch.no_grad():
                self.norm.weight.copy_(reference.weight)
                if reference.bias is not None:
                    self.norm.bias.copy_(reference.bias)
        self.decoder = PixelDecoder(*shape, own.decoder_depth, own.patch)
        self.trained_on: dict[str, Any] = {}

    @property
    def width(self) -> int:
        """D, numbers of a token of the latent."""
        return self.backbone.width

    def requires_grad_(self, requires_grad: bool = True) -> LVRAE:
        """Of what learns; the frozen vision model stays frozen."""
        super().requires_grad_(requires_grad)
        self.backbone.requires_grad_(False)
        if self.tuned is not None:
            self.tuned.norm.requires_grad_(False)
        return self

    # --- encoding -------------------------------------------------------------------------------------------------

    def features(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """u before the final norm, and z, both [B, N, D], of pixels [B, 3, H, W] in [0, 1]; with gradients."""
        grid = grid_of(pixels, self.config.patch)
        pixels = pixels.to(next(self.decoder.parameters()).dtype)
        u = self.backbone(pixels, grid)
        if self.encoder is not None:
            base = u + self.encoder(pixels, u, grid)
        else:
            base = u if self.tuned is None else self.tuned(pixels, grid)
        return u, layer_norm(base, self.norm.weight, self.norm.bias, self.norm.eps)

    @torch.no_grad()
    def encode(self, pixels: Tensor, *, as_map: bool = False) -> Tensor:
        """The latent z of pictures; never with noise.

        Args:
            pixels: [B, 3, H, W] in [0, 1]; H and W multiples of the patch.
            as_map: [B, D, h, w] instead of [B, N, D].

        Raises:
            TypeError, ValueError: pictures of another shape or type, or with numbers outside [0, 1].
        """
        self._checked(pixels)
        tuning = self.tuned is not None and self.tuned.training
        if self.tuned is not None:
            self.tuned.eval()  # a latent does not depend on dropped paths, whatever mode the whole is in
        try:
            z = self.features(pixels)[1]
        finally:
            if self.tuned is not None:
                self.tuned.train(tuning)
        return z.transpose(1, 2).unflatten(2, grid_of(pixels, self.config.patch)) if as_map else z

    @torch.no_grad()
    def semantic(self, pixels: Tensor) -> Tensor:
        """LN_Phi(u), [B, N, D]: what the vision model itself says."""
        pixels = self._checked(pixels)
        return self.backbone.normalised(self.backbone(pixels, grid_of(pixels, self.config.patch)))

    @torch.no_grad()
    def residual(self, pixels: Tensor) -> Tensor:
        """r, [B, N, D]: what is added to u; zeros for RAE."""
        pixels = self._checked(pixels)
        grid = grid_of(pixels, self.config.patch)
        u = self.backbone(pixels, grid)
        return torch.zeros_like(u) if self.encoder is None else self.encoder(pixels, u, grid)

    @torch.no_grad()
    def encode_base(self, pixels: Tensor) -> Tensor:
        """LN(u) with the trained norm, [B, N, D]: the latent with the residual dropped."""
        pixels = self._checked(pixels)
        u = self.backbone(pixels, grid_of(pixels, self.config.patch))
        return layer_norm(u, self.norm.weight, self.norm.bias, self.norm.eps)

    def _checked(self, pixels: Tensor) -> Tensor:
        """Pictures with numbers in [0, 1], in the model's own type; a resizing's overshoot is let through."""
        grid_of(pixels, self.config.patch)
        low, high = (float(one) for one in pixels.aminmax())
        if not -_OVERSHOOT <= low <= high <= 1 + _OVERSHOOT:  # false for what is no number, too
            raise ValueError(f"numbers of pictures must be from 0 to 1, not from {low:g} to {high:g}.")
        return pixels.to(next(self.decoder.parameters()).dtype)

    # --- decoding -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def decode(
        self,
        latent: Tensor,
        *,
        smoothing_noise: float = 0.0,
        generator: torch.Generator | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Tensor:
        """Pictures of latents: clamp(D(z + sigma_bar eps), 0, 1) (equation 11).

        Args:
            latent: [B, N, D], or [B, D, h, w]; as `encode` gives it, not standardised.
            smoothing_noise: sigma_bar, for latents that a generator made; at most the tau of stage II. 0: none.
            generator: of eps.
            grid: h, w of a latent [B, N, D] that is not square.

        Returns:
            [B, 3, h patch, w patch] in [0, 1].

        Raises:
            TypeError, ValueError: another shape.
        """
        check_number("smoothing_noise", smoothing_noise, low=0)
        z, shape = self.as_tokens(latent, grid)
        if smoothing_noise:
            noise = torch.randn(z.shape, generator=generator, dtype=z.dtype, device=place_of(generator, z))
            z = z + smoothing_noise * noise.to(z.device)
        found: Tensor = self.decoder(z, shape)
        return found.clamp(0, 1)

    def reconstruct(self, pixels: Tensor) -> Tensor:
        """D(z) of pictures, [B, 3, H, W] in [0, 1]: without noise, the same every time."""
        return self.decode(self.encode(pixels), grid=grid_of(pixels, self.config.patch))

    def as_tokens(self, latent: Tensor, grid: tuple[int, int] | None = None) -> tuple[Tensor, tuple[int, int]]:
        """A latent as [B, N, D], and h, w.

        Raises:
            TypeError, ValueError: no latent of this model.
        """
        if not isinstance(latent, Tensor) or not latent.is_floating_point():
            raise TypeError(
                f"a latent must be a tensor of numbers, not {getattr(latent, 'dtype', type(latent).__name__)}."
            )
        latent = latent.to(next(self.decoder.parameters()).dtype)
        if latent.dim() == 4 and latent.shape[1] == self.width and latent.numel():
            return latent.flatten(2).transpose(1, 2), (latent.shape[2], latent.shape[3])
        if latent.dim() != 3 or latent.shape[2] != self.width or not latent.numel():
            raise ValueError(
                f"a latent must be [B, N, {self.width}] or [B, {self.width}, h, w], not {list(latent.shape)}."
            )
        side = round(latent.shape[1] ** 0.5)
        shape = (side, side) if grid is None else tuple(grid)
        for one in shape:
            check_number("grid", one, low=1, integer=True)
        if len(shape) != 2 or shape[0] * shape[1] != latent.shape[1]:
            told = " x ".join(map(str, shape))
            raise ValueError(f"{latent.shape[1]} tokens are no grid of {told}: give grid=(h, w).")
        return latent, (shape[0], shape[1])

    # --- training -------------------------------------------------------------------------------------------------

    def training_losses(
        self,
        pixels: Tensor,
        stage: int = 1,
        *,
        perceptual: nn.Module | None = None,
        perceptual_weight: float = 1.0,
        discriminate: Any = None,
    ) -> dict[str, Tensor]:
        """The losses of a batch, scalars; draws come from torch's own generator.

        Args:
            pixels: [B, 3, H, W] in [0, 1].
            stage: 1: encoder and decoder; 2: the decoder on noisy latents.
            perceptual: ([-1, 1], [-1, 1]) -> scalar, such as LPIPS.
            perceptual_weight: beta.
            discriminate: pictures [B, 3, H, W] around [0, 1] -> logits; None: no adversarial term.

        Returns:
            "l1", "lpips" (0 without), "align", "gan", "weight" (0 without a discriminator) and "total", with a graph;
            "pixels": D's output, for the discriminator, without one.

        Raises:
            ValueError: another stage.
        """
        if stage not in (1, 2):
            raise ValueError(f"stage must be 1 or 2, not {stage!r}.")
        own = self.config
        grid = grid_of(pixels, own.patch)
        with torch.set_grad_enabled(torch.is_grad_enabled() and stage == 1):
            u, z = self.features(pixels)
        latent = z
        # RAE has one stage, with noise in it; LV-RAE meets noise in stage II alone.
        if stage == 2 or not (own.residual or own.tune_vfm):
            latent = z + drawn_noise(z, own.noise_tau, own.noise)
        decoded = self.decoder(latent, grid)  # not clamped before the loss
        zero = pixels.new_zeros(())
        losses = {"l1": (decoded - pixels).abs().mean(), "lpips": zero, "align": zero, "gan": zero, "weight": zero}
        if perceptual is not None:
            losses["lpips"] = perceptual(2 * decoded - 1, 2 * pixels - 1)
        total = losses["l1"] + perceptual_weight * losses["lpips"]
        if discriminate is not None:
            losses["gan"] = generator_loss(discriminate(decoded))
            losses["weight"] = adaptive_weight(total, losses["gan"], self.decoder.out.weight)
            total = total + own.gan_weight * losses["weight"] * losses["gan"]
        if stage == 1 and (own.residual or own.tune_vfm):
            target = self.backbone.normalised(u) if own.align_target == "normalised" else u
            losses["align"] = alignment(z, target)
            total = total + own.align_weight * losses["align"]
        return losses | {"total": total, "pixels": decoded.detach()}

    # --- keeping --------------------------------------------------------------------------------------------------

    def own_state(self) -> dict[str, Tensor]:
        """What is saved: E, LN and D (and the trained copy of F.T.-VFM), never the frozen vision model."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("backbone.")}

    def save_pretrained(self, save_directory: Any, *, config: Any = None, **options: Any) -> Any:
        """Write a folder that `from_pretrained` reads: config.json, README.md, and model.safetensors last."""
        push, repo = options.pop("push_to_hub", False), options.pop("repo_id", None)
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        own = self.config
        count = sum(value.numel() for value in self.own_state().values())
        kept = {"format": _FORMAT, "config": asdict(own), "trained_on": self.trained_on}
        kept["vfm_fingerprint"] = self.backbone.fingerprint()
        kept |= {f"image_{name}": getattr(self.backbone, name).flatten().tolist() for name in ("mean", "std")}
        with tempfile.TemporaryDirectory(dir=folder, prefix=".new-") as scratch:
            (Path(scratch) / "config.json").write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
            (Path(scratch) / "README.md").write_text(card(own, self.width, count, self.trained_on), encoding="utf-8")
            tensors = {name: value.detach().cpu().contiguous() for name, value in self.own_state().items()}
            save_file(tensors, Path(scratch) / "model.safetensors")
            for file in _FILES:
                os.replace(Path(scratch) / file, folder / file)
        return self.push_to_hub(repo or folder.name, **options) if push else None

    @classmethod
    def _from_pretrained(
        cls, *, model_id: str, vfm: Vfm | None = None, map_location: Any = "cpu", strict: bool = True, **options: Any
    ) -> Any:
        folder = Path(model_id)
        if not folder.is_dir():
            names = ("revision", "cache_dir", "force_download", "local_files_only", "token")
            chosen = {name: options[name] for name in names if options.get(name) is not None}
            folder = Path(snapshot_download(model_id, allow_patterns=list(_FILES), **chosen))
        try:
            kept = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            if kept["format"] != _FORMAT:
                raise ValueError
            config = LVRAEConfig(**kept["config"])
        except (OSError, ValueError, KeyError, TypeError):
            raise ValueError(f"{model_id!r} holds no LV-RAE: szilard train lv-rae makes one.") from None
        beside = folder / "backbone"  # a small vision model that was trained with it
        if vfm is None:
            vfm = str(beside) if beside.is_dir() else config.vfm
        if isinstance(vfm, nn.Module) and not isinstance(vfm, VisionBackbone) and "image_mean" in kept:
            # a bare module does not say how pictures are normalised for it, but the training did
            vfm = VisionBackbone(vfm, image_mean=kept["image_mean"], image_std=kept["image_std"])
        model = cls(config, vfm)
        found = model.backbone.fingerprint()
        if found != kept["vfm_fingerprint"]:
            raise ValueError(
                f"{model_id!r} was trained on another vision model than this one: give vfm= ({config.vfm!r})."
            )
        try:
            state = load_file(folder / "model.safetensors")
            wrong = model.load_state_dict(state, strict=False)
            missing = [name for name in wrong.missing_keys if not name.startswith("backbone.")]
            if strict and (missing or wrong.unexpected_keys):
                raise RuntimeError(f"it lacks or has {(missing + wrong.unexpected_keys)[0]!r}")
        except (OSError, RuntimeError, SafetensorError) as error:
            raise ValueError(f"the weights in {model_id!r} cannot be read: {str(error).splitlines()[0]}") from None
        model.trained_on = kept.get("trained_on", {})
        return model.to(map_location or "cpu").eval()
