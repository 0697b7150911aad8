"""Entropy-Guided Attention on characters: what holds a GPT-2 without norms and activations together? A CPU is enough.

    python benchmarks/entropy_guided_attention.py --data FOLDER --part architectures [--seed 1]
    python benchmarks/entropy_guided_attention.py --data FOLDER --part guided [--seed 1]
    python benchmarks/entropy_guided_attention.py --data FOLDER --part norms
    python benchmarks/entropy_guided_attention.py --data FOLDER --part penalty
    python benchmarks/entropy_guided_attention.py --data FOLDER --part stability

FOLDER holds tinyshakespeare.txt; its last tenth is measured on. 6 layers, d = 96, 4 heads, T = 64, 16 texts a step, AdamW
2e-3 after 100 steps of warm-up, 500 steps. lambda is given for steps of 1,024 tokens: 8e-5 is the published 1e-5 for
64 x 128. A run takes one to two minutes on one core and is recorded when it ends, in results/entropy-guided-attention.jsonl:
nats per character and perplexity, entropies of every head, their layer means, quarters, the share near uniform, and the
thresholds. A killed command goes on with the run it was in.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from results_store import Store
from transformers import GPT2Config

from szilard.training.config import TrainingConfig
from szilard.training.entropy_guided_attention import ARCHITECTURES, EntropyRegularizer, simplified
from szilard.training.entropy_guided_attention.objective import EntropyGuidedObjective
from szilard.training.entropy_guided_attention.training import Pieces, head_report
from szilard.training.loop import fit

LAYERS, HEADS, WIDTH, CONTEXT, BATCH, MEASURED = 6, 4, 96, 64, 16, 512
STEPS, WARMUP, RATE, STABILITY_STEPS = 500, 100, 2e-3, 200
SPREAD = 0.02 * (768 / WIDTH) ** 0.5  # a matrix then stretches as one of GPT-2 small does
RATES = (2e-3, 4e-3, 8e-3, 1.6e-2)
SETTINGS = TrainingConfig(batch_size=BATCH, schedule="constant", log_every=50, save_every=1000)


@dataclass(frozen=True)
class Run:
    """One training: an architecture, what is changed in it, and the penalty (lambda 0: none)."""

    architecture: str
    changes: dict[str, Any] = field(default_factory=dict)
    lam: float = 0.0
    penalty: dict[str, Any] = field(default_factory=dict)
    rate: float = RATE
    threshold_rate: float = RATE  # as in the authors' code, which has no other
    steps: int = STEPS

    def key(self, part: str, seed: int) -> dict[str, Any]:
        """Of its record: what differs from the defaults."""
        entries: dict[str, Any] = {"part": part, "architecture": self.architecture, "seed": seed}
        entries |= self.changes | ({"lambda": self.lam} if part in ("guided", "penalty") else {}) | self.penalty
        if self.threshold_rate != Run.threshold_rate:
            entries["threshold_rate"] = self.threshold_rate
        if part == "stability":
            entries["rate"] = self.rate
        return entries


TEMPERED = "SM(t)+ScFuFFN"
ONE, TENTH, HUNDREDTH = ({"temperature_init": start} for start in (1.0, 0.1, 0.01))
PARTS: dict[str, list[Run]] = {
    "architectures": [Run(name) for name in ARCHITECTURES if name != TEMPERED],
    "guided": [
        *(Run(TEMPERED, ONE, lam) for lam in (0.0, 8e-5, 8e-4)),
        *(Run(TEMPERED, TENTH, lam) for lam in (0.0, 8e-5)),
        *(Run(TEMPERED, HUNDREDTH, lam) for lam in (0.0, 8e-5)),
        Run(TEMPERED, HUNDREDTH, 1e-5, {"reduction": "mean_rows"}),
    ],
    "norms": [
        *(
            Run("SM", {"ffn_norm": kind, "norm_of": where})
            for kind in ("weight", "spectral")
            for where in ("ffn", "qk", "qkvo+ffn")
        ),
        Run("SM", {"ffn_norm": "scale"}),
        Run("SM", {"final_layernorm": True}),
        Run("ScFuFFN", {"final_layernorm": True}),
        Run(TEMPERED, ONE | {"final_layernorm": True}, 8e-4),
    ],
    "penalty": [
        *(Run(TEMPERED, ONE, lam) for lam in (8e-6, 3e-3)),
        Run(TEMPERED, ONE | {"attn_temperature": "head"}, 8e-4),
        *(Run(TEMPERED, ONE, 8e-4, {"gamma": gamma}) for gamma in (0.0, 0.1, 0.3)),
        *(
            Run(TEMPERED, start, lam, entries)
            for start, lam in ((ONE, 8e-4), (HUNDREDTH, 8e-5))
            for entries in (
                {"learn_theta": False},
                {"one_sided": True},
                {"per_row_reference": "normalise"},
                {"per_row_reference": "skip"},
            )
        ),
        *(Run(TEMPERED, start, lam, threshold_rate=1e-4) for start, lam in ((ONE, 8e-4), (HUNDREDTH, 8e-5))),
        Run("SM+LN+G", {}, 8e-4),
    ],
    "stability": [
        Run(name, changes, lam, rate=rate, steps=STABILITY_STEPS)
        for name, changes, lam in (
            *((name, {}, 0.0) for name in ("SM+LN+G", "SM+LN", "SM+G", "SM+R", "SM", "ScFuFFN")),
            ("SM", {"ffn_norm": "weight"}, 0.0),
            ("SM", {"ffn_norm": "spectral"}, 0.0),
            (TEMPERED, ONE, 8e-4),
        )
        for rate in RATES
    ],
}


def texts(folder: Path) -> tuple[Pieces, Pieces, int]:
    """Pieces to learn from and to measure on, and the number of characters."""
    text = (folder / "tinyshakespeare.txt").read_text(encoding="utf-8")
    place = {character: index for index, character in enumerate(sorted(set(text)))}
    ids = [place[character] for character in text]
    cut = len(ids) * 9 // 10
    held = Pieces([ids[cut:]], CONTEXT, None)
    held.ids = held.ids[torch.randperm(len(held), generator=torch.Generator().manual_seed(0))[:MEASURED]]
    return Pieces([ids[:cut]], CONTEXT, None), held, len(place)


def measured(run: Run, seed: int, data: tuple[Pieces, Pieces, int]) -> dict[str, Any]:
    """Train, and say what came of it."""
    learned, held, characters = data
    torch.manual_seed(seed)
    stock = GPT2Config(
        vocab_size=characters,
        n_layer=LAYERS,
        n_head=HEADS,
        n_embd=WIDTH,
        n_positions=CONTEXT,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        initializer_range=SPREAD,
        bos_token_id=0,
        eos_token_id=0,
    )
    model: Any = simplified(stock, replace(ARCHITECTURES[run.architecture], **run.changes))
    regularizer = EntropyRegularizer(LAYERS, HEADS, lam=run.lam, **run.penalty) if run.lam else None
    objective = EntropyGuidedObjective(
        model, regularizer, learning_rate=run.rate, threshold_rate=run.threshold_rate
    ).train()
    config = replace(SETTINGS, steps=run.steps, learning_rate=run.rate, seed=seed, warmup=min(1, WARMUP / run.steps))
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        try:
            rows = fit(objective, learned, config, Path(folder), collate=Pieces.collate, device="cpu")
        except ValueError as stopped:
            if "no numbers" not in str(stopped) and "the loss is" not in str(stopped):
                raise
            return {"diverged": str(stopped).partition(":")[0]}
    seconds = time.perf_counter() - start
    objective.eval()
    with torch.no_grad():
        nats = sum(float(objective(ids)["loss"]) * len(ids) for ids in held.ids.split(64)) / len(held)
    report = head_report(model, held, 64, batches=MEASURED // 64)
    found: dict[str, Any] = {"nats": round(nats, 4), "perplexity": round(math.exp(min(nats, 50.0)), 3)}
    found |= {
        "layer_means": [round(value, 2) for value in report.layers],
        "quarters": [round(value, 3) for value in report.quarters],
        "near_uniform": round(report.near_uniform, 3),
        "near_zero": round(report.near_zero, 3),
        "heads": [[round(value, 3) for value in heads] for heads in report.heads],
        "uniform": round(report.uniform[0], 3),
        "curve": [[row["step"], round(row["nats"], 4)] for row in rows],
        "milliseconds_per_step": round(1000 * seconds / run.steps),
    }
    if regularizer is not None:
        found["thresholds"] = [round(value, 3) for value in regularizer.theta.detach().mean(1).tolist()]
        found["penalty"] = round(rows[-1]["penalty"], 4)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--part", choices=PARTS, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="runs whose key holds this text")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    store, data = Store("entropy-guided-attention"), texts(arguments.data)
    for run in PARTS[arguments.part]:
        key = run.key(arguments.part, arguments.seed)
        if key in store or arguments.only not in str(key):
            continue
        found = measured(run, arguments.seed, data)
        store.add(key, found)
        shown = ("diverged", "nats", "layer_means", "near_uniform", "near_zero", "thresholds", "milliseconds_per_step")
        print(key, {name: found[name] for name in shown if name in found}, flush=True)


if __name__ == "__main__":
    main()
