"""Settings of a representation autoencoder, and of its training."""

from __future__ import annotations

from dataclasses import dataclass, fields

from szilard.options import check_bool, check_choice, check_number
from szilard.training.config import TrainingConfig, setting

NOISES = ("uniform", "half_normal", "fixed", "none")
TARGETS = ("normalised", "raw")
PERCEPTUAL = ("none", "ms-ssim", "lpips")


@dataclass(frozen=True)
class LVRAEConfig:
    """What an LV-RAE is made of; the defaults are the paper's f16d768.

    Attributes:
        vfm: Phi, the frozen vision model: a hub id or a folder of transformers; words of one's own for a module.
        encoder_depth, decoder_depth: Transformer blocks of E and D.
        hidden: width of their blocks; where it differs from the vision model's, linear layers lead in and out.
        heads: of attention; hidden / heads must be a multiple of 4 for the two axes of the rotary positions.
        patch: side of a token, in pixels.
        align_weight: eta of equation 5.
        align_target: what z is drawn to. "normalised": LN_Phi(u), for which the loss is 0 at the start (inferred; the
            paper writes u); "raw": u as it comes before the final norm.
        noise_tau: tau, the largest deviation of the noise on latents that the decoder is trained with.
        noise: how each picture's sigma is drawn: "uniform" U(0, tau), as LV-RAE and the published RAE code;
            "half_normal" |N(0, tau^2)|, as the RAE paper; "fixed" tau; "none".
        gan_weight: kappa.
        residual: False: RAE, which decodes LN(u) without the affine part of the norm and has no encoder.
        tune_vfm: "F.T.-VFM": a copy of the vision model is trained in the place of the residual; needs residual=False.
    """

    vfm: str = "facebook/dinov3-vitb16-pretrain-lvd1689m"
    encoder_depth: int = 6
    decoder_depth: int = 12
    hidden: int = 768
    heads: int = 12
    patch: int = 16
    align_weight: float = 5.0
    align_target: str = "normalised"
    noise_tau: float = 0.2
    noise: str = "uniform"
    gan_weight: float = 0.75
    residual: bool = True
    tune_vfm: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.vfm, str):
            raise TypeError(f"vfm must be a hub id or a folder, not a {type(self.vfm).__name__}: give a module beside.")
        for name in ("encoder_depth", "decoder_depth", "hidden", "heads", "patch"):
            check_number(name, getattr(self, name), low=1, integer=True)
        for name in ("align_weight", "noise_tau", "gan_weight"):
            check_number(name, getattr(self, name), low=0)
        check_choice("noise", self.noise, NOISES)
        check_choice("align_target", self.align_target, TARGETS)
        check_bool("residual", self.residual)
        check_bool("tune_vfm", self.tune_vfm)
        if self.hidden % (4 * self.heads):
            raise ValueError(
                f"hidden={self.hidden} must be a multiple of 4 x heads={4 * self.heads}: both axes turn pairs."
            )
        if self.residual and self.tune_vfm:
            raise ValueError("tune_vfm trains the vision model in the place of the residual: set residual=False.")


@dataclass(frozen=True)
class LVRAETraining(TrainingConfig):
    """Settings of the stages; defaults are the paper's, for ImageNet at 256 pixels."""

    steps: int | None = setting(80_000, "Stage I: encoder and decoder together (none: by --epochs).")
    robust_steps: int = setting(10_000, "Stage II, its first part: the decoder alone, on noisy latents; 0: none.")
    adversarial_steps: int = setting(90_000, "Stage II, its second part, with a discriminator; 0: none.")
    batch_size: int = setting(512, "Pictures per step and process.")
    learning_rate: float = setting(1e-4, "Of AdamW, in stage I.")
    robust_learning_rate: float = setting(1e-4, "Of AdamW, in stage II; the paper states no other than stage I's.")
    schedule: str = setting("constant", "cosine, linear or constant, after the warm-up.")
    warmup: float = setting(0.0, "Share of the steps in which the learning rate rises.")
    weight_decay: float = setting(0.01, "Of AdamW.")
    perceptual: str = setting("none", "Beside L1: none, ms-ssim, or lpips (its weights must be on this machine).")
    perceptual_weight: float = setting(1.0, "beta: of the perceptual loss.")
    held_out: float = setting(0.02, "Share of the pictures kept for measuring.")
    evaluation_pictures: int = setting(512, "So many of them at most.")
    evaluate_every: int | None = setting(None, "Steps between measurements; none: before and behind each stage.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("robust_steps", "adversarial_steps"):
            check_number(name, getattr(self, name), low=0, integer=True)
        check_number("robust_learning_rate", self.robust_learning_rate, low=0)
        check_choice("perceptual", self.perceptual, PERCEPTUAL)
        check_number("perceptual_weight", self.perceptual_weight, low=0)
        check_number("held_out", self.held_out, low=0, high=0.9)
        check_number("evaluation_pictures", self.evaluation_pictures, low=1, integer=True)
        check_number("evaluate_every", self.evaluate_every, low=1, integer=True, optional=True)


@dataclass(frozen=True)
class LVRAERun(LVRAETraining):
    """What the command takes: the settings of the stages, and what the model is made of."""

    image_size: int = setting(256, "Side of the pictures, in pixels; a multiple of the patch.")
    vfm: str = setting(LVRAEConfig.vfm, "The frozen vision model: a hub id, a folder, or `small`: one is trained here.")
    discriminator_vfm: str | None = setting(None, "The discriminator's vision model; none: the same one.")
    patch: int = setting(LVRAEConfig.patch, "Side of a token, in pixels.")
    encoder_depth: int = setting(LVRAEConfig.encoder_depth, "Blocks of the residual encoder.")
    decoder_depth: int = setting(LVRAEConfig.decoder_depth, "Blocks of the decoder.")
    hidden: int = setting(LVRAEConfig.hidden, "Width of the blocks.")
    heads: int = setting(LVRAEConfig.heads, "Of attention.")
    align_weight: float = setting(LVRAEConfig.align_weight, "eta: of the distance to the vision model's own tokens.")
    align_target: str = setting(LVRAEConfig.align_target, "normalised or raw: what the latent is drawn to.")
    noise: str = setting(LVRAEConfig.noise, "uniform, half_normal, fixed or none: sigma of a picture.")
    noise_tau: float = setting(LVRAEConfig.noise_tau, "tau: largest deviation of the noise that the decoder learns on.")
    gan_weight: float = setting(LVRAEConfig.gan_weight, "kappa: of the adversarial term.")
    residual: bool = setting(True, "Off: RAE, which has no residual.")
    tune_vfm: bool = setting(False, "F.T.-VFM: a copy of the vision model learns; with --no-residual.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("image_size", self.image_size, low=1, integer=True)
        if self.image_size % self.model.patch:
            raise ValueError(f"image_size={self.image_size} must be a multiple of patch={self.patch}.")
        if self.residual is False and not self.tune_vfm and self.robust_steps:
            raise ValueError(
                "RAE learns with noise in its one stage: set robust_steps=0 (adversarial_steps may follow)."
            )

    @property
    def model(self) -> LVRAEConfig:
        """What the model is made of."""
        return LVRAEConfig(**{entry.name: getattr(self, entry.name) for entry in fields(LVRAEConfig)})

    @property
    def stages(self) -> LVRAETraining:
        """The settings of the stages."""
        return LVRAETraining(**{entry.name: getattr(self, entry.name) for entry in fields(LVRAETraining)})
