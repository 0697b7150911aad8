"""LV-RAE at toy size: reconstruction with and without the residual, what noise does to decoders, and to samples.

    python benchmarks/lv_rae.py --part small --seed 0       # and 1, 2: about 9 minutes each on one core
    python benchmarks/lv_rae.py --part colour --seed 0      # and 1, 2: about 5 minutes each
    python benchmarks/lv_rae.py --part toy --seed 0         # and 1, 2: about 6 minutes each
    python benchmarks/lv_rae.py --part diffusion --seed 0   # about 45 minutes, or 15 each with --latents "RAE: LN(u)",
                                                            # "LV-RAE, eta 5", "LV-RAE, eta 0.1"; after small

"small": pictures of 32 pixels (a coloured shape on a coloured wavy background); the vision model is a ViT (patch 4, 64
tokens, width 64, 4 blocks) trained for 100 steps to rebuild hidden patches, which sees luminance alone, so that its tokens
cannot hold colour; E has 2 blocks, D 4; L1 without LPIPS, AdamW at 1e-3, 500 steps of 32 pictures; stage II 250 steps at
3e-4. PSNR of 128 held-out pictures. "colour": the same with a vision model that sees colours, so that RAE and F.T.-VFM
can do more. "toy": the model of section 3.2, its closed forms, and a flow in D dimensions.
"diffusion": a flow on the latents (LV-RAE's and RAE's), decoded with and without smoothing noise.

Models lie in build/lv-rae; every run is recorded when it ends, in results/lv-rae.jsonl, and is not run again.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results_store import Store
from torch import Tensor

from szilard.codecs.images import Picture, write_picture
from szilard.information.cknna import cknna
from szilard.information.frechet_distance import energy_distance, frechet_distance, nearest_distance
from szilard.representation.lv_rae.config import LVRAEConfig, LVRAETraining
from szilard.representation.lv_rae.diffusion_transformer import LatentTransformer, PointNetwork
from szilard.representation.lv_rae.latent_diffusion import LatentFlow, train_latent_flow
from szilard.representation.lv_rae.model import LVRAE
from szilard.representation.lv_rae.objective import measure
from szilard.representation.lv_rae.sensitivity import decoder_sensitivity
from szilard.representation.lv_rae.small_backbone import small_vit, train_small_backbone, wavy_pictures
from szilard.representation.lv_rae.toy import ToyDecoder, expected_error, expected_jacobian, spiral
from szilard.representation.lv_rae.training import train_lv_rae
from szilard.training.config import TrainingConfig

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"
TRAINED, HELD = 16000, 128  # pictures
FLOW_STEPS, SAMPLES, REFERENCE = 2000, 1024, 2048
SIGMA_BARS = (0.0, 0.02, 0.05, 0.08, 0.1, 0.15, 0.2, 0.3)
BASE = LVRAEConfig(vfm="small", encoder_depth=2, decoder_depth=4, hidden=64, heads=4, patch=4)
RAE = dataclasses.replace(BASE, residual=False, noise="none")
STAGE_ONE: dict[str, LVRAEConfig] = {
    "RAE: LN(u)": RAE,
    "RAE, noise tau 0.8": dataclasses.replace(RAE, noise="uniform", noise_tau=0.8),
    "F.T.-VFM": dataclasses.replace(RAE, tune_vfm=True),
    "LV-RAE, eta 5": BASE,
    "LV-RAE, eta 0.1": dataclasses.replace(BASE, align_weight=0.1),
}
COLOUR = ("RAE: LN(u)", "F.T.-VFM", "LV-RAE, eta 5")
STAGE_TWO: dict[str, dict[str, Any]] = {  # from the model of eta 5
    "eta 5, stage II, no noise": {"noise": "none"},
    "eta 5, stage II, sigma 0.1 fixed": {"noise": "fixed", "noise_tau": 0.1},
    "eta 5, stage II, sigma random": {"noise": "uniform", "noise_tau": 0.2},
}
FLOWS = {  # latents, and the decoders of their samples
    "RAE: LN(u)": ("RAE: LN(u)", "RAE, noise tau 0.8"),
    "LV-RAE, eta 5": ("LV-RAE, eta 5", "eta 5, stage II, sigma random"),
    "LV-RAE, eta 0.1": ("LV-RAE, eta 0.1",),
}
TOY_WIDTHS, TOY_GAINS = (4, 16, 64, 256, 1024), (0.0, 0.5, 1.0, 2.0, 5.0)


class Small:
    """The models of one seed, trained where they are not in the work folder yet."""

    def __init__(self, work: Path, seed: int, channels: int = 1) -> None:
        self.work, self.seed = work / f"seed-{seed}{'' if channels == 1 else '-colour'}", seed
        self.held = wavy_pictures(HELD, seed=10_000)
        self.pictures = wavy_pictures(TRAINED, seed=seed)
        folder = self.work / "vision-model"
        self.vit = small_vit(channels=channels, seed=seed)
        config = TrainingConfig(steps=100, batch_size=64, seed=seed, save_every=100, log_every=20)
        torch.manual_seed(seed)
        train_small_backbone(self.vit, self.pictures, folder, config, device="cpu")

    def model(self, name: str) -> tuple[LVRAE, float]:
        """A model of a row, and the seconds that its training took, 0 where it was there."""
        config = STAGE_ONE.get(name) or dataclasses.replace(BASE, **STAGE_TWO[name])
        second = name in STAGE_TWO
        torch.manual_seed(self.seed)
        model = LVRAE(config, self.vit)
        if second:
            model.load_state_dict(self.model("LV-RAE, eta 5")[0].state_dict())
        start = time.perf_counter()
        settings = LVRAETraining(
            steps=500,
            robust_steps=250 if second else 0,
            adversarial_steps=0,
            batch_size=32,
            learning_rate=1e-3,
            robust_learning_rate=3e-4,
            held_out=0.008,
            evaluation_pictures=HELD,
            save_every=250,
            log_every=50,
            seed=self.seed,
        )
        folder = self.work / name.replace(":", "").replace(", ", "-").replace(" ", "-")
        train_lv_rae(model, self.pictures, folder, settings, from_stage=2 if second else 1, device="cpu")
        return model.eval(), time.perf_counter() - start


def small(store: Store, work: Path, seed: int, part: str) -> None:
    """The table of the small experiment, or of three models on a vision model that sees colours."""
    chosen = COLOUR if part == "colour" else (*STAGE_ONE, *STAGE_TWO)
    names = [name for name in chosen if {"part": part, "model": name, "seed": seed} not in store]
    if not names:
        return
    own = Small(work, seed, channels=3 if part == "colour" else 1)
    features = wavy_pictures(1000, seed=20_000).float() / 255
    for name in names:
        model, seconds = own.model(name)
        found = measure(model, own.held, (0.1, 0.2, 0.4), seed=0)
        values: dict[str, Any] = {key: round(value, 4) for key, value in found.items()}
        pooled = [
            torch.cat([of(part).mean(1) for part in features.split(250)]) for of in (model.encode, model.semantic)
        ]
        values["cknna"] = round(cknna(*pooled), 4)
        values["residual"] = round(float(model.residual(own.held.float() / 255).square().mean().sqrt()), 4)
        values["gain"] = [round(value, 4) for value in decoder_sensitivity(model, own.held, (0.02, 0.1, 0.2)).gain]
        values["seconds"] = round(seconds, 1)
        store.add({"part": part, "model": name, "seed": seed}, values)
        print(name, values, flush=True)
    if seed == 0 and part == "small":
        _sheet_of_reconstructions(own)


def _sheet_of_reconstructions(own: Small) -> None:
    """Eight pictures: true, as the vision model sees them, RAE's, LV-RAE's, and under noise."""
    true = own.held[:8].float() / 255
    models = {name: own.model(name)[0] for name in ("RAE: LN(u)", "LV-RAE, eta 5", "eta 5, stage II, sigma random")}
    first, robust = models["LV-RAE, eta 5"], models["eta 5, stage II, sigma random"]
    grey = (first.backbone.view(true, (8, 8)) / 4 + 0.5).clamp(0, 1).expand_as(true)
    z = first.encode(true)

    def noisy(model: LVRAE) -> Tensor:
        return model.decode(z, smoothing_noise=0.2, generator=torch.Generator().manual_seed(0))

    rows = [true, grey, models["RAE: LN(u)"].reconstruct(true), first.reconstruct(true)]
    rows += [first.decode(first.encode_base(true)), noisy(first), noisy(robust)]
    _write(torch.stack(rows), PICTURES / "lv-rae-reconstructions.png")


def _write(rows: Tensor, file: Path) -> None:
    """[rows, columns, 3, s, s] in [0, 1] as one picture, three times as large, with white lines between."""
    framed = torch.nn.functional.pad(rows, (1, 1, 1, 1), value=1.0)
    sheet = framed.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)  # [rows s, columns s, 3]
    samples = (sheet * 255).round().to(torch.uint8).repeat_interleave(3, 0).repeat_interleave(3, 1).numpy()
    write_picture(Picture(np.ascontiguousarray(samples)), file)


def toy(store: Store, seed: int) -> None:
    """Closed forms, and what a flow in D dimensions makes of decoders of several gains."""
    for dimensions in TOY_WIDTHS:
        key = {"part": "toy", "D": dimensions, "seed": seed}
        if key in store:
            continue
        decoders = {gain: ToyDecoder.drawn(dimensions, gain, seed=seed) for gain in TOY_GAINS}
        truth = spiral(8192, seed=seed)
        latents = decoders[0.0].encode(truth)
        torch.manual_seed(seed)
        flow = LatentFlow(PointNetwork(dimensions), (dimensions,), shift=1.0, decay=0.999)
        config = TrainingConfig(
            steps=3000, batch_size=256, learning_rate=1e-3, log_every=500, save_every=3000, seed=seed
        )
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            train_latent_flow(flow, latents, Path(folder), config, device="cpu")
        seconds = time.perf_counter() - start
        samples = flow.sample(2000, steps=100, seed=seed, batch_size=2000)
        reference = spiral(2000, seed=1000 + seed)
        values: dict[str, Any] = {"off manifold": round(float(decoders[0.0].off_manifold(samples).mean()), 4)}
        for gain, decoder in decoders.items():
            values[f"energy distance, alpha {gain:g}"] = round(energy_distance(decoder.decode(samples), reference), 4)
        values |= _closed_forms(dimensions, seed) | {"seconds": round(seconds, 1)}
        store.add(key, values)
        print(key, values, flush=True)


def _closed_forms(dimensions: int, seed: int, gain: float = 2.0, sigma: float = 0.3) -> dict[str, float]:
    """Measured over closed form, of equal noise on every coordinate, over 64 decoders."""
    chance = torch.Generator().manual_seed(seed)
    errors, norms = [], []
    for draw in range(64):
        decoder = ToyDecoder.drawn(dimensions, gain, seed=1000 * seed + draw)
        x = spiral(64, seed=draw).double()
        z = decoder.encode(x)
        noisy = z + sigma * torch.randn(z.shape, generator=chance, dtype=z.dtype)
        errors.append(float((decoder.decode(noisy) - x).square().sum(-1).mean()))
        norms.append(float(decoder.jacobian(z[:1]).square().sum()))
    return {
        "error over closed form": round(sum(errors) / len(errors) / expected_error(sigma, gain), 4),
        "Jacobian over closed form": round(sum(norms) / len(norms) / expected_jacobian(gain), 4),
    }


def diffusion(store: Store, work: Path, seed: int, sources: tuple[str, ...]) -> None:
    """Flows on latents, decoded with growing noise."""
    pairs = {source: FLOWS[source] for source in sources}

    def key(source: str, decoder: str, sigma: float) -> dict[str, Any]:
        return {"part": "diffusion", "latents": source, "decoder": decoder, "sigma_bar": sigma, "seed": seed}

    missing = [
        source
        for source, decoders in pairs.items()
        if any(key(source, name, sigma) not in store for name in decoders for sigma in SIGMA_BARS)
    ]
    if not missing:
        return
    own = Small(work, seed)
    reference = wavy_pictures(REFERENCE, seed=30_000).float() / 255
    for source in missing:
        encoder = own.model(source)[0]
        latents = torch.cat([encoder.encode(part.float() / 255) for part in own.pictures.split(500)])
        torch.manual_seed(seed)
        network = LatentTransformer(64, width=96, depth=3, heads=4, head_width=192, head_depth=2)
        flow = LatentFlow(network, tuple(latents.shape[1:]), decay=0.995)
        config = TrainingConfig(
            steps=FLOW_STEPS, batch_size=32, learning_rate=1e-3, log_every=100, save_every=500, seed=seed
        )
        folder = work / f"seed-{seed}" / f"flow-{source.replace(':', '').replace(' ', '-')}"
        start = time.perf_counter()
        rows = train_latent_flow(flow, latents, folder, config, device="cpu")
        seconds = time.perf_counter() - start
        z = flow.sample(SAMPLES, steps=50, seed=seed)
        off = nearest_distance(z.flatten(1)[:512], latents.flatten(1)[:4096]).mean()
        print(source, "flow", rows[-1]["loss"], f"{seconds:.0f} s", flush=True)
        for name in pairs[source]:
            model = own.model(name)[0]
            for sigma in SIGMA_BARS:
                chance = torch.Generator().manual_seed(seed)
                made = torch.cat([model.decode(part, smoothing_noise=sigma, generator=chance) for part in z.split(128)])
                values = quality(own, made, reference) | {"flow loss": round(rows[-1]["loss"], 4)}
                values |= {"latent to nearest": round(float(off), 4), "flow seconds": round(seconds, 1)}
                if key(source, name, sigma) not in store:
                    store.add(key(source, name, sigma), values)
                print(name, sigma, values, flush=True)
        if seed == 0 and source == "LV-RAE, eta 5":
            _sheet_of_samples(own, flow)


def quality(own: Small, made: Tensor, reference: Tensor) -> dict[str, float]:
    """Distances of made pictures to true ones that were not trained on, and to the nearest of those trained on."""
    model, _ = own.model("RAE: LN(u)")

    def seen(pictures: Tensor) -> Tensor:
        return torch.cat([model.semantic(part).mean(1) for part in pictures.split(256)])

    def colours(pictures: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(pictures, 4).flatten(1)

    trained = own.pictures[:8192].float() / 255
    return {
        "Frechet, vision model": round(frechet_distance(seen(made), seen(reference)), 4),
        "Frechet, 8 x 8 colours": round(frechet_distance(colours(made), colours(reference)), 4),
        "nearest": round(float(nearest_distance(made.flatten(1)[:512], trained.flatten(1)).mean()), 4),
    }


def _sheet_of_samples(own: Small, flow: LatentFlow) -> None:
    """Eight samples: both decoders, without and with noise."""
    z = flow.sample(8, seed=0)
    rows = [
        own.model(name)[0].decode(z, smoothing_noise=sigma, generator=torch.Generator().manual_seed(0))
        for name in FLOWS["LV-RAE, eta 5"]
        for sigma in (0.0, 0.1)
    ]
    _write(torch.stack(rows), PICTURES / "lv-rae-samples.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("small", "colour", "toy", "diffusion"), required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("build/lv-rae"), help="models and checkpoints")
    parser.add_argument("--latents", choices=tuple(FLOWS), action="append", help="of diffusion; default: all")
    given = parser.parse_args()
    store = Store("lv-rae")
    if given.part in ("small", "colour"):
        small(store, given.work, given.seed, given.part)
    elif given.part == "toy":
        toy(store, given.seed)
    else:
        diffusion(store, given.work, given.seed, tuple(given.latents or FLOWS))


if __name__ == "__main__":
    main()
