"""Stage I and stage II through the one loop, resumable: a folder per stage, the model in the end."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from szilard.representation.lv_rae.config import LVRAEConfig, LVRAETraining
from szilard.representation.lv_rae.discriminator import Discriminator
from szilard.representation.lv_rae.losses import perceptual_loss
from szilard.representation.lv_rae.model import LVRAE
from szilard.representation.lv_rae.objective import AutoencoderObjective, measure
from szilard.representation.lv_rae.patches import grid_of
from szilard.representation.qlae.model import unit
from szilard.representation.qlae.pictures import Pictures
from szilard.training.recipe import Stage, StageResult, run_recipe
from szilard.training.run_folder import check_ours, own_run
from szilard.whole_folder import check_folder, whole_folder

_MADE_FOR = "# lv-rae:"
STAGES = ("stage-1", "stage-2", "stage-2-adversarial")
_FILES = ("model.safetensors", "config.json", "README.md")
_LEARNED_WITH = ("noise", "noise_tau", "gan_weight")  # what stage II may have otherwise than stage I had it


@dataclass(frozen=True)
class LVRAEResult:
    """What a training did.

    Attributes:
        stages: rows of the loop and of the measurements, by the stage's name.
        metrics: the last measurement: PSNR clean and under noise, cosine to LN_Phi(u).
    """

    stages: dict[str, StageResult]
    metrics: dict[str, float]


def train_lv_rae(
    model: LVRAE,
    pictures: Pictures | Tensor,
    folder: Path | str | None = None,
    config: LVRAETraining | None = None,
    *,
    from_stage: int = 1,
    discriminator: Discriminator | None = None,
    perceptual: nn.Module | None = None,
    resume: bool = True,
    device: torch.device | str | None = None,
    data: str = "",
) -> LVRAEResult:
    """Train an autoencoder in place: stage I, and stage II where its steps are not 0.

    Args:
        model: LV-RAE, RAE (`residual=False`, one stage with noise) or F.T.-VFM (`tune_vfm=True`).
        pictures: [N, 3, H, W], bytes or numbers in [0, 1].
        folder: gets a folder per stage and the model; a run that was stopped goes on. None: nothing is kept.
        config: settings.
        from_stage: 2: the model has gone through stage I; only its decoder is trained, on noisy latents.
        discriminator: for the adversarial part; None: heads on the model's own vision model.
        perceptual: a loss of one's own beside L1, ([-1, 1], [-1, 1]) -> scalar; None: what the config names.
        resume: False: forget an earlier run.
        device: "cpu" keeps a GPU out of it.
        data: what the pictures are, for the card.

    Raises:
        TypeError, ValueError: pictures that do not fit, a perceptual loss that is not at hand, or a folder of something
            else or of other settings.
    """
    config = LVRAETraining() if config is None else config
    if folder is None:
        given: Any = {"from_stage": from_stage, "discriminator": discriminator, "perceptual": perceptual}
        rare = dataclasses.replace(config, save_every=config.log_every * 10**6)  # there is nothing to go on from
        with tempfile.TemporaryDirectory(prefix="lv-rae-") as scratch:
            return train_lv_rae(model, pictures, scratch, rare, device=device, **given)
    if not isinstance(model, LVRAE):
        raise TypeError(f"the model must be an LVRAE, not a {type(model).__name__}.")
    if from_stage not in (1, 2):
        raise ValueError(f"from_stage must be 1 or 2, not {from_stage!r}.")
    if from_stage == 2 and not config.robust_steps + config.adversarial_steps:
        raise ValueError("stage II alone needs robust_steps or adversarial_steps above 0.")
    source = pictures if isinstance(pictures, Pictures) else Pictures(pictures)
    grid_of(unit(source[0][None]), model.config.patch)
    folder = Path(folder)
    check_new(folder)
    beside = perceptual_loss(config.perceptual) if perceptual is None else perceptual
    if beside is not None:  # before any work: whether it can judge pictures of this size
        beside(*(2 * unit(source[0][None]) - 1,) * 2)
    train_on, kept = _divided(source, config)
    told = f"{model.config} on {model.backbone.fingerprint()}".replace("\n", " ")
    start = "" if from_stage == 1 else f"# start: {_hash(model)}\n"
    note = f"{_MADE_FOR} {told}\n# data: {source.digest}\n{start}{config.to_yaml()}"
    other = "settings, pictures or model"
    with own_run(
        folder, note, folders=STAGES, files=_FILES, restart=not resume, other=other, device=device
    ) as processes:
        stages = _stages(model, train_on, kept, config, beside, discriminator)[0 if from_stage == 1 else 1 :]
        results = run_recipe(stages, folder, resume=resume, device=device)
        model.eval()
        metrics = {name: value for name, value in results[stages[-1].name].evaluations[-1].items() if name != "step"}
        if processes.is_main_process:
            model.trained_on = _told(config, source, data, perceptual, metrics)
            model.save_pretrained(folder)
    return LVRAEResult(results, metrics)


def check_new(folder: Path) -> None:
    """Refuse a folder that cannot be written, or that holds files of something else.

    Raises:
        ValueError: so it is.
    """
    check_folder(folder)
    check_ours(folder, _MADE_FOR, (*STAGES, *_FILES))


class RobustDecoderTrainer:
    """Stage II alone, as an object: the decoder learns on noisy latents, the encoder and its norm stay as they are.

    Args:
        model: has gone through stage I.
        data, folder, config: see `train_lv_rae` (data: pictures).
    """

    def __init__(
        self,
        model: LVRAE,
        data: Pictures | Tensor,
        config: LVRAETraining | None = None,
        folder: Path | str | None = None,
    ) -> None:
        self.model, self.data, self.config, self.folder = model, data, config, folder

    def train(self, **options: Any) -> LVRAEResult:
        """Train, or go on; options as of `train_lv_rae`."""
        return train_lv_rae(self.model, self.data, self.folder, self.config, from_stage=2, **options)


def new_model(config: LVRAEConfig, vfm: Any, seed: int) -> LVRAE:
    """An untrained model; torch's own generator stays as it is."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LVRAE(config, vfm)


def robust_copy(
    folder: Path | str,
    config: LVRAEConfig,
    vfm: Any = None,
    *,
    beside: Path | None = None,
    asked: Sequence[str] = (),
) -> LVRAE:
    """A trained model with the noise and the adversarial weight of another config, for stage II.

    Args:
        folder: of the trained model.
        config: with that noise and weight.
        vfm: as of `LVRAE`.
        beside: the folder of stage II, which gets a copy of a small vision model that lies in the first one.
        asked: settings of the model that were asked for by name.

    Raises:
        ValueError: there is none in the folder, or one that is made otherwise than asked for.
    """
    if not Path(folder).is_dir():
        raise ValueError(f"there is no folder {str(folder)!r} with an LV-RAE: szilard train lv-rae makes one.")
    found: LVRAE = LVRAE.from_pretrained(str(folder), vfm=vfm)
    for name in asked:
        own, wanted = getattr(found.config, name), getattr(config, name)
        if name not in _LEARNED_WITH and own != wanted:
            raise ValueError(
                f"the model in {str(folder)!r} has {name}={own!r}, not {wanted!r}: stage II trains it as it is, leave "
                f"out {name}."
            )
    small = Path(folder) / "backbone"
    if beside is not None and small.is_dir() and not (beside / "backbone").is_dir():
        with whole_folder(beside / "backbone") as scratch:
            shutil.copytree(small, scratch, dirs_exist_ok=True)
    found.config = dataclasses.replace(found.config, **{name: getattr(config, name) for name in _LEARNED_WITH})
    return found


def _hash(model: LVRAE) -> str:
    """Of the weights that stage II starts from."""
    found = hashlib.sha256()
    for name, value in sorted(model.own_state().items()):
        found.update(name.encode() + value.detach().float().cpu().numpy().tobytes())
    return found.hexdigest()[:16]


def _divided(source: Pictures, config: LVRAETraining) -> tuple[Pictures, Tensor]:
    """What is learned from, and what is measured on."""
    order = source.chosen[torch.randperm(len(source), generator=torch.Generator().manual_seed(config.seed))]
    count = max(1, round(config.held_out * len(source))) if config.held_out and len(source) > 1 else 0
    measured = Pictures(source.pixels, order[:count] if count else order)
    shown = measured.__getitems__(list(range(min(len(measured), config.evaluation_pictures))))
    return Pictures(source.pixels, order[count:]), shown


def _stages(
    model: LVRAE,
    pictures: Pictures,
    kept: Tensor,
    config: LVRAETraining,
    perceptual: nn.Module | None,
    discriminator: Discriminator | None,
) -> list[Stage]:
    robust = dataclasses.replace(config, learning_rate=config.robust_learning_rate)
    judge = discriminator
    if config.adversarial_steps and judge is None:
        judge = Discriminator(model.backbone, seed=config.seed)

    def stage(name: str, number: int, settings: LVRAETraining, with_judge: bool) -> Stage:
        learns = ("model.decoder.", "discriminator.heads.")
        return Stage(
            name=name,
            config=settings,
            objective=lambda: AutoencoderObjective(model, settings, number, perceptual, judge if with_judge else None),
            data=lambda: pictures,
            collate=Pictures.collate,
            learns=None if number == 1 else lambda weight: weight.startswith(learns),
            evaluate=lambda _: measure(model, kept),
            evaluate_every=config.evaluate_every,
        )

    stages = [stage(STAGES[0], 1, config, False)]
    if config.robust_steps:
        stages.append(stage(STAGES[1], 2, dataclasses.replace(robust, steps=config.robust_steps), False))
    if config.adversarial_steps:
        stages.append(stage(STAGES[2], 2, dataclasses.replace(robust, steps=config.adversarial_steps), True))
    return stages


def _told(
    config: LVRAETraining, source: Pictures, data: str, perceptual: nn.Module | None, metrics: dict[str, float]
) -> dict[str, Any]:
    """What the card says."""
    named = config.perceptual
    if named == "none" and perceptual is not None:
        named = type(perceptual).__name__
    loss = "L1 alone (no LPIPS)" if named == "none" else f"L1 + {config.perceptual_weight:g} {named}"
    found: dict[str, Any] = {"pictures": f"{len(source)}" + (f" ({data})" if data else ""), "loss": loss}
    found |= {
        name: getattr(config, name) for name in ("steps", "robust_steps", "adversarial_steps", "batch_size", "seed")
    }
    return found | {name: round(value, 4) for name, value in metrics.items()}
