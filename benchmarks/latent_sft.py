"""Latent-SFT on arithmetic chains, from nothing: the chain in words, no chain, and latent chains with their ablations.

    python benchmarks/latent_sft.py --part base --seed 0        # SFT without a chain, and CoT-SFT (the others' start)
    python benchmarks/latent_sft.py --part latent --seed 0      # r = 2 and 4
    python benchmarks/latent_sft.py --part ablations --seed 0   # r = 2: hidden states fed back, no LTIM, ..., no warm start

Problems such as "3 + 5 * 2 - 4 =", read from left to right, modulo 11, of three or four operations. A two-layer model of
width 128. Latent runs begin with the encoder's warm start, since without it most such small models never fill their
latent tokens ("no warm start" is the paper's way). What a run found goes to results/latent-sft.jsonl; a killed run goes on. One run alone: --run NAME.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from results_store import Store
from transformers import LlamaConfig, LlamaForCausalLM

from szilard.reasoning.examples import Reasoning
from szilard.reasoning.latent_sft.config import LatentSFTConfig
from szilard.reasoning.latent_sft.generate import LatentAnswer, latent_generate
from szilard.reasoning.latent_sft.method import LatentSFT
from szilard.reasoning.latent_sft.metrics import effective_compression_rate, effective_global_parallelism
from szilard.reasoning.latent_sft.stages import LatentTraining, best_row
from szilard.reasoning.latent_sft.training import write_latent_model
from szilard.reasoning.supervised import SupervisedConfig, answers, same_answer, train_supervised
from szilard.reasoning.tasks import arithmetic_chains, number_tokenizer

MODULUS, STEPS = 11, (3, 4)
TRAINING, HELD, TESTED = 20000, 200, 1000
TIMED = 50  # problems answered one by one
RATES = (1, 2, 3, 5)  # K of ECR
PATHS = 6
COT_STEPS, WARM_STEPS, STAGE_1_STEPS, STAGE_2_STEPS = 800, 200, 150, 1200
COMMON = {"batch_size": 64, "warmup": 0.05, "weight_decay": 0.01, "save_every": 50, "log_every": 50}
LATENT = {
    "latent, r = 2": {"compression_rate": 2},
    # A latent token of two results has more to learn; after 150 steps it still left the second one out.
    "latent, r = 4": {"compression_rate": 4, "steps": 2400, "stage_1_steps": 400},
}
ABLATIONS = {
    "latent, r = 2, hidden states fed back": {"compression_rate": 2, "feedback": "hidden_state"},
    "latent, r = 2, no LTIM": {"compression_rate": 2, "induction_mask": False},
    "latent, r = 2, no LTSuM": {"compression_rate": 2, "supervision_mask": False},
    "latent, r = 2, noise on the labels": {"compression_rate": 2, "gumbel_scale": 1.0},
    "latent, r = 2, no warm start": {"compression_rate": 2, "warm_start_steps": 0},
}
CHAINS = {"no chain": False, "CoT-SFT": True}
PARTS = {"base": list(CHAINS), "latent": list(LATENT), "ablations": list(ABLATIONS)}
TOP_K = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=list(PARTS), help="default: all")
    parser.add_argument("--run", choices=list(itertools.chain(*PARTS.values())), help="one run alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("build/latent-sft"), help="checkpoints")
    parser.add_argument("--export", type=Path, help="write the latent model of --run to a folder; nothing is recorded")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.export:
        if arguments.run in (None, *CHAINS):
            parser.error("--export needs --run with a latent run")
        print(Bench(arguments.seed, arguments.work / f"seed-{arguments.seed}").latent(arguments.run, arguments.export))
        return
    store = Store("latent-sft")
    for name in itertools.chain(*([PARTS[arguments.part]] if arguments.part else PARTS.values())):
        if arguments.run not in (None, name):
            continue
        key = {"run": name, "seed": arguments.seed}
        if key in store:
            continue
        bench = Bench(arguments.seed, arguments.work / f"seed-{arguments.seed}")
        found = bench.chains(name) if name in CHAINS else bench.latent(name)
        print(json.dumps(key | found), flush=True)
        store.add(key, found)


class Bench:
    """Problems, tokenizer and folder of one seed."""

    def __init__(self, seed: int, work: Path) -> None:
        self.seed, self.work = seed, work
        self.tokenizer = number_tokenizer(MODULUS - 1)
        found = arithmetic_chains(TRAINING + HELD + TESTED, seed=seed, steps=STEPS, modulus=MODULUS)
        self.learned, self.held = found[HELD + TESTED :], found[:HELD]
        self.tested = found[HELD : HELD + TESTED]

    def model(self) -> Any:
        """A model from nothing."""
        torch.manual_seed(self.seed)
        tokenizer = self.tokenizer
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=128,
                intermediate_size=384,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=4,
                max_position_embeddings=128,
                tie_word_embeddings=True,
                pad_token_id=tokenizer.pad_token_id,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
        )

    def supervised(self, name: str) -> tuple[Any, SupervisedConfig, float]:
        """A model tuned on chains or answers, its settings, and the seconds that took (now, or nothing)."""
        # without a chain: as many steps as a latent model had in all
        steps = COT_STEPS if CHAINS[name] else COT_STEPS + WARM_STEPS + 3 * STAGE_1_STEPS + STAGE_2_STEPS
        config = SupervisedConfig(
            chain=CHAINS[name],
            steps=steps,
            learning_rate=2e-3,
            seed=self.seed,
            evaluate_every=200,
            max_new_tokens=40,
            **COMMON,
        )
        model, start = self.model(), time.perf_counter()
        train_supervised(model, self.tokenizer, self.learned, self.held, config, self.work / name, device="cpu")
        return model.eval(), config, time.perf_counter() - start

    def chains(self, name: str) -> dict[str, Any]:
        """What a model with a chain in words, or without one, reaches."""
        model, config, seconds = self.supervised(name)
        found = answers(model, self.tokenizer, [one.problem for one in self.tested], config, batch_size=250)
        right = [same_answer(one.answer, wanted.answer) for one, wanted in zip(found, self.tested, strict=True)]
        start = time.perf_counter()
        answers(model, self.tokenizer, [one.problem for one in self.tested[:TIMED]], config, batch_size=1)
        return {
            "accuracy": sum(right) / len(right),
            "steps_of_chain": mean([one.steps for one in found]),
            "forward_passes": mean([one.passes for one in found]),
            "milliseconds": 1000 * (time.perf_counter() - start) / TIMED,
            "training_seconds": round(seconds),
        }

    def latent(self, name: str, export: Path | None = None) -> dict[str, Any]:
        """What a latent model reaches, which may be written to a folder; CoT-SFT's is where it starts."""
        model, _, _ = self.supervised("CoT-SFT")
        runs: dict[str, dict[str, Any]] = LATENT | ABLATIONS
        sizes: dict[str, Any] = {"steps": STAGE_2_STEPS, "stage_1_steps": STAGE_1_STEPS, "warm_start_steps": WARM_STEPS}
        sizes |= {"gumbel_scale": 0.0}
        config = LatentSFTConfig(
            learning_rate=2e-3,
            stage_1_learning_rate=1e-3,
            encoder_learning_rate=3e-4,
            gradient_accumulation=1,
            lora=False,
            top_k=TOP_K,
            seed=self.seed,
            evaluations=4,
            evaluation_limit=HELD,
            label_batch=200,
            max_latent_steps=40,
            max_answer_tokens=4,
            **COMMON,
            **(sizes | runs[name]),
        )
        folder = self.work / name
        start = time.perf_counter()
        with LatentTraining(
            model, self.tokenizer, self.learned, self.held, config, labels=folder / "labels", device="cpu"
        ) as training:
            results = training.run(folder)
            seconds = time.perf_counter() - start
            if export is not None:
                write_latent_model(model, self.tokenizer, config, export)
            taught = {stage: best_row(results[stage])["accuracy"] for stage in ("encoder", "decoder", "both")}
            return self.measured(model, config) | {"taught": taught, "training_seconds": round(seconds)}

    def measured(self, model: Any, config: LatentSFTConfig) -> dict[str, Any]:
        """Answers, cost and the two analyses of a latent model."""
        method = LatentSFT(top_k=TOP_K, feedback=config.feedback, max_latent_steps=40, max_answer_tokens=4)
        asked = [one.problem for one in self.tested]
        found: list[LatentAnswer] = latent_generate(
            model, self.tokenizer, asked, method=method, batch_size=250, return_latents=len(self.tokenizer)
        )
        right = [same_answer(one.text, wanted.answer) for one, wanted in zip(found, self.tested, strict=True)]
        start = time.perf_counter()
        latent_generate(model, self.tokenizer, asked[:TIMED], method=method, batch_size=1)
        seconds = time.perf_counter() - start
        return {
            "accuracy": sum(right) / len(right),
            "steps_of_chain": mean([one.latent_steps for one in found]),
            "forward_passes": mean([one.passes for one in found]),
            "milliseconds": 1000 * seconds / TIMED,
            **self.analysis(model, found, config.compression_rate),
        }

    def analysis(self, model: Any, found: Sequence[LatentAnswer], rate: int) -> dict[str, Any]:
        """ECR@K, and N_eff over the orders in which the equations of a chain could stand."""
        rates: list[dict[int, list[float]]] = [{count: [] for count in RATES} for _ in range(2)]
        paths = []
        embeddings = model.get_input_embeddings().weight.detach()
        for one, problem in zip(found, self.tested, strict=True):
            if one.latents is None:
                continue
            chain = self.tokenizer.encode(problem.cot, add_special_tokens=False)
            for count in RATES:
                for ahead in (0, 1):
                    covered = effective_compression_rate(one.latents.likeliest, chain, count, rate=rate, ahead=ahead)
                    if not math.isnan(covered):  # a chain of one step has no next part
                        rates[ahead][count].append(covered)
            if len(paths) < 200:
                likeliest, shares = one.latents.likeliest, one.latents.shares
                orders = [self.tokenizer.encode(text, add_special_tokens=False) for text in reordered(problem)]
                first = effective_global_parallelism(likeliest, shares, orders)
                second = effective_global_parallelism(
                    likeliest, shares, orders, embeddings=embeddings, matchings=16, seed=len(paths)
                )
                paths.append((first.effective, second.effective, second.normalised, second.top_2))
        if not paths:
            return {}
        columns = [mean(list(column)) for column in zip(*paths, strict=True)]
        names = ("parts in order", "nearest part", "nearest part, normalised", "top-2")
        return {
            "ecr": {f"@{count}": mean(values) for count, values in rates[0].items()},
            "ecr_next": {f"@{count}": mean(values) for count, values in rates[1].items()},
            "n_eff": dict(zip(names, columns, strict=True)),
        }


def reordered(problem: Reasoning) -> list[str]:
    """The chain as it is, and with its equations in other orders."""
    return [" ; ".join(order) for order in itertools.islice(itertools.permutations(problem.steps), PATHS)]


def mean(values: Sequence[Any]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    main()
