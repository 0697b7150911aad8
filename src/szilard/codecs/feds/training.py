"""FEDS: a small codec that keeps what a large one knows.

Fu, Liang, Fang, Han, "FEDS: Feature and Entropy-Based Distillation Strategy for Efficient Learned Image Compression",
arXiv:2503.06399. A reconstruction from the abstract (inferred): the paper's equations and constants are not public.

    phase 1, feature alignment      L_RD + a L_feat, a falls to a tenth
    phase 2, channel distillation   L_RD + b L_ent + a/10 L_feat
    phase 3, fine-tuning            L_RD, at a smaller learning rate

L_RD(S) = lambda 255^2 MSE(x, x^_S) + bpp_S. The informative channels and their weights are measured once, on the
teacher, before phase 1, and stay as they are: it does not change. Every phase is a stage of the recipe, so a killed
training goes on inside it. The student's folder is an ordinary codec.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from szilard.codecs.coding import padded_pixels
from szilard.codecs.feds.channels import channel_entropy, select_channels
from szilard.codecs.feds.config import LATE, FEDSConfig, Phase
from szilard.codecs.feds.distillation import ChannelMatch, FeatureMatch, LatentMatch, OutputMatch, check_match, projects
from szilard.codecs.feds.objective import DistillationObjective, Progress, Term
from szilard.codecs.feds.signals import Teacher, check_pair, find_taps
from szilard.codecs.images import read_picture
from szilard.codecs.learned_codec import LearnedCodec
from szilard.codecs.photographs import Crops
from szilard.codecs.training import RateDistortion, finish
from szilard.training.recipe import Stage, StageResult, own_chance, run_recipe
from szilard.training.run_folder import check_ours, own_run
from szilard.whole_folder import check_folder, write_whole

Pictures = Mapping[str, np.ndarray] | Sequence[Path]
CHANNELS = "channels.json"
_MADE_FOR = "# feds:"
_PHASES = ("phase-1", "phase-2", "phase-3")
_FILES = (CHANNELS, "training.yaml", "model.safetensors", "config.json")
_LARGEST = 768  # side of a calibration picture; the middle of larger ones


def train_feds(
    teacher: LearnedCodec | None,
    student: LearnedCodec,
    pictures: Pictures,
    config: FEDSConfig,
    folder: Path,
    *,
    resume: bool = True,
    device: torch.device | str | None = None,
    tell: Callable[[str], None] = print,
) -> dict[str, StageResult]:
    """Train a student of a teacher, compute its tables, and save it.

    Args:
        teacher: a trained codec, never changed; None with method "scratch".
        student: to be trained, in place; any codec of equal strides.
        pictures: uint8 [H, W, 3] by name, or files.
        config: settings; `steps` are those of all phases.
        folder: a folder per phase with its metrics, channels.json (H, A and w), and in the end the student.
        resume: go on from what is there; False: forget it.
        device: "cpu" keeps a GPU out of it.
        tell: gets a line per phase: what its terms are of the rate-distortion loss at its first step.

    Returns:
        What each phase did: rows "loss", "rate_distortion", "bpp", "psnr", "feature", "entropy", "distillation", ...

    Raises:
        ValueError: codecs that do not fit, a teacher without a lambda where none is given, pictures that are too small,
            or a folder of something else or of other settings.
    """
    if config.method == "scratch":
        teacher = None
    elif teacher is None:
        raise ValueError(f"method={config.method!r} needs a teacher; method='scratch' does without.")
    if teacher is not None:
        check_pair(teacher, student)
        if config.method == "feds":
            check_match(student.latent_channels, teacher.latent_channels, config.distance, config.match)
    config = replace(config, lmbda=_lambda(config, teacher))
    assert config.steps is not None
    per_step = config.batch_size * config.gradient_accumulation
    count = config.steps * per_step
    crops = Crops(pictures, config.crop, count, config.seed, config.halved, config.varied)
    folder = Path(folder)
    check_folder(folder)
    check_ours(folder, _MADE_FOR, (*_PHASES, *_FILES, "README.md"))
    origin = "none" if teacher is None else teacher.weights_id().hex()
    text = f"{_MADE_FOR} {student.name}\n# {json.dumps(student.plain_settings())}\n# teacher {origin}\n"
    text += f"# pictures: {crops.digest}\n{config.to_yaml()}"
    files, other = (CHANNELS, *_FILES[2:]), "codecs, settings or pictures"
    with own_run(
        folder, text, folders=_PHASES, files=files, restart=not resume, other=other, device=device
    ) as processes:
        wanted = {} if teacher is None else {name: one.requires_grad for name, one in teacher.named_parameters()}
        trained = False if teacher is None else teacher.training
        try:
            if teacher is not None:
                teacher.requires_grad_(False)
            stages = _stages(teacher, student, pictures, config, folder, crops, per_step, tell)
            results = run_recipe(stages, folder, device=device)
        finally:
            if teacher is not None:
                teacher.train(trained)
                for name, one in teacher.named_parameters():
                    one.requires_grad_(wanted[name])
        rows = list(results.values())[-1].metrics
        finish(student, config, rows, len(pictures))
        student.trained_on |= _origin(teacher, config, origin)
        if processes.is_main_process:
            student.save_pretrained(folder)
    return results


def _lambda(config: FEDSConfig, teacher: LearnedCodec | None) -> float:
    if config.lmbda:
        return config.lmbda
    found = None if teacher is None else teacher.trained_on.get("lambda")
    if not isinstance(found, (int, float)) or not found > 0:
        who = "without a teacher there is no" if teacher is None else "the teacher does not say which"
        raise ValueError(f"{who} lambda to train with: give lmbda.")
    kind = "mse" if teacher is None else teacher.trained_on.get("distortion", config.distortion)
    if kind != config.distortion:
        raise ValueError(f"the teacher's lambda, {found:g}, is for {kind}, not {config.distortion}: give lmbda.")
    return float(found)


def _stages(
    teacher: LearnedCodec | None,
    student: LearnedCodec,
    pictures: Pictures,
    config: FEDSConfig,
    folder: Path,
    crops: Crops,
    per_step: int,
    tell: Callable[[str], None],
) -> list[Stage]:
    """A stage per phase; what they share, the student and the adapters, is made here."""
    terms: dict[int, list[Term]] = {}
    if teacher is not None:
        with own_chance(config.seed):
            terms = _terms(teacher, student, pictures, config, folder)
    tapped = None if teacher is None else Teacher(teacher)
    share = 1 - 2 * config.kd_weight if config.method == "kd" else 1.0
    stages, start = [], 0
    for phase in config.plan:
        own = config.of(phase)
        places = range(start, start + phase.steps * per_step)
        start = places.stop
        found = [term for term in terms.get(phase.number, ()) if term.first or term.last]
        stages.append(
            Stage(
                phase.name,
                own,
                objective=partial(_objective, student, own, tapped, found, share, Subset(crops, places), phase, tell),
                data=partial(Subset, crops, places),
                collate=Crops.collate,
                callbacks=[Progress()],
            )
        )
    return stages


def _objective(
    student: LearnedCodec,
    config: FEDSConfig,
    teacher: Teacher | None,
    terms: Sequence[Term],
    share: float,
    part: Subset[Tensor],
    phase: Phase,
    tell: Callable[[str], None],
) -> nn.Module:
    """The phase's loss; with terms their share at step 0 is told, and their factor set.

    Both are functions of the weights that the phase begins with, so that a resumed phase finds the same.
    """
    if teacher is None or not terms:
        return RateDistortion(student, config)
    objective = DistillationObjective(student, config, teacher, terms, share)
    batch = Crops.collate([part[index] for index in range(config.batch_size)])["pixels"]
    found = objective.measured(batch, config.seed)
    if config.start_share is not None and found["distillation"] > 0:
        objective.factor = config.start_share / found["distillation"]
    parts = ", ".join(f"{term.name} {found[term.name]:.4g}" for term in terms)
    tell(
        f"{phase.name}, step 0: rate-distortion loss {found['rate_distortion']:.4g}, {parts}; with their weights they "
        f"are {100 * found['distillation'] * objective.factor:.3g} % of it (10 to 30 % are usual)"
    )
    return objective


def _terms(
    teacher: LearnedCodec, student: LearnedCodec, pictures: Pictures, config: FEDSConfig, folder: Path
) -> dict[int, list[Term]]:
    """Of the phases, by number."""
    widths = student.latent_channels, teacher.latent_channels
    if config.method == "kd":
        latents, weight = LatentMatch(*widths), config.kd_weight
        # Allemand et al. 2025's code: 0.2 MSE of latents, 0.2 MSE of pictures in [0, 1], 0.6 L_RD, throughout
        kept = [Term("latents", latents, weight, weight), Term("pictures", OutputMatch(), weight, weight)]
        return dict.fromkeys(range(3), kept)
    features = FeatureMatch(find_taps(student), find_taps(teacher))
    a, output = config.feature_weight, config.output_weight
    pictures_too = Term("pictures", OutputMatch(config.lmbda * 255**2), output, output)
    first = [Term("feature", features, a, LATE * a), pictures_too]
    if config.method == "feature":
        return {0: first}
    second = [Term("feature", features, LATE * a, LATE * a), pictures_too]
    if config.entropy_weight and any(phase.number == 1 for phase in config.plan):
        indices, weights = informative_channels(teacher, pictures, config, widths[0], folder / CHANNELS)
        channels = ChannelMatch(indices, weights, *widths, distance=config.distance, match=config.match)
        second.insert(0, Term("entropy", channels, config.entropy_weight, config.entropy_weight))
    return {0: first, 1: second}


def informative_channels(
    teacher: LearnedCodec, pictures: Pictures, config: FEDSConfig, student: int, file: Path
) -> tuple[Tensor, Tensor]:
    """A and w of the teacher, measured on the middle of some pictures, or read back from a file that has them.

    Args:
        student: M_S: matched one by one, as many channels are chosen.
        file: gets H, A and w.
    """
    if file.is_file():
        kept = json.loads(file.read_text(encoding="utf-8"))
        return torch.tensor(kept["indices"]), torch.tensor(kept["weights"], dtype=torch.float64)
    pixels = calibration_pixels(pictures, config.calibration, teacher.stride)
    entropies = channel_entropy(teacher, pixels, config.entropy)
    count = None if projects(student, len(entropies), config.match) else min(student, len(entropies))
    indices, weights = select_channels(entropies, config.fraction, count=count, order=config.channels, seed=config.seed)
    kept = {"entropies": entropies.tolist(), "indices": indices.tolist(), "weights": weights.tolist()}
    write_whole(file, json.dumps(kept))
    return indices, weights


def calibration_pixels(pictures: Pictures, count: int, stride: int) -> Iterator[Tensor]:
    """The middles of pictures that are spread evenly over all of them, [1, 3, h, w] each."""
    names: list[Any] = list(pictures)
    step = max(1, len(names) / count)
    for place in range(min(count, len(names))):
        name = names[int(place * step)]
        samples = pictures[name] if isinstance(pictures, Mapping) else read_picture(name, alpha="drop").samples
        sides = [min(size, _LARGEST) for size in samples.shape[:2]]
        sides = [side - side % stride if side >= stride else side for side in sides]
        top, left = ((size - side) // 2 for size, side in zip(samples.shape[:2], sides, strict=True))
        yield padded_pixels(samples[top : top + sides[0], left : left + sides[1]], stride)[0]


def _origin(teacher: LearnedCodec | None, config: FEDSConfig, origin: str) -> dict[str, Any]:
    """What a student's card says beside what a codec's does."""
    if teacher is None:
        return {"method": "scratch"}
    names: tuple[str, ...] = ("method", "feature_share", "channel_share")
    if config.method == "feds":
        names += ("channels", "fraction", "distance", "feature_weight", "entropy_weight")
    count = sum(one.numel() for one in teacher.parameters())
    told = {name.replace("_", " "): getattr(config, name) for name in names}
    return {"teacher": f"{teacher.name} {origin}, {count:,} parameters", **told}


class FEDSTrainer:
    """`train_feds` as an object.

    Args:
        teacher, student, data, config, folder: see `train_feds` (data: pictures).
    """

    def __init__(
        self,
        teacher: LearnedCodec | None,
        student: LearnedCodec,
        data: Pictures,
        config: FEDSConfig = FEDSConfig(),
        folder: Path | str = "feds",
    ) -> None:
        self.teacher, self.student, self.data, self.config, self.folder = teacher, student, data, config, Path(folder)

    def train(self, steps: int | None = None, **options: Any) -> dict[str, StageResult]:
        """Train, or go on; steps: of all phases, instead of the config's."""
        config = self.config if steps is None else replace(self.config, steps=steps)
        return train_feds(self.teacher, self.student, self.data, config, self.folder, **options)
