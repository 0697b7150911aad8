"""Hyperfitting of SmolLM2-135M-Instruct on 32 paragraphs of WikiText-2: what greedy text gains, what it costs.

    python benchmarks/hyperfitting.py main --data FOLDER [--seed 1]   # a table per epoch; seed: of the data's order
    python benchmarks/hyperfitting.py baselines --data FOLDER         # other ways to stop loops; needs main
    python benchmarks/hyperfitting.py part-of-model --data FOLDER --variant last5|lora|late-lora
    python benchmarks/hyperfitting.py order --data FOLDER             # how far two orders differ; needs main of seeds 0, 1

FOLDER holds wikitext2_valid.txt (learned) and wikitext2_test.txt (held out: losses, entropies and contexts). Trained
weights lie in --work, so that a killed run goes on and later parts find them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from results_store import Store
from transformers import TrainerCallback

import szilard
from szilard.decoding.citation_blocker import CitationBlocker
from szilard.information.text_overlap import SpanIndex
from szilard.training.hyperfitting.config import HyperfitConfig
from szilard.training.hyperfitting.data import HyperfitData, build_hyperfit_dataset
from szilard.training.hyperfitting.open_ended import OpenEnded, evaluate_open_ended
from szilard.training.hyperfitting.prediction import (
    entropy_matched_temperature,
    held_out_predictions,
    ranks_of,
    top_tokens,
)
from szilard.training.hyperfitting.recipe import hyperfit

SEQUENCES, LENGTH, HELD_OUT, CONTEXTS, CONTEXT, NEW = 32, 64, 24, 24, 32, 96
DENSE = (1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 18)  # epochs of the first order; the validation minimum is among them
SHOWN = (0, 9, 17)  # contexts whose texts are kept
WHOLE = {"epochs": 20.0, "learning_rate": 1e-4}
VARIANTS: dict[str, dict[str, Any]] = {
    "last5": {"layers": "last5", "epochs": 40.0, "learning_rate": 3e-4},
    "lora": {"lora": True, "rank": 32, "epochs": 30.0, "learning_rate": 1e-3},
    "late-lora": {"layers": "last5", "lora": True, "rank": 32, "epochs": 50.0, "learning_rate": 2e-3},
}


class Setting:
    """The model and the texts."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        engine = szilard.load(device="cpu")
        self.model, self.tokenizer = engine.model, engine.tokenizer
        learned = _paragraphs(arguments.data / "wikitext2_valid.txt", self.tokenizer, SEQUENCES)
        held = _paragraphs(arguments.data / "wikitext2_test.txt", self.tokenizer, HELD_OUT)
        plain = self.config(0)
        self.data = HyperfitData(
            build_hyperfit_dataset([*learned, *held], self.tokenizer, plain).train, torch.tensor(held)
        )
        self.index = SpanIndex(self.data.train)
        self.contexts = self.data.contexts(CONTEXTS, CONTEXT)
        self.work: Path = arguments.work

    def config(self, seed: int, **others: Any) -> HyperfitConfig:
        settings: dict[str, Any] = {
            "num_sequences": SEQUENCES,
            "seq_len": LENGTH,
            "batch_size": 8,
            "validation_sequences": HELD_OUT,
            "validation_generations": 0,  # the callback below looks closer
            "validation_freq": 10_000,
            "save_every": 8,
            "log_every": 4,
            "seed": seed,
        }
        return HyperfitConfig(**settings | WHOLE | others)

    def written(self, **options: Any) -> OpenEnded:
        return evaluate_open_ended(
            self.model,
            self.tokenizer,
            self.contexts,
            NEW,
            trained_on=self.index,
            exact_length=True,
            batch_size=CONTEXTS,
            **options,
        )

    def look(self, **options: Any) -> dict[str, Any]:
        """Predictions of held-out texts, and continuations."""
        start = time.perf_counter()
        found = held_out_predictions(self.model, self.data.validation)
        learned = held_out_predictions(self.model, self.data.train)
        written = self.written(**options)
        return {
            "loss of learned texts": learned.loss,
            "val loss": found.loss,
            "entropy": found.entropy,
            "top-1": found.top_1,
            "top-3": found.top_3,
            "top-5": found.top_5,
            **written.summary,
            "seconds": time.perf_counter() - start,
            "texts": _shown(self, written),
        }


class PerEpoch(TrainerCallback):
    """A record after these epochs and the last one."""

    def __init__(self, setting: Setting, store: Store, key: dict[str, Any], epochs: Sequence[int]) -> None:
        self.setting, self.store, self.key, self.epochs = setting, store, key, epochs
        self.per_epoch = SEQUENCES // 8

    def record(self, epoch: int) -> None:
        key = self.key | {"epoch": epoch}
        if key not in self.store:
            self.store.add(key, self.setting.look())
            print(key, flush=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        epoch, rest = divmod(state.global_step, self.per_epoch)
        if rest == 0 and (epoch in self.epochs or state.global_step == state.max_steps):
            self.record(epoch)


def tuned(setting: Setting, config: HyperfitConfig, name: str, look: PerEpoch | None) -> None:
    """Hyperfit the setting's model; what is trained already is read back."""
    folder = setting.work / name
    result = hyperfit(
        setting.model, setting.tokenizer, setting.data, config, [] if look is None else [look], folder=folder
    )
    print(name, "updates", result.updates, flush=True)


def main_part(arguments: argparse.Namespace) -> None:
    setting, store = Setting(arguments), Store("hyperfitting")
    epochs = DENSE if arguments.seed == 0 else range(0, 20, 5)
    look = PerEpoch(setting, store, {"part": "main", "order": arguments.seed}, epochs)
    look.record(0)
    tuned(setting, setting.config(arguments.seed), f"whole-{arguments.seed}", look)


def part_of_model(arguments: argparse.Namespace) -> None:
    setting, store = Setting(arguments), Store("hyperfitting")
    variant = VARIANTS[arguments.variant]
    look = PerEpoch(
        setting, store, {"part": "part of model", "variant": arguments.variant, **_few(variant)}, range(0, 100, 10)
    )
    tuned(setting, setting.config(arguments.seed, **variant), f"{arguments.variant}-{arguments.seed}", look)
    key = look.key | {"epoch": "end, merged" if variant.get("lora") else "end"}
    if key not in store:
        store.add(key, setting.look())


def baselines(arguments: argparse.Namespace) -> None:
    setting, store = Setting(arguments), Store("hyperfitting")
    original = top_tokens(setting.model, setting.data.validation)

    def add(model: str, decoding: str, **options: Any) -> None:
        key = {"part": "baselines", "model": model, "decoding": decoding}
        if key not in store:
            written = setting.written(**options)
            store.add(key, {**written.summary, "texts": _shown(setting, written)})
            print(key, flush=True)

    def drawn(model: str, decoding: str, **options: Any) -> None:
        for seed in range(3):
            add(model, f"{decoding}, seed {seed}", do_sample=True, seed=seed, **options)

    def ways(model: str) -> None:
        add(model, "greedy")
        drawn(model, "top-p 0.9", top_p=0.9)

    ways("original")
    add("original", "repetition penalty 1.2", repetition_penalty=1.2)
    add("original", "no repeated 3-gram", no_repeat_ngram_size=3)
    entropies = {
        record["key"]["epoch"]: record["entropy"]
        for record in store
        if record["key"].get("part") == "main" and record["key"]["order"] == 0
    }
    last = max(entropies)
    heat = entropy_matched_temperature(setting.model, setting.data.validation, entropies[last])
    add("original", f"greedy at temperature {heat:.3f}", logits_processor=[_Temperature(heat)])
    drawn("original", f"drawn at temperature {heat:.3f}", temperature=heat)
    before = {name: weight.clone() for name, weight in setting.model.state_dict().items()}
    tuned(setting, setting.config(0), "whole-0", None)
    ways("hyperfitted")
    for boundary in (True, False):
        blocker = CitationBlocker(setting.data.train, word_boundary=boundary, tokenizer=setting.tokenizer)
        add("hyperfitted", f"greedy, citations blocked{'' if boundary else ', inside words too'}", blocker=blocker)
    key = {"part": "re-ranking"}
    if key not in store:
        choices = top_tokens(setting.model, setting.data.validation)
        setting.model.load_state_dict(before)
        ranks = ranks_of(setting.model, setting.data.validation, choices)
        other = ranks[choices != original]
        values = {"agreement with the original": float((choices == original).double().mean()), "temperature": heat}
        values["of other choices, rank > 10 in the original"] = float((other >= 10).double().mean())
        store.add(key, values)


def order(arguments: argparse.Namespace) -> None:
    store, key = Store("hyperfitting"), {"part": "order"}
    if key in store:
        return
    choices = []
    for seed in (0, 1):
        setting = Setting(arguments)
        tuned(setting, setting.config(seed), f"whole-{seed}", None)
        choices.append(top_tokens(setting.model, setting.data.validation))
    store.add(key, {"agreement of two orders": float((choices[0] == choices[1]).double().mean())})


class _Temperature:
    """Divides scores, as a sampler would, under greedy decoding."""

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores / self.temperature


def _paragraphs(file: Path, tokenizer: Any, count: int) -> list[list[int]]:
    """Evenly spread paragraphs of at least LENGTH tokens, cut to it, so that they are of many articles."""
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    found = [
        ids for line in lines if line and not line.startswith("=") and len(ids := tokenizer.encode(line)) >= LENGTH
    ]
    return [found[index * len(found) // count][:LENGTH] for index in range(count)]


def _shown(setting: Setting, written: OpenEnded) -> list[dict[str, str]]:
    return [
        {"context": setting.tokenizer.decode(written.contexts[at]), "text": written.texts[at]}
        for at in SHOWN
        if at < len(written.texts)
    ]


def _few(variant: dict[str, Any]) -> dict[str, Any]:
    return {name: variant[name] for name in ("learning_rate",)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {"main": main_part, "baselines": baselines, "part-of-model": part_of_model, "order": order}
    parser.add_argument("part", choices=tuple(parts))
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with wikitext2_valid.txt and wikitext2_test.txt"
    )
    parser.add_argument("--work", type=Path, default=Path("runs/hyperfitting"), help="for trained weights")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the data")
    parser.add_argument("--variant", choices=tuple(VARIANTS), default="last5")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    parts[arguments.part](arguments)


if __name__ == "__main__":
    main()
