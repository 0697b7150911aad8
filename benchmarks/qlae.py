"""QLAE against an autoencoder, beta-VAE, VQ-VAE and FSQ: which latents carry one factor each? A CPU is enough.

    python benchmarks/qlae.py --part compared [--seed 1]      8 runs a seed
    python benchmarks/qlae.py --part decay [--seed 1]         QLAE and AE by weight decay, 8 runs a seed
    python benchmarks/qlae.py --part values                   QLAE by the number of values, 2 runs
    python benchmarks/qlae.py --part picture                  traversals of one QLAE, 5 minutes; kept in runs/qlae

Sprites of 32 pixels, all combinations of the grid below; every model has the same networks, steps, batches and data
order. A run of 3,000 steps takes four minutes on one core (--widths 8,32,64: half of it) and is recorded when it ends, in
results/qlae.jsonl; a killed command goes on with the run it was in. Of other settings than the defaults (--steps, --rate,
--widths, --sprites, --penalty, --decay) the records say so; --trial prints and records nothing.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results_store import Store

from szilard.information.infomec import InfoMEC, infomec
from szilard.representation.qlae import LatentAutoencoder, QlaeConfig, train_qlae
from szilard.representation.qlae.objective import measure
from szilard.representation.qlae.traversals import strip, traversal_values
from szilard.representation.sprites import SpriteGrid, Sprites

SIZE, BATCH, STEPS, RATE = 32, 64, 3000, 1e-3
GRID = SpriteGrid(shapes=3, colours=4, scales=4, rotations=1, columns=8, rows=8)
GRIDS = {"small": GRID, "large": replace(GRID, smallest=0.16, largest=0.28)}  # by the size of the objects
LATENTS, VALUES, WIDTHS, DENSE = 10, 10, (16, 32, 64), (128,)
SETTINGS = QlaeConfig(
    batch_size=BATCH, learning_rate=RATE, log_every=100, save_every=500, evaluate_every=10**9, evaluation_pictures=512
)
DECAY = 0.1
ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs" / "pictures" / "qlae-traversals.png"


@dataclass(frozen=True)
class Run:
    """One training."""

    bottleneck: str
    decay: float = DECAY
    beta: float = 1.0
    shared: bool = False
    values: int = VALUES

    def key(self, part: str, seed: int) -> dict[str, Any]:
        """Of its record."""
        found: dict[str, Any] = {"part": part, "model": self.bottleneck, "weight_decay": self.decay}
        if self.bottleneck == "beta-vae":
            found["beta"] = self.beta
        if self.shared:
            found["model"] = "qlae, one codebook"
        if part == "values":
            found["values"] = self.values
        return found | {"seed": seed}


PARTS: dict[str, list[Run]] = {
    "compared": [
        Run("qlae"),
        Run("ae"),
        Run("ae", decay=0.0),
        Run("beta-vae", decay=0.0, beta=1.0),
        Run("beta-vae", decay=0.0, beta=4.0),
        Run("vq-vae"),
        Run("fsq"),
        Run("qlae", shared=True),
    ],
    "decay": [Run(kind, decay=decay) for kind in ("qlae", "ae") for decay in (0.0, 0.03, 0.3, 1.0)],
    "values": [Run("qlae", values=values) for values in (5, 20)],
}


@dataclass(frozen=True)
class Setting:
    """What all models of a comparison share."""

    steps: int = STEPS
    rate: float = RATE
    widths: tuple[int, ...] = WIDTHS
    sprites: str = "small"
    penalty: float | None = None  # weight of both of QLAE's losses; None: the paper's 0.01

    def changed(self) -> dict[str, Any]:
        """What differs from the defaults, for the key of a record."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in found.items()
            if value != getattr(Setting, name)
        }


def made(run: Run, seed: int, setting: Setting) -> tuple[LatentAutoencoder, QlaeConfig]:
    """A new model and the settings of its training."""
    torch.manual_seed(seed)
    model = LatentAutoencoder(
        run.bottleneck,
        image_size=SIZE,
        num_latents=LATENTS,
        num_values=run.values,
        shared_codebook=run.shared,
        architecture="small",
        widths=setting.widths,
        dense=DENSE,
    )
    config = replace(SETTINGS, steps=setting.steps, weight_decay=run.decay, beta=run.beta, seed=seed)
    if setting.penalty is not None and run.bottleneck == "qlae":
        config = replace(config, quantization_weight=setting.penalty, commitment_weight=setting.penalty)
    return model, replace(config, learning_rate=setting.rate)


def draw(seed: int, pixels: torch.Tensor, setting: Setting) -> None:
    """Train one QLAE in runs/qlae, or read it back, and draw a row per latent: one picture, the latent at its values."""
    from PIL import Image

    run = Run("qlae")
    model, config = made(run, seed, setting)
    train_qlae(model, pixels, config, ROOT / "runs" / "qlae", device="cpu")
    model.eval()
    codes, picture = model.encode(pixels), pixels[len(pixels) // 2]
    rows = [
        model.traverse(picture, latent, traversal_values(model, codes, latent, VALUES)) for latent in range(LATENTS)
    ]
    lines = torch.nn.utils.rnn.pad_sequence(rows, padding_value=1.0).unbind(1)  # a latent may use fewer values
    shown = torch.cat([torch.nn.functional.pad(strip(line), (0, 0, 0, 0, 0, 1), value=255) for line in lines])
    PICTURE.parent.mkdir(exist_ok=True)
    image = Image.fromarray(shown.numpy())
    image.resize((2 * image.width, 2 * image.height), Image.Resampling.NEAREST).save(PICTURE, optimize=True)
    print(PICTURE)


def measured(run: Run, seed: int, pixels: torch.Tensor, factors: torch.Tensor, setting: Setting) -> dict[str, Any]:
    """Train, and grade the latents."""
    model, config = made(run, seed, setting)
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        rows = train_qlae(model, pixels, config, Path(folder) / "run", device="cpu").metrics
    seconds = time.process_time() - start
    model.eval()
    found: dict[str, Any] = {"psnr": round(measure(model, pixels)["psnr"], 2)}
    codes = model.encode(pixels).numpy()
    varied = factors[:, (factors != factors[:1]).any(0)].numpy()
    report = infomec(varied, codes, discrete=model.discrete)
    found |= graded(report)
    if not model.discrete:  # on equal terms with indices: as many labels, plug-in estimates, one-hot columns
        labels = np.stack([_binned(column) for column in codes.T], axis=1)
        found["binned"] = graded(infomec(varied, labels, discrete=True))
    found["nmi"] = np.round(report.nmi, 3).tolist()
    found["curve"] = [[row["step"], round(row["psnr"], 2)] for row in rows]
    found["cpu_seconds"] = round(seconds)
    return found


def graded(report: InfoMEC) -> dict[str, float]:
    """The three numbers, and the number of active latents."""
    return {
        "InfoM": round(report.modularity, 3),
        "InfoE": round(report.explicitness, 3),
        "InfoC": round(report.compactness, 3),
        "active": int(report.active.sum()),
    }


def _binned(column: np.ndarray) -> np.ndarray:
    """Labels of a latent cut into VALUES bins of equal counts."""
    inner = np.quantile(column, np.linspace(0, 1, VALUES + 1)[1:-1])
    return np.searchsorted(inner, column, side="right")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=[*PARTS, "picture"], required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="runs whose key holds this text")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--rate", type=float, default=RATE, help="the learning rate")
    parser.add_argument("--widths", default=",".join(map(str, WIDTHS)), help="channels of each stage")
    parser.add_argument("--sprites", choices=GRIDS, default="small", help="size of the objects")
    parser.add_argument("--decay", type=float, help="of every run whose decay is not 0, instead of its own")
    parser.add_argument("--penalty", type=float, help="weight of QLAE's quantisation and commitment losses")
    parser.add_argument("--trial", action="store_true", help="print, and record nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    widths = tuple(int(width) for width in arguments.widths.split(","))
    setting = Setting(arguments.steps, arguments.rate, widths, arguments.sprites, arguments.penalty)
    store = Store("qlae")
    pixels, factors = Sprites(SIZE, GRIDS[setting.sprites]).tensors()
    if arguments.part == "picture":
        draw(arguments.seed, pixels, setting)
        return
    for run in PARTS[arguments.part]:
        if arguments.decay is not None and run.decay:
            run = replace(run, decay=arguments.decay)
        key = run.key(arguments.part, arguments.seed) | setting.changed()
        if (key in store and not arguments.trial) or arguments.only not in str(key):
            continue
        found = measured(run, arguments.seed, pixels, factors, setting)
        if not arguments.trial:
            store.add(key, found)
        shown = {name: value for name, value in found.items() if name not in ("nmi", "curve")}
        print(key, shown, flush=True)


if __name__ == "__main__":
    main()
