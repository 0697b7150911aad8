"""Training of learned codecs through the one loop.

    loss = lambda 255^2 MSE + bpp     or     lambda (1 - MS-SSIM) + bpp

and, with an Adam of its own, the loss of the quantiles of z's density.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from szilard.codecs.learned_codec import LearnedCodec
from szilard.codecs.photographs import Crops
from szilard.codecs.selective import worth_coding
from szilard.options import check_choice, check_number
from szilard.training.config import TrainingConfig, setting
from szilard.training.run_folder import check_ours, own_run

if TYPE_CHECKING:
    from transformers import TrainerCallback

LAMBDAS = {  # of the papers, by distortion
    "mse": (0.0018, 0.0035, 0.0067, 0.0130, 0.0250, 0.0483),
    "ms-ssim": (2.4, 4.58, 8.73, 16.64, 31.73, 60.5),
}
_LEAST_OF_MS_SSIM = 0.1  # 1 - MS-SSIM is 1 at most: below this no picture is worth its bits
_MOST_LMBDA = 1e9
AUX = 1e-4  # its share of the loss: Adam does not mind the scale, and the norm of all gradients shall not feel it
_MADE_FOR = "# codec:"
_FOLDERS, _FILES = (
    ("checkpoints", "tensorboard"),
    ("metrics.jsonl", "training.yaml", "model.safetensors", "config.json"),
)


@dataclass(frozen=True)
class CodecConfig(TrainingConfig):
    """Settings of training a codec."""

    # Paper: batches of 32, crops of 256, after 1.2 of 2 million steps of 512, and a tenth of the rate at the end; here:
    # one crop size, and any of the loop's schedules, because trainings are a thousand times shorter.
    least_lmbda: ClassVar[float] = 1e-6

    steps: int | None = setting(2000, "Optimiser steps.")
    batch_size: int = setting(8, "Crops per step and process; 32 in the papers.")
    learning_rate: float = setting(1e-4, "Of Adam.")
    schedule: str = setting("constant", "cosine, linear or constant, after the warm-up.")
    lmbda: float = setting(0.013, "lambda: what distortion costs; higher means better pictures and larger files.")
    distortion: str = setting("mse", "mse or ms-ssim.")
    crop: int = setting(256, "Side of the crops, in pixels; a multiple of 64.")
    halved: float = setting(0.3, "Share of the crops that are cut twice as large and halved.")
    varied: float = setting(0.0, "Share of the crops that are turned and get other colours; for few pictures.")
    aux_learning_rate: float = setting(1e-3, "Of the quantiles of z's density.")
    selection_weight: float = setting(1.0, "Of the selection predictor's cross-entropy (gsc='learned').")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps is None:
            raise ValueError("steps must be given: crops are drawn, so that there are no epochs.")
        check_number("lmbda", self.lmbda, low=self.least_lmbda, high=_MOST_LMBDA)
        check_choice("distortion", self.distortion, tuple(LAMBDAS))
        if self.distortion == "ms-ssim" and 0 < self.lmbda < _LEAST_OF_MS_SSIM:
            papers = ", ".join(f"{one:g}" for one in LAMBDAS["ms-ssim"])
            raise ValueError(
                f"lmbda={self.lmbda:g} is for squared errors; for MS-SSIM papers take {papers}: give lmbda."
            )
        check_number("crop", self.crop, low=64, integer=True)
        check_number("halved", self.halved, low=0, high=1)
        check_number("varied", self.varied, low=0, high=1)
        check_number("aux_learning_rate", self.aux_learning_rate, low=0)
        check_number("selection_weight", self.selection_weight, low=0)
        if self.crop % 64:
            raise ValueError(f"crop={self.crop} must be a multiple of 64.")
        if self.distortion == "ms-ssim" and self.crop <= 160:
            raise ValueError(f"MS-SSIM needs crops of more than 160 pixels, not {self.crop}: crop=192 or more.")


def bits_per_pixel(likelihoods: Mapping[str, Tensor], pixels: Tensor) -> Tensor:
    """-log2 of all likelihoods, per pixel of [B, 3, H, W]."""
    count = pixels.shape[0] * pixels.shape[-2] * pixels.shape[-1]
    return -sum(one.log2().sum() for one in likelihoods.values()) / count  # type: ignore[return-value, operator]


class RateDistortion(nn.Module):
    """The loss of a codec, of ours or with CompressAI's contract.

    Args:
        codec: with `forward` and `aux_loss`.
        config: lambda, distortion, rates.
    """

    def __init__(self, codec: nn.Module, config: CodecConfig) -> None:
        super().__init__()
        self.codec, self.settings = codec, config
        self.optimizers = {"quantiles": lambda groups: torch.optim.Adam(groups, eps=1e-14)}

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """A dictionary: "loss", "rate_distortion" (the loss without other terms), "bpp", "psnr"."""
        found = self.codec(pixels)
        losses = self.losses(found, pixels)
        aux: Tensor = self.codec.aux_loss()  # type: ignore[operator]
        losses["loss"] = losses["loss"] + AUX * aux
        return losses

    def losses(self, found: Mapping[str, Any], pixels: Tensor) -> dict[str, Tensor]:
        """Of a forward's result."""
        own = self.settings
        mse = F.mse_loss(found["x_hat"], pixels)
        bpp = bits_per_pixel(found["likelihoods"], pixels)
        if own.distortion == "mse":
            distortion = own.lmbda * 255**2 * mse
        else:
            distortion = own.lmbda * (1 - ms_ssim(found["x_hat"], pixels))
        losses = {"loss": distortion + bpp, "bpp": bpp.detach(), "psnr": -10 * mse.detach().clamp(min=1e-10).log10()}
        losses["rate_distortion"] = losses["loss"].detach()
        if found.get("selection"):
            selection = _selection_loss(found)
            losses["loss"] = losses["loss"] + own.selection_weight * selection
            losses["selection"] = selection.detach()
        return losses

    def optimizer_of(self, name: str) -> str:
        """The quantiles have their own."""
        return "quantiles" if name.endswith("quantiles") else ""

    def learning_rate_of(self, name: str) -> float:
        """Of a parameter."""
        return self.settings.aux_learning_rate if name.endswith("quantiles") else self.settings.learning_rate


def _selection_loss(found: Mapping[str, Any]) -> Tensor:
    wanted = worth_coding(found["y"], found["means"]).to(found["y"].dtype)
    losses = []
    for channels, logits, where in found["selection"]:
        loss = F.binary_cross_entropy_with_logits(logits, wanted[:, channels], reduction="none")
        losses.append(loss[..., where].mean())
    return torch.stack(losses).mean()


def ms_ssim(x: Tensor, y: Tensor) -> Tensor:
    """Of pictures in [0, 1], with sides above 160.

    Raises:
        ValueError: without pytorch-msssim.
    """
    try:
        from pytorch_msssim import ms_ssim as measured
    except ModuleNotFoundError:
        raise ValueError("MS-SSIM needs the package pytorch-msssim: pip install 'szilard[codecs]'") from None
    found: Tensor = measured(x, y, data_range=1.0)
    return found


def train_codec(
    codec: LearnedCodec,
    pictures: Mapping[str, np.ndarray] | Sequence[Path],
    config: CodecConfig,
    folder: Path,
    *,
    resume: bool = True,
    device: torch.device | str | None = None,
    objective: RateDistortion | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> list[dict[str, float]]:
    """Train a codec, compute its tables, and save it.

    Args:
        codec: to be trained, in place.
        pictures: uint8 [H, W, 3] by name, or files.
        config: settings.
        folder: for checkpoints and metrics, and in the end the codec.
        resume: go on from the folder's last checkpoint; False: forget it.
        device: "cpu" keeps a GPU out of it.
        objective: another loss than rate and distortion.
        callbacks: of transformers.

    Returns:
        The metrics, a row per `log_every` steps.

    Raises:
        ValueError: pictures that are too small, or a folder of something else or of other settings.
    """
    from szilard.training.loop import fit  # slow: not for a command that only reads settings

    assert config.steps is not None
    count = config.steps * config.batch_size * config.gradient_accumulation
    data = Crops(pictures, config.crop, count, config.seed, config.halved, config.varied)
    check_ours(folder, _MADE_FOR, (*_FOLDERS, *_FILES, "README.md"))
    text = f"{_MADE_FOR} {codec.name}\n# {json.dumps(codec.plain_settings())}\n# pictures: {data.digest}\n"
    text += config.to_yaml()
    other = "sizes, settings or pictures"
    with own_run(
        folder, text, folders=_FOLDERS, files=_FILES[:-1], restart=not resume, other=other, device=device
    ) as processes:
        own = RateDistortion(codec, config) if objective is None else objective
        codec.train()
        rows = fit(own, data, config, folder, collate=Crops.collate, resume=resume, device=device, callbacks=callbacks)
        finish(codec, config, rows, len(pictures))
        if processes.is_main_process:
            codec.save_pretrained(folder)
    return rows


def finish(codec: LearnedCodec, config: CodecConfig, rows: Sequence[Mapping[str, float]], pictures: int) -> None:
    """Tables, and what the card says."""
    codec.eval()
    codec.update(force=True, update_quantiles=True)
    last = rows[-1] if rows else {}
    codec.trained_on = {
        "lambda": config.lmbda,
        "distortion": config.distortion,
        "steps": config.steps,
        "batch": config.batch_size,
        "crop": config.crop,
        "pictures": pictures,
        "seed": config.seed,
        "last bpp": round(last.get("bpp", float("nan")), 4),
        "last PSNR": round(last.get("psnr", float("nan")), 2),
    }
