"""FEDS on small codecs: does a student of a teacher code better than one from scratch, at equal steps? A CPU is enough.

    python benchmarks/feds.py --kodak FOLDER --work FOLDER --part teacher  --family mean-scale    # 12 minutes
    python benchmarks/feds.py --kodak FOLDER --work FOLDER --part students --family mean-scale    # 35, per --seed
    python benchmarks/feds.py --kodak FOLDER --work FOLDER --part ablation --family mean-scale    # 15, per --seed
    python benchmarks/feds.py --kodak FOLDER --work FOLDER --part long     --family mean-scale    # 25
    python benchmarks/feds.py --kodak FOLDER --work FOLDER --part channels --family mean-scale    # 1
    python benchmarks/feds.py --kodak FOLDER --work FOLDER --part cost     --family mean-scale    # 1
    ... --family mlicv2                                  # teacher 18, students 50 (25 with --only scratch,feds), ablation 14, channels 2

Minutes are of one idle core. mean-scale: a mean-scale hyperprior (N = 48, M = 48) teaches one of 62 % fewer parameters
(N = 28, M = 32). mlicv2: MLICv2 with SwinV2 attention and two blocks a stage (N = 32, M = 48) teaches a plain one of 63 %
fewer (N = 20, M = 32). All train on 8 crops of 64 pixels a step from the packaged photographs and are measured on the
middle 256 x 256 pixels of Kodak's pictures (FOLDER), with the likelihoods' bits: J = lambda 255^2 MSE + bpp.

The teacher of lambda = 0.013 is trained first, the others go on from its weights. The students of a lambda and seed
begin with the same weights and see the same crops in the same order, at the same learning rates, for the same steps:
scratch (no teacher), kd (plain distillation 0.2 / 0.2 / 0.6), feature (no channels), feds; in the ablation feds with
random and with the lowest channels, without features, and with KL, at lambda = 0.013. Records lie in results/feds.jsonl;
a killed command goes on with the training it was in (WORK holds the codecs).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results_store import Store
from torch.nn import functional as F

from szilard.codecs.feds import FEDSConfig, channel_entropy, train_feds
from szilard.codecs.feds.training import calibration_pixels
from szilard.codecs.hyperprior import HyperpriorConfig, MeanScaleHyperprior
from szilard.codecs.images import read_picture
from szilard.codecs.learned_codec import LearnedCodec
from szilard.codecs.mlicv2 import MLICv2, MLICv2Config
from szilard.codecs.opening import open_codec
from szilard.codecs.photographs import files_of, packaged_photographs
from szilard.codecs.training import CodecConfig, RateDistortion, bits_per_pixel, train_codec
from szilard.training.learned import load_learned

LAMBDAS = (0.0130, 0.0035, 0.0067, 0.0250)
BASE = LAMBDAS[0]
SIDE, TIMED = 256, 5
SHARED = {"batch_size": 8, "varied": 0.5, "crop": 64, "log_every": 50, "save_every": 250, "warmup": 0.02}
METHODS: dict[str, dict[str, Any]] = {
    "scratch": {"method": "scratch"},
    "kd": {"method": "kd"},
    "feature": {"method": "feature"},
    "feds": {},
}
ABLATION: dict[str, dict[str, Any]] = {
    "feds, random channels": {"channels": "random"},
    "feds, lowest channels": {"channels": "lowest"},
    "feds, no features": {"feature_weight": 0.0},
    "feds, KL": {"distance": "kl", "match": "identity"},
}


@dataclass(frozen=True)
class Family:
    """Two codecs and how long they train.

    Attributes:
        teacher, student: make them, with new weights.
        steps, tuning: of the first teacher and of those that go on from it.
        student_steps, rate: of a student, its largest learning rate; a tenth of it in the last phase.
    """

    teacher: Callable[[], LearnedCodec]
    student: Callable[[], LearnedCodec]
    steps: int
    tuning: int
    student_steps: int
    rate: float


FAMILIES = {
    "mean-scale": Family(
        lambda: MeanScaleHyperprior(HyperpriorConfig(N=48, M=48)),
        lambda: MeanScaleHyperprior(HyperpriorConfig(N=28, M=32)),
        steps=6000,
        tuning=2000,
        student_steps=2000,
        rate=1e-3,
    ),
    "mlicv2": Family(
        lambda: MLICv2(MLICv2Config(N=32, M=48, slices=2, hidden=0.15, window=3, attention=True, blocks=2)),
        lambda: MLICv2(MLICv2Config(N=20, M=32, slices=2, hidden=0.1, window=3)),
        steps=1200,
        tuning=300,
        student_steps=500,
        rate=1e-3,
    ),
}


class Bench:
    """What all parts share."""

    def __init__(self, kodak: Path, work: Path, family: str, seed: int, only: str) -> None:
        self.name, self.family, self.seed, self.work = family, FAMILIES[family], seed, work / family
        self.kodak = kodak
        self.only = only.split(",") if only else [*METHODS, *ABLATION]
        self.photographs = packaged_photographs()
        self.held = torch.cat([_middle(read_picture(file).samples) for file in files_of(kodak)])
        self.store = Store("feds")

    def key(self, part: str, lmbda: float, **more: Any) -> dict[str, Any]:
        return {"part": part, "family": self.name, "lambda": lmbda} | more

    def teacher(self, lmbda: float) -> LearnedCodec:
        """Trained, from its folder where it is there."""
        folder = self.work / f"teacher-{lmbda}"
        if (folder / "model.safetensors").is_file():
            return open_codec(folder)
        family, base = self.family, lmbda == BASE
        torch.manual_seed(0)
        codec = family.teacher()
        if not base:
            codec.load_state_dict(self.teacher(BASE).state_dict())
        rate = family.rate if base else family.rate / 3
        steps = family.steps if base else family.tuning
        config = CodecConfig(lmbda=lmbda, steps=steps, learning_rate=rate, schedule="cosine", **SHARED)
        train_codec(codec, self.photographs, config, folder, device="cpu")
        return open_codec(folder)

    def measured(self, codec: LearnedCodec, lmbda: float) -> dict[str, Any]:
        """On the held-out pictures, as mean over them."""
        codec.eval()
        codec.arithmetic = "float32"
        bpp, mse = [], []
        with torch.no_grad():
            for pixels in self.held.split(1):
                found = codec(pixels)
                bpp.append(float(bits_per_pixel(found["likelihoods"], pixels)))
                mse.append(float(F.mse_loss(found["x_hat"].clamp(0, 1).mul(255).round().div(255), pixels)))
        codec.arithmetic = "exact"
        psnr = [-10 * np.log10(one) for one in mse]
        cost = [lmbda * 255**2 * one + rate for one, rate in zip(mse, bpp, strict=True)]
        return {"bpp": float(np.mean(bpp)), "psnr": float(np.mean(psnr)), "J": float(np.mean(cost))}

    def cost(self, codec: LearnedCodec) -> dict[str, Any]:
        """Parameters, and seconds for one picture of 256 x 256 pixels to bytes and back, the least of some tries."""
        pixels = self.held[:1]
        encode, decode = [], []
        for _ in range(TIMED):
            start = time.perf_counter()
            coded = codec.compress(pixels)
            middle = time.perf_counter()
            codec.decompress(coded["strings"], coded["shape"])
            encode.append(middle - start)
            decode.append(time.perf_counter() - middle)
        count = sum(parameter.numel() for parameter in codec.parameters())
        return {"parameters": count, "encode_seconds": min(encode), "decode_seconds": min(decode)}

    def run_teacher(self) -> None:
        for lmbda in LAMBDAS:
            key = self.key("teacher", lmbda)
            if key not in self.store:
                start = time.perf_counter()
                codec = self.teacher(lmbda)
                values = self.measured(codec, lmbda) | self.cost(codec)
                self.add(key, values | {"seconds": round(time.perf_counter() - start)})

    def run_students(self, part: str) -> None:
        methods, lambdas = (METHODS, LAMBDAS) if part == "students" else (ABLATION, (BASE,))
        for lmbda in lambdas:
            for method, changes in methods.items():
                key = self.key(part, lmbda, method=method, seed=self.seed)
                if method in self.only and key not in self.store:
                    self.add(key, self.student(lmbda, method, changes))

    def run_long(self) -> None:
        """Students that learn as long as their teachers: of the first lambda from scratch, of the others from there."""
        for method in ("scratch", "feds"):
            for lmbda in LAMBDAS:
                key = self.key("long", lmbda, method=method, seed=self.seed)
                if method in self.only and key not in self.store:
                    self.add(key, self.student(lmbda, method, METHODS[method], long=True))

    def student(self, lmbda: float, method: str, changes: dict[str, Any], long: bool = False) -> dict[str, Any]:
        teacher, family = self.teacher(lmbda), self.family
        torch.manual_seed(1000 + self.seed)
        student, rate, steps = family.student(), family.rate, family.student_steps
        name = f"{method.replace(', ', '-').replace(' ', '-')}{'-long' if long else ''}"
        if long:
            steps = family.steps if lmbda == BASE else family.tuning
            if lmbda != BASE:
                student.load_state_dict(open_codec(self.work / f"{name}-{BASE}-{self.seed}").state_dict())
                rate /= 3
        config = FEDSConfig(
            lmbda=lmbda, steps=steps, learning_rate=rate, final_learning_rate=rate / 10, seed=self.seed, **SHARED, **changes,
        )  # fmt: skip
        folder = self.work / f"{name}-{lmbda}-{self.seed}"
        told: list[str] = []
        start = time.perf_counter()
        results = train_feds(teacher, student, self.photographs, config, folder, device="cpu", tell=told.append)
        seconds = round(time.perf_counter() - start)
        phases, curve, before = {}, [], 0
        objective = RateDistortion(student, config)
        for phase in config.plan:
            load_learned(objective, _of_codec(folder / phase.name / "best.safetensors", folder))
            before += phase.steps
            phases[str(before)] = round(self.measured(student, lmbda)["J"], 5)
            done = before - phase.steps
            curve += [[done + row["step"], round(row["rate_distortion"], 4)] for row in results[phase.name].metrics]
        student = open_codec(folder)
        values = self.measured(student, lmbda) | self.cost(student)
        return values | {"phases": phases, "curve": curve, "told": told, "seconds": seconds}

    def run_channels(self) -> None:
        """How the bits of a teacher lie over its channels, on held-out pictures and on those that it learned from."""
        for lmbda in LAMBDAS:
            key = self.key("channels", lmbda)
            if key in self.store:
                continue
            codec = self.teacher(lmbda)
            held = channel_entropy(codec, self.held.split(4))
            learned = channel_entropy(codec, calibration_pixels(self.photographs, 24, codec.stride))
            histogram = channel_entropy(codec, self.held.split(4), "empirical")
            order = held.argsort(descending=True)
            top = {int(i) for i in order[: len(order) // 2]}
            shared = [len(top & {int(i) for i in one.argsort(descending=True)[: len(top)]}) / len(top)
                      for one in (learned, histogram)]  # fmt: skip
            values = {
                "entropies": [round(float(one), 4) for one in held[order]],
                "empty": int((held < 1e-3).sum()),
                "shared_with_learned": shared[0],
                "shared_with_empirical": shared[1],
            }
            self.add(key, values)

    def run_cost(self) -> None:
        """Seconds of teacher and student for a picture of 768 x 512, in turns, the least of some tries."""
        pixels = read_picture(files_of(self.kodak)[0]).samples
        whole = torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)[None]
        codecs = {"teacher": self.teacher(BASE), "student": open_codec(self.work / f"feds-{BASE}-{self.seed}")}
        for arithmetic in ("exact", "float32"):
            key = self.key("cost", BASE, arithmetic=arithmetic)
            seconds: dict[str, list[float]] = {f"{verb} {name}": [] for name in codecs for verb in ("encode", "decode")}
            for _ in range(TIMED):
                for name, codec in codecs.items():
                    codec.arithmetic = arithmetic
                    start = time.perf_counter()
                    coded = codec.compress(whole)
                    middle = time.perf_counter()
                    codec.decompress(coded["strings"], coded["shape"])
                    seconds[f"encode {name}"].append(middle - start)
                    seconds[f"decode {name}"].append(time.perf_counter() - middle)
            values: dict[str, Any] = {name: round(min(all_), 4) for name, all_ in seconds.items()}
            for name, codec in codecs.items():
                values[f"parameters {name}"] = sum(parameter.numel() for parameter in codec.parameters())
            self.add(key, values)

    def add(self, key: dict[str, Any], values: dict[str, Any]) -> None:
        self.store.add(key, values)
        shown = {name: value for name, value in values.items() if name not in ("curve", "entropies", "told")}
        print(key, shown, flush=True)


def _of_codec(weights: Path, folder: Path) -> Path:
    """The codec's own part of a phase's weights."""
    from safetensors.torch import load_file, save_file

    kept = {name: value for name, value in load_file(weights).items() if name.startswith("codec.")}
    file = folder / ".phase.safetensors"
    save_file(kept, file)
    return file


def _middle(samples: np.ndarray) -> torch.Tensor:
    """The middle of a picture, [1, 3, 256, 256] in [0, 1]."""
    top, left = ((size - SIDE) // 2 for size in samples.shape[:2])
    cut = torch.from_numpy(samples[top : top + SIDE, left : left + SIDE].astype(np.float32) / 255)
    return cut.permute(2, 0, 1)[None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kodak", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument(
        "--part", choices=("teacher", "students", "ablation", "channels", "cost", "long"), required=True
    )
    parser.add_argument("--family", choices=FAMILIES, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="methods of `students` or `ablation`, with commas")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(arguments.kodak, arguments.work, arguments.family, arguments.seed, arguments.only)
    if arguments.part == "long":
        bench.run_long()
    elif arguments.part == "teacher":
        bench.run_teacher()
    elif arguments.part in ("channels", "cost"):
        bench.run_channels() if arguments.part == "channels" else bench.run_cost()
    else:
        bench.run_students(arguments.part)


if __name__ == "__main__":
    main()
