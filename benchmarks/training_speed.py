"""Steps per second of the training loop against a bare PyTorch loop on the same objective, data and optimiser.

    python benchmarks/training_speed.py [--save]

Medusa heads for the embedded SmolLM2-135M on random hidden states; the two loops in turn, `--rounds` times; the median of
the paired ratios. The loop's own time includes building the Trainer, metrics, TensorBoard and one checkpoint.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from results_store import Store
from torch.utils.data import DataLoader, Dataset
from transformers import get_cosine_schedule_with_warmup

import szilard
from szilard.speculative.draft_config import MedusaConfig
from szilard.speculative.medusa.training import MedusaObjective
from szilard.training.hidden_states import Windows
from szilard.training.loop import Batch, fit
from szilard.training.target import Target


class RandomWindows(Dataset[Batch]):
    """Stretches of random tokens and hidden states."""

    def __init__(self, count: int, length: int, vocab: int, width: int) -> None:
        chance = torch.Generator().manual_seed(0)
        self.ids = torch.randint(vocab, (count, length), generator=chance)
        self.hidden = torch.randn(count, length, width, generator=chance)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Batch:
        ids = self.ids[index]
        return {"ids": ids, "answer": torch.ones_like(ids, dtype=torch.bool), "hidden": self.hidden[index]}


def bare(objective: MedusaObjective, data: RandomWindows, config: MedusaConfig, steps: int) -> float:
    """Seconds of a plain loop."""
    start = time.perf_counter()
    weights = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=config.learning_rate, weight_decay=0.0)
    schedule = get_cosine_schedule_with_warmup(optimiser, round(config.warmup * steps), steps)
    done = 0
    while done < steps:
        for batch in DataLoader(data, batch_size=config.batch_size, shuffle=True, collate_fn=Windows.collate):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=config.precision == "bfloat16"):
                loss = objective(**batch)["loss"]
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, config.max_grad_norm)
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()
            done += 1
            if done == steps:
                break
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    engine = szilard.load(engine="transformers")
    target = Target(engine)
    config = MedusaConfig(
        steps=arguments.steps, precision=arguments.precision, heads=3, save_every=arguments.steps, log_every=10
    )
    data = RandomWindows(64, 128, target.vocab_size, target.hidden_size)
    ratios = []
    for number in range(arguments.rounds):
        seconds = {}
        for loop in ("szilard", "bare") if number % 2 else ("bare", "szilard"):
            torch.manual_seed(0)
            objective = MedusaObjective(MedusaObjective.build(target, config), target, config).train()
            if loop == "bare":
                seconds[loop] = bare(objective, data, config, arguments.steps)
            else:
                with tempfile.TemporaryDirectory() as folder:
                    start = time.perf_counter()
                    fit(objective, data, config, Path(folder), collate=Windows.collate, device="cpu")
                    seconds[loop] = time.perf_counter() - start
        ratios.append(seconds["bare"] / seconds["szilard"])
        print(", ".join(f"{loop} {arguments.steps / value:.2f} steps/s" for loop, value in seconds.items()))
    ratio = statistics.median(ratios)
    print(f"szilard over bare: {ratio:.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
    if arguments.save:
        key = {
            "peer": "bare PyTorch loop, training",
            "model": engine.name,
            "batch": config.batch_size,
            "method": "medusa",
        }
        Store("speed").add(key, {"ratio": ratio, "ratios": ratios, "steps": arguments.steps})


if __name__ == "__main__":
    main()
