"""Steps per second of the training loop against a bare PyTorch loop on the same objective, data and optimiser.

    python benchmarks/training_speed.py [--what chains] [--save]

Medusa heads for the embedded SmolLM2-135M on random hidden states, or CoT-SFT of a model of 0.7 M parameters, whose
steps are so short that every overhead shows; the two loops in turn, `--rounds` times; the median of the paired ratios.
The loop's own time includes building the Trainer, metrics, TensorBoard and one checkpoint.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from results_store import Store
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import LlamaConfig, LlamaForCausalLM, get_cosine_schedule_with_warmup

import szilard
from szilard.reasoning.supervised import Chains, Supervised, SupervisedConfig
from szilard.reasoning.tasks import arithmetic_chains, number_tokenizer
from szilard.speculative.draft_config import MedusaConfig
from szilard.speculative.medusa.training import MedusaObjective
from szilard.training.config import TrainingConfig
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


def bare(objective: nn.Module, data: Dataset[Batch], collate: Any, config: TrainingConfig, steps: int) -> float:
    """Seconds of a plain loop."""
    start = time.perf_counter()
    weights = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=config.learning_rate, weight_decay=0.0)
    schedule = get_cosine_schedule_with_warmup(optimiser, round(config.warmup * steps), steps)
    done = 0
    while done < steps:
        for batch in DataLoader(data, batch_size=config.batch_size, shuffle=True, collate_fn=collate):
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


def medusa(config: dict[str, Any]) -> tuple[str, TrainingConfig, Callable[[], nn.Module], Dataset[Batch], Any]:
    """Heads of a frozen model."""
    engine = szilard.load(engine="transformers")
    target = Target(engine)
    chosen = MedusaConfig(heads=3, **config)
    data = RandomWindows(64, 128, target.vocab_size, target.hidden_size)

    def made() -> nn.Module:
        return MedusaObjective(MedusaObjective.build(target, chosen), target, chosen)

    return engine.name, chosen, made, data, Windows.collate


def chains(config: dict[str, Any]) -> tuple[str, TrainingConfig, Callable[[], nn.Module], Dataset[Batch], Any]:
    """All weights of a small model, which writes chains of thought."""
    tokenizer = number_tokenizer(22)
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
    )
    chosen = SupervisedConfig(**(config | {"batch_size": 64}))
    data = Chains(arithmetic_chains(4096, seed=0), tokenizer, chosen)
    return "llama-0.7m", chosen, lambda: Supervised(LlamaForCausalLM(shape)), data, Chains.collate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", default="medusa", choices=("medusa", "chains"))
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    steps = arguments.steps
    settings = {"steps": steps, "precision": arguments.precision, "save_every": steps, "log_every": 10}
    name, config, made, data, collate = {"medusa": medusa, "chains": chains}[arguments.what](settings)
    ratios = []
    for number in range(arguments.rounds):
        seconds = {}
        for loop in ("szilard", "bare") if number % 2 else ("bare", "szilard"):
            torch.manual_seed(0)
            objective = made().train()
            if loop == "bare":
                seconds[loop] = bare(objective, data, collate, config, steps)
            else:
                with tempfile.TemporaryDirectory() as folder:
                    start = time.perf_counter()
                    fit(objective, data, config, Path(folder), collate=collate, device="cpu")
                    seconds[loop] = time.perf_counter() - start
        ratios.append(seconds["bare"] / seconds["szilard"])
        print(", ".join(f"{loop} {steps / value:.2f} steps/s" for loop, value in seconds.items()))
    ratio = statistics.median(ratios)
    print(f"szilard over bare: {ratio:.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
    if arguments.save:
        key = {
            "peer": "bare PyTorch loop, training",
            "model": name,
            "batch": config.batch_size,
            "method": arguments.what,
        }
        Store("speed").add(key, {"ratio": ratio, "ratios": ratios, "steps": steps})


if __name__ == "__main__":
    main()
